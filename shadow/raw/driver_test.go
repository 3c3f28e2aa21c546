package raw

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/splitd/splitd/shadow"
)

var keep = shadow.Session{Keep: 1 << 10}

// flow makes events of the lines of a script.
func flow(t testing.TB, lines ...string) []shadow.Event {
	t.Helper()
	return parse(t, "=== a flow\n"+strings.Join(lines, "\n"))[0].events
}

func TestNothingIsSentToAControl(t *testing.T) {
	t.Parallel()
	p := play(flow(t, "C DELETE", "P ok"), shadow.Session{Keep: 1 << 10, Control: true})
	if p.sent != "" || !p.moves[0].Done || p.exchange.Verdict != shadow.Skipped {
		t.Errorf("it sends %q, done %v, %+v", p.sent, p.moves[0].Done, p.exchange)
	}
}

func TestTheCandidateOwesWhatThePrimaryHasSaid(t *testing.T) {
	t.Parallel()
	p := play(flow(t, "C ping", `P "pong"`, `N "po"`, `N "ng"`, "P closes", "N closes"), keep)
	var owed []bool
	for _, m := range p.moves {
		owed = append(owed, m.Owed)
	}
	if diff := cmp.Diff([]bool{false, true, true, false, true, false}, owed); diff != "" {
		t.Errorf("owed after each event (-want +got):\n%s", diff)
	}
}

func TestAClientsFINIsPassedOnAndItsResetIsNot(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		lines []string
		want  []bool
	}{
		{[]string{"C ping", "C closes", "P pong", "N pong"}, []bool{false, true, false, false}},
		{[]string{"C ping", "P pong", "C resets", "N pong"}, []bool{false, false, false, true}},
	} {
		var fin []bool
		for _, m := range play(flow(t, test.lines...), keep).moves {
			fin = append(fin, m.FIN)
		}
		if diff := cmp.Diff(test.want, fin); diff != "" {
			t.Errorf("%q: FIN behind each event (-want +got):\n%s", test.lines, diff)
		}
	}
}

// What an operator is told of a flow that differs.
func TestAFlowThatDiffersTellsWhereAndWhatStandsThere(t *testing.T) {
	t.Parallel()
	p := play(flow(t, "C get", `P "the same and yes"`, `N "the same and no!"`, "= closes"), keep)
	got := make(map[string][2]string)
	for _, f := range p.exchange.Request {
		got[f.Path] = [2]string{f.Value}
	}
	for i, f := range p.exchange.Primary.Fields {
		got[f.Path] = [2]string{f.Value, p.exchange.Candidate.Fields[i].Value}
	}
	same := fmt.Sprintf("%x | ", "the same and ")
	want := map[string][2]string{
		"bytes of the client": {"4"}, "bytes alike": {"13"}, "ended first": {"nobody"},
		"bytes": {"0x79", "0x6e"}, "offset": {"13", "13"},
		"hash":    {},
		"context": {same + fmt.Sprintf("%x", "yes"), same + fmt.Sprintf("%x", "no!")},
	}
	got["hash"] = want["hash"] // another test knows it
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if p.exchange.Primary.Bytes != 16 || p.exchange.Candidate.Bytes != 16 {
		t.Errorf("they have said %d and %d bytes", p.exchange.Primary.Bytes, p.exchange.Candidate.Bytes)
	}
}

// FNV-1a of 64 bits of "foobar" is 0x85944171f73967e8, by its authors' list.
func TestWhatIsAlikeHasItsHash(t *testing.T) {
	t.Parallel()
	for _, lines := range [][]string{{`= "foobar"`, "= closes"}, {`= "foobar"`, "P x", "N y"}, {`= "foobar"`, "N closes", "P x"}} {
		x := play(flow(t, lines...), keep).exchange
		for _, r := range []shadow.Reply{x.Primary, x.Candidate} {
			if got := value(r, "hash"); got != "fnv1a64 85944171f73967e8" {
				t.Errorf("%q: the hash is %q", lines, got)
			}
		}
	}
}

