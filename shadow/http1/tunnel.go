package http1

import (
	"fmt"
	"strconv"
	"time"

	"github.com/splitd/splitd/shadow"
)

// A tunnel is what follows 101 Switching Protocols: bytes of a protocol that is not
// known. Where [Upgraded] is allowed the candidate gets the client's, and what both
// servers say is compared to the first byte that differs. It is one exchange.
type tunnel struct {
	endpoint string
	keep     int
	refused  string // why the client's bytes are not sent
	verdict  shadow.Verdict
	reason   string

	open                bool // the candidate has switched too
	unsent              []byte
	lead                shadow.Party // who has said what the other has not yet
	ahead               []byte
	same                int64 // bytes that both have said
	differs             bool
	left                bool // the client has: what is said behind that nobody hears
	primary, candidate  shadow.Reply
	primaryE, candidatE shadow.End
}

func newTunnel(s *session, e *exchange) *tunnel {
	path := pathOf(e.request.target)
	t := &tunnel{endpoint: s.names.endpoint(Upgraded, path), keep: s.keep}
	switch {
	case s.control:
		t.refused = "what follows 101 is not sent a second time"
	case !s.options.allows(Upgraded, path):
		t.refused = "what follows 101 is sent only where " + Upgraded + " is allowed for the path"
	}
	return t
}

func (t *tunnel) held() int { return overhead + cap(t.unsent) + cap(t.ahead) }

// owed says whether all is waited for the candidate.
func (t *tunnel) owed() bool {
	return t.open && t.primaryE != shadow.Open && t.candidatE == shadow.Open
}

// begin is told how the exchange has ended that asked for the tunnel.
func (t *tunnel) begin(s *session, e *exchange) {
	switch {
	case e.verdict == shadow.CandidateError:
		t.give(s, shadow.AfterDivergence, "the candidate has not answered the upgrade")
	case e.verdict != "":
		t.give(s, e.verdict, e.reason)
	case e.candidate.head.status != 101:
		t.give(s, shadow.AfterDivergence, "the candidate has not switched protocols")
	case t.refused != "":
		t.give(s, shadow.Skipped, t.refused)
	case t.verdict != "":
		t.give(s, t.verdict, t.reason)
	default:
		t.open = true
		t.send(s, t.unsent)
		t.unsent = nil
		t.hearCandidate(s, s.early)
		s.early = nil
		s.moves.FIN = s.clientOver
	}
}

// give ends the tunnel with a verdict of its own.
func (t *tunnel) give(s *session, verdict shadow.Verdict, reason string) {
	s.emit(shadow.Exchange{Endpoint: t.endpoint, Verdict: verdict, Reason: reason, Primary: t.primary, Candidate: t.candidate})
	s.tunnel, s.over, s.moves.FIN = nil, true, true
}

func (t *tunnel) truncate(what string) {
	t.verdict, t.reason = shadow.Truncated, fmt.Sprintf("%s more than %d bytes ahead", what, t.keep)
	t.unsent, t.ahead = nil, nil
}

// send gives the candidate what the client has said.
func (t *tunnel) send(s *session, b []byte) {
	asked(&t.candidate, b, s.now)
	s.moves.Send = append(s.moves.Send, b...)
}

func (t *tunnel) hearClient(s *session, b []byte) {
	asked(&t.primary, b, s.now)
	switch {
	case t.open:
		t.send(s, b)
	case t.refused != "" || t.verdict != "":
	case len(t.unsent)+len(b) > t.keep:
		t.truncate("client is")
	default:
		t.unsent = append(t.unsent, b...)
	}
}

func (t *tunnel) hearPrimary(s *session, b []byte) {
	count(&t.primary, b, s.now)
	if t.refused == "" {
		t.say(shadow.Primary, b)
	}
}

func (t *tunnel) hearCandidate(s *session, b []byte) {
	count(&t.candidate, b, s.now)
	t.say(shadow.Candidate, b)
}

// asked notes when a server was sent the client's first byte, which is all that is known
// of when it was asked.
func asked(r *shadow.Reply, b []byte, at time.Time) {
	if len(b) > 0 && r.Asked.IsZero() {
		r.Asked = at
	}
}

func count(r *shadow.Reply, b []byte, at time.Time) {
	if len(b) == 0 {
		return
	}
	if r.First.IsZero() {
		r.First = at
	}
	r.Last, r.Bytes = at, r.Bytes+int64(len(b))
}

// say compares what a server says with what the other has said before.
func (t *tunnel) say(who shadow.Party, b []byte) {
	if t.verdict != "" || t.differs {
		return
	}
	if t.lead != who {
		n := min(len(b), len(t.ahead))
		for i := range n {
			if b[i] != t.ahead[i] {
				t.differ(who, b[i], t.ahead[i], i)
				return
			}
		}
		t.same += int64(n)
		t.ahead, b = t.ahead[n:], b[n:]
	}
	if len(b) == 0 {
		return
	}
	t.lead = who
	if len(t.ahead)+len(b) > t.keep {
		t.truncate([...]string{"", "primary is", "candidate is"}[who])
		return
	}
	t.ahead = append(t.ahead, b...)
}

func (t *tunnel) differ(who shadow.Party, said, other byte, at int) {
	t.differs = true
	t.same += int64(at)
	if who == shadow.Primary {
		said, other = other, said
	}
	t.candidate.Fields = []shadow.Field{t.field("stream", fmt.Sprintf("byte %d is %#02x", t.same, said))}
	t.primary.Fields = []shadow.Field{t.field("stream", fmt.Sprintf("byte %d is %#02x", t.same, other))}
}

func (t *tunnel) field(path, value string) shadow.Field {
	return shadow.Field{Path: path, Value: value, Level: shadow.Semantic, Plain: true}
}

func (t *tunnel) clientEnds(s *session, end shadow.End) {
	t.left = end == shadow.Reset
	s.moves.FIN = t.open
}

func (t *tunnel) primaryEnds(end shadow.End)   { t.primaryE = end }
func (t *tunnel) candidateEnds(end shadow.End) { t.candidatE = end }

// proceed returns the exchange when it is known how it ends.
func (t *tunnel) proceed(s *session) {
	switch {
	case !t.open:
	case t.verdict != "":
		t.give(s, t.verdict, t.reason)
	case t.differs:
		t.give(s, "", "")
	case t.candidatE == shadow.TimedOut:
		t.give(s, shadow.CandidateError, "candidate does not end where the primary has: timed out")
	case t.left || t.primaryE != shadow.Open && t.candidatE != shadow.Open || t.candidatE != shadow.Open && t.lead == shadow.Primary && len(t.ahead) > 0:
		t.conclude(s)
	}
}

// conclude compares streams that agree as far as both go.
func (t *tunnel) conclude(s *session) {
	primary, candidate := t.primary.Bytes, t.candidate.Bytes
	if t.left { // one only lags
		primary, candidate = t.same, t.same
	}
	t.primary.Fields = []shadow.Field{t.field("stream bytes", strconv.FormatInt(primary, 10))}
	t.candidate.Fields = []shadow.Field{t.field("stream bytes", strconv.FormatInt(candidate, 10))}
	if !t.left && t.primaryE != shadow.Open && t.candidatE != shadow.Open {
		t.primary.Fields = append(t.primary.Fields, t.field("stream end", string(t.primaryE)))
		t.candidate.Fields = append(t.candidate.Fields, t.field("stream end", string(t.candidatE)))
	}
	t.give(s, "", "")
}
