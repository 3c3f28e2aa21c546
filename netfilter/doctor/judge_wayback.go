package doctor

import (
	"net/netip"
	"slices"

	"github.com/splitd/splitd/traffic"
)

// Replies is what is known of the flows that a backend was given since the
// daemon began to look.
type Replies struct {
	// Given are those of which it is known, Answered those of them for which
	// anything at all came back through this host. Attempts that have not waited
	// for an answer as long as traffic.AnswerDue are none of Given.
	Given, Answered uint64
}

// RepliesOf sums evidence up for Question.
func RepliesOf(all []traffic.Evidence) map[traffic.BackendKey]Replies {
	sums := map[traffic.BackendKey]Replies{}
	for _, e := range all {
		key := traffic.BackendKey{Split: e.Split, Backend: e.Backend}
		r := sums[key]
		answered := e.Flows - min(e.Flows, e.HalfOpen+e.Unanswered)
		r.Given += answered + e.Overdue
		r.Answered += answered
		sums[key] = r
	}
	return sums
}

// Silent says that a backend of the split has answered none of the flows that
// it was given, and that these are enough to tell: its replies take another way
// than through this host, or there are none. Datagrams may want no answer: of
// them it is known only where the primary's have had one.
func Silent(replies map[traffic.BackendKey]Replies, s traffic.Split, backend string) bool {
	const enough = 3
	of := func(name string) Replies { return replies[traffic.BackendKey{Split: s.Name, Backend: name}] }
	r := of(backend)
	datagrams := slices.ContainsFunc(s.Service.Ports, func(p traffic.Port) bool { return p.Transport != traffic.TCP })
	if datagrams && of(s.Primary.Name).Answered == 0 {
		return false
	}
	return r.Answered == 0 && r.Given >= enough && s.Return != traffic.ReturnMasquerade
}

// judgeWayBack: a backend whose replies take another way than through this host
// answers our checks and no client. Only flows show it. It warns of each backend
// that is silent, and names one of those of which nothing is known yet.
func judgeWayBack(e *examination) {
	told := map[traffic.BackendKey]bool{}
	var unknown []forward
	for _, w := range e.ways {
		key := traffic.BackendKey{Split: w.split.Name, Backend: w.backend}
		replies := e.Replies[key]
		switch {
		case told[key] || replies.Answered > 0:
		case Silent(e.Replies, *w.split, w.backend):
			e.wayBack(LevelWarning, w, seen("split %q: nothing came back through this host for any of the %d flows that %q (%s) was given %s ago or earlier", w.split.Name, replies.Given, w.backend, w.to.IP, traffic.AnswerDue))
		case w.split.Return == traffic.ReturnPolicy: // else its own routes lead here, whoever made them
			unknown = append(unknown, w)
		}
		told[key] = true
	}
	if len(unknown) > 0 {
		w := unknown[0]
		e.wayBack(LevelNote, w, seen("split %q: no flow has shown yet that replies of %q (%s) come back through this host%s", w.split.Name, w.backend, w.to.IP, more(len(unknown))))
	}
}

func (e *examination) wayBack(level Level, w forward, what string) {
	e.add(Finding{
		Level: level, Seen: what,
		Why: "health checks come from this host and do not see it: without a way back the connections of clients hang",
		Do:  "look on that host whether the way to the address of a client leads through this one:", Cure: wayToClient(w.to.IP),
	})
}

// wayToClient asks for the way to a client whose address the operator fills in.
func wayToClient(from netip.Addr) string {
	if from.Is6() {
		return seen("ip -6 route get CLIENT from %s", from)
	}
	return seen("ip route get CLIENT from %s", from)
}