func TestSixtyFourBytesOfEachSideStandAroundADifference(t *testing.T) {
	t.Parallel()
	x := play(flow(t, "= @100 ab", "P @100 cd", "N @100 ef", "= closes"), keep).exchange
	before := strings.Repeat("6162", 32)
	want := [2]string{before + " | " + strings.Repeat("6364", 32), before + " | " + strings.Repeat("6566", 32)}
	if diff := cmp.Diff(want, [2]string{value(x.Primary, "context"), value(x.Candidate, "context")}); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestWhoEndsFirstIsTold(t *testing.T) {
	t.Parallel()
	for want, lines := range map[string][]string{
		"the client":    {"C ping", "C closes", "= closes"},
		"the primary":   {"C ping", "P closes", "C closes", "N closes"},
		"the candidate": {"C ping", "N closes", "C closes", "P closes"},
		"nobody":        {"P x", "N y"},
	} {
		x := play(flow(t, lines...), keep).exchange
		if got := x.Request[2]; got.Path != "ended first" || got.Value != want {
			t.Errorf("%q: %+v, want %s", lines, got, want)
		}
	}
}

// The script's events are a millisecond apart.
func TestAnswersAreTimedFromTheClientsFirstByte(t *testing.T) {
	t.Parallel()
	x := play(flow(t, "C ping", "P po", "P ng", "N po", "C more", "N ng", "= closes"), keep).exchange
	got := [4]time.Duration{
		x.Primary.First.Sub(x.Primary.Asked), x.Primary.Last.Sub(x.Primary.Asked),
		x.Candidate.First.Sub(x.Candidate.Asked), x.Candidate.Last.Sub(x.Candidate.Asked),
	}
	if diff := cmp.Diff([4]time.Duration{1e6, 2e6, 3e6, 5e6}, got); diff != "" {
		t.Errorf("first and last byte of both (-want +got):\n%s", diff)
	}
	if x := play(flow(t, "= hello", "= closes"), keep).exchange; !x.Primary.Asked.IsZero() {
		t.Error("a server that speaks first has been asked")
	}
}

// Whichever server is ahead, and however far: what is held has a bound.
func TestAServerThatIsFarAheadCostsBoundedMemory(t *testing.T) {
	t.Parallel()
	const keep, chunk = 4 << 10, 1 << 10
	said := bytes.Repeat([]byte("x"), chunk)
	for _, who := range []shadow.Party{shadow.Primary, shadow.Candidate} {
		var events []shadow.Event
		for range 1000 {
			events = append(events, shadow.Event{From: who, Bytes: said})
		}
		p := play(events, shadow.Session{Keep: keep})
		if p.exchange.Verdict != shadow.Truncated || len(p.moves) > keep/chunk+1 {
			t.Errorf("behind %d chunks it is %q", len(p.moves), p.exchange.Verdict)
		}
		if p.held > 2*(keep+chunk)+context {
			t.Errorf("it holds %d bytes", p.held)
		}
	}
	// In step it goes on for ever.
	var events []shadow.Event
	for range 1000 {
		events = append(events, shadow.Event{From: shadow.Primary, Bytes: said}, shadow.Event{From: shadow.Candidate, Bytes: said})
	}
	if p := play(events, shadow.Session{Keep: keep}); p.exchange.Verdict != shadow.Dropped || p.exchange.Primary.Bytes != 1000*chunk || p.held > 2*(keep+chunk)+2*context {
		t.Errorf("%d bytes in step: %q, %d bytes held", p.exchange.Primary.Bytes, p.exchange.Verdict, p.held)
	}
}

// However small the steps in which the other server follows, each byte is moved a
// few times: a candidate that drips has no way to keep a processor busy.
func TestADrippingCandidateCostsNoMoreThanItsBytes(t *testing.T) {
	t.Parallel()
	r := newRace()
	const length = 1 << 18
	said := bytes.Repeat([]byte("x"), length)
	r.say(primary, said)
	moved := 0
	for range length {
		r.say(candidate, said[:1])
		gone := r.gone
		r.say(primary, said[:1])
		if r.gone < gone {
			moved += r.length()
		}
	}
	if moved > 4*length {
		t.Errorf("%d bytes are moved for %d", moved, length)
	}
	if r.held() > 4*length {
		t.Errorf("it holds %d bytes", r.held())
	}
}

// However the bytes are cut and whoever is first, the same comes of them.
func TestWhatComesOfAFlowDoesNotDependOnHowItsBytesAreCut(t *testing.T) {
	t.Parallel()
	random := rand.New(rand.NewPCG(3, 4))
	for round := range 150 {
		s := generator{random}.flow(round%2 == 0)
		want := judge(play(s.events, keep64).exchange, nil)
		for _, events := range [][]shadow.Event{bytewise(s.events), lagging(s.events), bytewise(lagging(s.events))} {
			if diff := cmp.Diff(want, judge(play(events, keep64).exchange, nil), cmp.AllowUnexported(judged{})); diff != "" {
				t.Fatalf("round %d (-as it was +otherwise):\n%s", round, diff)
			}
		}
	}
}

var keep64 = shadow.Session{Keep: 64 << 10}

// What the candidate gets is what the client says, in order, and nothing else.
func TestTheCandidateGetsTheClientsBytesAndNoOthers(t *testing.T) {
	t.Parallel()
	random := rand.New(rand.NewPCG(5, 6))
	for round := range 500 {
		s := generator{random}.flow(round%2 == 0)
		var said []byte
		for _, e := range s.events {
			if e.From == shadow.Client {
				said = append(said, e.Bytes...)
			}
		}
		if p := play(s.events, keep64); !bytes.HasPrefix(said, []byte(p.sent)) {
			t.Fatalf("round %d: it sends %q of %q", round, p.sent, said)
		}
	}
}

// seeds are all labelled flows in the form of FuzzFlow.
func seeds(f *testing.F) {
	f.Helper()
	for _, s := range truths(f) {
		var input []byte
		for _, e := range s.events {
			what := byte(e.From)
			if i := slices.Index([]shadow.End{shadow.Closed, shadow.Reset, shadow.Refused, shadow.TimedOut}, e.End); i >= 0 {
				what += 3 * byte(1+i)
			}
			n := min(len(e.Bytes), 255)
			input = append(append(input, what, byte(n)), e.Bytes[:n]...)
		}
		f.Add(input)
	}
}

// Whatever comes: no panic, one exchange, no more held than may be, and what is sent
// is what the client said.
func FuzzFlow(f *testing.F) {
	seeds(f)
	f.Fuzz(func(t *testing.T, input []byte) {
		const keep = 64
		d := New()(shadow.Session{Keep: keep})
		var said, sent []byte
		exchanges := 0
		take := func(all []shadow.Exchange) {
			exchanges += len(all)
			for _, x := range all {
				if (x.Verdict == "") != (len(x.Primary.Fields) > 0) || (x.Verdict == "") != (len(x.Candidate.Fields) > 0) {
					t.Fatalf("%q has %d and %d fields", x.Verdict, len(x.Primary.Fields), len(x.Candidate.Fields))
				}
			}
		}
		for len(input) >= 2 {
			what, n := input[0]%15, min(int(input[1]), len(input)-2)
			e := shadow.Event{From: shadow.Party(what % 3), Bytes: input[2 : 2+n]}
			e.End = [...]shadow.End{shadow.Open, shadow.Closed, shadow.Reset, shadow.Refused, shadow.TimedOut}[what/3]
			input = input[2+n:]
			if e.From == shadow.Client {
				said = append(said, e.Bytes...)
			}
			m := d.Hear(e)
			take(m.Exchanges)
			if sent = append(sent, m.Send...); !bytes.HasPrefix(said, sent) {
				t.Fatalf("it sends %q of %q", sent, said)
			}
			if held := d.Held(); held > 4*(keep+256)+4*context {
				t.Fatalf("%d bytes are held", held)
			}
			if m.Done {
				break
			}
		}
		if take(d.Stop(shadow.Dropped, "over")); exchanges != 1 {
			t.Fatalf("%d exchanges, want 1", exchanges)
		}
	})
}
