package raw

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/splitd/splitd/shadow"
)

// A generator makes flows with two servers that say the same, cut anywhere and each
// at its own time, and plants a difference where it is told to. Nothing can be tuned
// to it.
type generator struct{ *rand.Rand }

// bytes are what one says in one go: text, or anything.
func (g generator) bytes(most int) []byte {
	b := make([]byte, 1+g.IntN(most))
	text := g.IntN(2) == 0
	for i := range b {
		if b[i] = byte(g.IntN(256)); text {
			b[i] = ' ' + b[i]%95
		}
	}
	return b
}

// cut is a party's bytes in pieces, and how it ends behind them.
func (g generator) cut(from shadow.Party, said []byte, end shadow.End) []shadow.Event {
	var events []shadow.Event
	for len(said) > 0 {
		n := 1 + g.IntN(len(said))
		events = append(events, shadow.Event{From: from, Bytes: said[:n]})
		said = said[n:]
	}
	if end != shadow.Open {
		if n := len(events); n > 0 && g.IntN(2) == 0 {
			events[n-1].End = end
		} else {
			events = append(events, shadow.Event{From: from, End: end})
		}
	}
	return events
}

// merge is what two lists come to when each keeps its order.
func (g generator) merge(a, b []shadow.Event) []shadow.Event {
	var merged []shadow.Event
	for len(a) > 0 && len(b) > 0 {
		if g.IntN(len(a)+len(b)) < len(a) {
			merged, a = append(merged, a[0]), a[1:]
		} else {
			merged, b = append(merged, b[0]), b[1:]
		}
	}
	return slices.Concat(merged, a, b)
}

// flow is a labelled flow; plants says whether a difference is in it.
func (g generator) flow(plants bool) script {
	s := script{keep: 64 << 10, coverage: "compared"}
	// The relayed flow, and what the candidate says of it.
	var relayed []shadow.Event
	var answers []byte
	greets := g.IntN(3) == 0
	for turn := range 1 + g.IntN(5) {
		if turn > 0 || !greets {
			relayed = append(relayed, g.cut(shadow.Client, append([]byte{'!'}, g.bytes(200)...), shadow.Open)...)
		}
		answer := g.bytes(400)
		answers = append(answers, answer...)
		relayed = append(relayed, g.cut(shadow.Primary, answer, shadow.Open)...)
	}
	ends := []shadow.End{shadow.Closed, shadow.Reset}
	end := ends[min(g.IntN(8)/6, 1)]
	got := end
	switch {
	case !plants && g.IntN(4) == 0: // somebody cuts it off: nobody knows how it would have ended
		relayed = append(relayed, shadow.Event{From: shadow.Client, End: shadow.Reset})
		if g.IntN(2) == 0 {
			relayed = append(relayed, shadow.Event{From: shadow.Primary, End: shadow.Reset})
		}
		got = []shadow.End{shadow.Open, shadow.Closed, shadow.Reset}[g.IntN(3)]
	case g.IntN(3) > 0:
		relayed = append(relayed, g.merge([]shadow.Event{{From: shadow.Client, End: shadow.Closed}}, []shadow.Event{{From: shadow.Primary, End: end}})...)
	default:
		relayed = append(relayed, shadow.Event{From: shadow.Primary, End: end})
	}
	if plants {
		answers, got = g.plant(&s, slices.Clone(answers), end)
	}
	s.events = g.merge(relayed, g.cut(shadow.Candidate, answers, got))
	if !greets && len(answers) > 0 { // a candidate that cannot know what it will be asked
		first := slices.IndexFunc(s.events, func(e shadow.Event) bool { return e.From == shadow.Client })
		early := slices.Clone(s.events[:first])
		s.events = append([]shadow.Event{s.events[first]}, append(early, s.events[first+1:]...)...)
	}
	return s
}

// plant changes what the candidate answers, or how it ends.
func (g generator) plant(s *script, answers []byte, end shadow.End) ([]byte, shadow.End) {
	others := slices.DeleteFunc([]shadow.End{shadow.Closed, shadow.Reset, shadow.TimedOut}, func(e shadow.End) bool { return e == end })
	other := others[g.IntN(len(others))]
	at := g.IntN(len(answers))
	switch g.IntN(8) {
	default:
		was := answers[at]
		answers[at] ^= byte(1 + g.IntN(255))
		for i := at + 1; i < len(answers) && g.IntN(3) == 0; i++ {
			answers[i] = byte(g.IntN(256)) // what comes behind the first counts for nothing
		}
		s.differs, s.offset = []string{fmt.Sprintf("flow bytes: %#02x -> %#02x", was, answers[at])}, fmt.Sprint(at)
		return answers, end
	case 3:
		s.differs, s.offset = []string{fmt.Sprintf("flow end: later -> %s", other)}, fmt.Sprint(at)
		s.silent(at, other)
		return answers[:at], other
	case 4:
		s.differs, s.offset = []string{"flow end: later -> closed"}, fmt.Sprint(at)
		s.silent(at, shadow.Closed)
		return answers[:at], shadow.Closed
	case 5:
		s.differs, s.offset = []string{"flow length: shorter -> longer"}, fmt.Sprint(len(answers))
		return append(answers, g.bytes(100)...), end
	case 6:
		s.differs = []string{fmt.Sprintf("flow end: %s -> %s", end, other)}
		return answers, other
	case 7:
		s.differs, s.coverage = []string{"flow reply: a reply -> refused"}, string(shadow.CandidateError)
		return nil, shadow.Refused
	}
}

// silent is a candidate that says nothing at all: it has failed.
func (s *script) silent(at int, end shadow.End) {
	if at == 0 {
		s.differs, s.offset, s.coverage = []string{fmt.Sprintf("flow reply: a reply -> %s", end)}, "", string(shadow.CandidateError)
	}
}

// generate makes n flows of which k, at random places, have a difference.
func generate(seed uint64, n, k int) []script {
	g := generator{rand.New(rand.NewPCG(seed, 8))}
	flows := make([]script, n)
	for at, i := range g.Perm(n) {
		flows[i] = g.flow(at < k)
		flows[i].name = fmt.Sprintf("seed %d, flow %d", seed, i)
	}
	return flows
}

// Whatever is planted where is found, and nothing else is.
func TestWhatIsPlantedAtRandomIsFound(t *testing.T) {
	t.Parallel()
	var total score
	for seed := range uint64(30) {
		k := int(seed * 3)
		found := 0
		for _, s := range generate(seed, 100, k) {
			p := play(s.events, shadow.Session{Keep: s.keep})
			got := judge(p.exchange, nil)
			total.add(s.differs, got.differs)
			found += len(got.differs)
			if !cmp.Equal(s.differs, got.differs, cmpopts.EquateEmpty()) || got.offset != s.offset || got.coverage != s.coverage || p.count != 1 {
				t.Errorf("%s: %+v, %d exchanges, want %q at %q, %s", s.name, got, p.count, s.differs, s.offset, s.coverage)
			}
		}
		if found != k {
			t.Errorf("seed %d: %d differences are found, %d were planted", seed, found, k)
		}
	}
	total.judge(t)
}
