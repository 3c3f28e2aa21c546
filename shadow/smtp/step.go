package smtp

import (
	"slices"
	"strings"
	"time"

	"github.com/splitd/splitd/shadow"
)

// perStep is what a step costs beside its bytes.
const perStep = 256

// A step is one exchange: what the client has said, in the order in which it did,
// and what servers answer.
type step struct {
	command  command
	endpoint string
	unit     []byte // what the candidate has not got yet
	open     bool   // more of it may come: content, a chunk
	last     bool   // BDAT LAST
	size     int64  // of a chunk
	tooLong  bool   // its bytes were more than is kept

	asked   time.Time // when the client had said all of it
	primary *reply

	sent           bool // the candidate has the beginning of it
	ended          bool // and its end
	candidateAsked time.Time
	candidate      *reply
	failed         string // why it will not answer
	dotted         bool   // a chunk with a line of one dot, not sent any further
	excuse         string
	untold         string // why the candidate does not know who says hello, though it was to be told
	done           bool   // it was returned

	// Of STARTTLS: what follows will be seen. Of the handshakes behind it: what they are.
	seen              bool
	tls, candidateTLS *shadow.Handshake

	// A step with a verdict waits for nothing.
	verdict shadow.Verdict
	reason  string
}

// cost is what it holds.
func (s *step) cost() int {
	n := perStep + len(s.unit) + len(s.command.argument)
	if s.primary != nil {
		n += s.primary.cost
	}
	if s.candidate != nil {
		n += s.candidate.cost
	}
	for _, h := range [...]*shadow.Handshake{s.tls, s.candidateTLS} {
		if h != nil {
			n += h.Size()
		}
	}
	return n
}

// request is what an operator needs to know it again.
func (s *step) request() []shadow.Field {
	switch s.command.verb {
	case "MAIL", "RCPT":
		address, parameters := s.command.path()
		fields := []shadow.Field{{Path: "address", Value: address}}
		for _, p := range parameters {
			fields = append(fields, shadow.Field{Path: "parameter", Value: p, Plain: isProtocols(p)})
		}
		return fields
	case "EHLO", "HELO", "LHLO", "VRFY", "EXPN":
		return []shadow.Field{{Path: "argument", Value: s.command.argument}}
	case "BDAT":
		_, _, ok := s.command.chunk()
		return []shadow.Field{{Path: "argument", Value: s.command.argument, Plain: ok}}
	}
	return nil
}

// words are those of the request that a server may repeat in its text, the longest
// first.
func (s *step) words() []string {
	all := []string{s.command.argument}
	if s.command.verb == "MAIL" || s.command.verb == "RCPT" {
		address, _ := s.command.path()
		at := strings.LastIndexByte(address, '@')
		all = []string{address, address[:max(0, at)], address[at+1:]}
	}
	all = slices.DeleteFunc(all, func(w string) bool { return len(w) < 3 })
	slices.SortFunc(all, func(a, b string) int { return len(b) - len(a) })
	return all
}

// exchange is what the step has become.
func (s *step) exchange() shadow.Exchange {
	if s.tls != nil {
		return s.handshakes()
	}
	x := shadow.Exchange{
		Endpoint: s.endpoint, Verdict: s.verdict, Reason: s.reason,
		Safe: safe(s.endpoint), Request: s.request(),
	}
	x.Primary.Asked, x.Candidate.Asked = s.asked, s.candidateAsked
	for _, half := range []struct {
		from *reply
		to   *shadow.Reply
	}{{s.primary, &x.Primary}, {s.candidate, &x.Candidate}} {
		if half.from != nil {
			half.to.First, half.to.Last, half.to.Bytes = half.from.first, half.from.last, half.from.bytes
		}
	}
	x.Primary.Fields, x.Candidate.Fields = fieldsOf(s)
	if s.excuse != "" {
		underExcuse(s.excuse, x.Primary.Fields)
		underExcuse(s.excuse, x.Candidate.Fields)
	}
	if s.untold != "" && s.candidate != nil {
		x.Candidate.Fields = append(x.Candidate.Fields, shadow.Field{Path: untold, Value: s.untold, Plain: true})
	}
	return x
}
