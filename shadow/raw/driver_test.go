package raw

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/splitd/splitd/shadow"
)

// A script is what the parties of a flow do, a line each: a letter for the party
// (c, p, n for the candidate), then ">" and what it says, or "." and how it ends.
func script(t testing.TB, lines ...string) []shadow.Event {
	t.Helper()
	var events []shadow.Event
	now := time.Unix(1000, 0)
	for _, line := range lines {
		now = now.Add(time.Millisecond)
		e := shadow.Event{From: map[byte]shadow.Party{'c': shadow.Client, 'p': shadow.Primary, 'n': shadow.Candidate}[line[0]], At: now}
		switch line[1] {
		case '>':
			e.Bytes = []byte(line[2:])
		case '.':
			e.End = shadow.End(line[2:])
		default:
			t.Fatalf("no line of a script: %q", line)
		}
		events = append(events, e)
	}
	return events
}

// played is what became of a flow, for people.
type played struct {
	Sent     string
	Exchange string
	Differs  []string
}

func play(events []shadow.Event, session shadow.Session) (p played, moves []shadow.Moves) {
	d := New()(session)
	var all []shadow.Exchange
	for _, e := range events {
		m := d.Hear(e)
		moves = append(moves, m)
		p.Sent += string(m.Send)
		all = append(all, m.Exchanges...)
		if m.Done {
			break
		}
	}
	all = append(all, d.Stop(shadow.Dropped, "the script is over")...)
	if len(all) != 1 {
		p.Exchange = fmt.Sprintf("%d exchanges", len(all))
		return p, moves
	}
	p.Exchange = strings.TrimSuffix(fmt.Sprintf("%s, %s", all[0].Verdict, all[0].Reason), ", ")
	if all[0].Verdict == "" {
		p.Exchange = "compared"
	}
	for _, difference := range shadow.Differences(all[0], nil) {
		p.Differs = append(p.Differs, fmt.Sprintf("%s %s: %s %s", difference.Level, difference.Path, difference.Expected, difference.Got))
	}
	return p, moves
}

var keep = shadow.Session{Keep: 1 << 10}

func TestFlowsAreComparedUpToTheFirstByteThatDiffers(t *testing.T) {
	for name, test := range map[string]struct {
		script []string
		want   played
	}{
		"the same": {
			[]string{"c>ping", "p>pong", "n>pong", "c.closed", "p.closed", "n.closed"},
			played{Sent: "ping", Exchange: "compared"},
		},
		"the candidate first": {
			[]string{"n>hello", "p>hel", "p>lo", "n.closed", "p.closed"},
			played{Exchange: "compared"},
		},
		"another byte": {
			[]string{"c>ping", "p>pong", "n>po", "n>ny", "c>this answers pong"},
			played{Sent: "ping", Exchange: "compared", Differs: []string{"semantic bytes: 0x67 0x79", "text context: 706f6e | 67 706f6e | 79"}},
		},
		"the candidate says less": {
			[]string{"p>all of it", "p.closed", "n>all", "n.closed"},
			played{Exchange: "compared", Differs: []string{
				"semantic hash: e79afe320f95896a e6f09b190519daa4", "semantic length: 9 3",
			}},
		},
		"the candidate says more": {
			[]string{"p>all", "p.closed", "n>all of it", "n.closed"},
			played{Exchange: "compared", Differs: []string{
				"semantic hash: e6f09b190519daa4 e79afe320f95896a", "semantic length: 3 9",
			}},
		},
		"the candidate resets": {
			[]string{"p>all", "n>all", "n.reset", "p.closed"},
			played{Exchange: "compared", Differs: []string{"verdict end: closed reset"}},
		},
		"the candidate ends too early": {
			[]string{"p>one", "n>one", "n.closed", "p>two"},
			played{Exchange: "compared", Differs: []string{
				"verdict end: open closed", "semantic hash: 3da7b75d9083a0d7 1a08aa1921ca5caf", "semantic length: 6 3",
			}},
		},
		"the candidate cannot be connected": {
			[]string{"c>ping", "n.refused", "p.closed"},
			played{Sent: "ping", Exchange: "candidate_error, refused", Differs: []string{"verdict reply: a reply refused"}},
		},
		"it says nothing for too long": {
			[]string{"c>ping", "p>pong", "p.closed", "n.timed out"},
			played{Sent: "ping", Exchange: "candidate_error, timed out", Differs: []string{"verdict reply: a reply timed out"}},
		},
		"TLS": {
			[]string{"c>\x16\x03\x01\x02", "p>\x16\x03\x03"},
			played{Exchange: "opaque, TLS, from byte 0 of the client on"},
		},
		"far ahead": {
			[]string{"p>" + strings.Repeat("x", 700), "p>" + strings.Repeat("x", 700), "n>xx"},
			played{Exchange: "truncated, one server is over 1024 bytes ahead of the other, at byte 0"},
		},
		"nothing at all": {[]string{"c.closed"}, played{Exchange: "dropped, the script is over"}},
	} {
		t.Run(name, func(t *testing.T) {
			got, _ := play(script(t, test.script...), keep)
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestNothingIsSentToAControl(t *testing.T) {
	got, moves := play(script(t, "c>DELETE", "p>ok"), shadow.Session{Keep: 1 << 10, Control: true})
	if got.Sent != "" || !moves[0].Done || !strings.HasPrefix(got.Exchange, "skipped, ") {
		t.Errorf("%+v, done %v", got, moves[0].Done)
	}
}

func TestTheCandidateOwesWhatThePrimaryHasSaid(t *testing.T) {
	_, moves := play(script(t, "c>ping", "p>pong", "n>po", "n>ng", "p.closed", "n.closed"), keep)
	var owed []bool
	for _, m := range moves {
		owed = append(owed, m.Owed)
	}
	if diff := cmp.Diff([]bool{false, true, true, false, true, false}, owed); diff != "" {
		t.Errorf("owed after each event (-want +got):\n%s", diff)
	}
}

func TestTheClientsFINIsPassedOn(t *testing.T) {
	_, moves := play(script(t, "c>ping", "c.closed", "p>pong"), keep)
	if moves[0].FIN || !moves[1].FIN || moves[2].FIN {
		t.Errorf("FIN after %v %v %v, want it after the second event alone", moves[0].FIN, moves[1].FIN, moves[2].FIN)
	}
}

// However the bytes are cut and whoever is first, the same comes of them.
func TestWhatComesOfAFlowDoesNotDependOnHowItsBytesAreCut(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	for round := range 2000 {
		same := make([]byte, r.IntN(300))
		for i := range same {
			same[i] = byte(r.IntN(4))
		}
		says := [2][]byte{append([]byte(nil), same...), append([]byte(nil), same...)}
		if r.IntN(2) == 0 && len(same) > 0 {
			says[1][r.IntN(len(same))] ^= 0x80
		}
		var first played
		for cut := range 4 {
			at, events := [2]int{}, []shadow.Event(nil)
			for at[0] < len(same) || at[1] < len(same) {
				who := r.IntN(2)
				n := min(1+r.IntN(80), len(same)-at[who])
				if cut == 0 {
					n = len(same) - at[who]
				}
				if n > 0 {
					events = append(events, shadow.Event{From: shadow.Party(1 + who), Bytes: says[who][at[who] : at[who]+n], At: time.Unix(1, 0)})
					at[who] += n
				}
			}
			events = append(events, shadow.Event{From: shadow.Primary, End: shadow.Closed}, shadow.Event{From: shadow.Candidate, End: shadow.Closed})
			got, _ := play(events, keep)
			got.Differs = without(got.Differs, "context") // it holds what had come by then
			if cut == 0 {
				first = got
			} else if diff := cmp.Diff(first, got); diff != "" {
				t.Fatalf("round %d (-in one piece +cut):\n%s", round, diff)
			}
		}
	}
}

func without(lines []string, path string) []string {
	var left []string
	for _, line := range lines {
		if !strings.Contains(line, " "+path+": ") {
			left = append(left, line)
		}
	}
	return left
}

// Whatever comes: no panic, one exchange, and no more held than may be.
func FuzzFlow(f *testing.F) {
	f.Add([]byte("\x00\x04ping\x01\x04pong\x02\x04pong\x03\x00\x04\x00\x05\x00"))
	f.Add([]byte("\x01\x03abc\x02\x03abd"))
	f.Add([]byte("\x00\x02\x16\x03"))
	f.Fuzz(func(t *testing.T, input []byte) {
		d := New()(shadow.Session{Keep: 64})
		exchanges := 0
		for len(input) >= 2 {
			what, n := input[0]%6, min(int(input[1]), len(input)-2)
			e := shadow.Event{From: shadow.Party(what % 3), Bytes: input[2 : 2+n]}
			if what >= 3 {
				e.End = shadow.Closed
			}
			input = input[2+n:]
			m := d.Hear(e)
			exchanges += len(m.Exchanges)
			if held := d.Held(); held > 4*(64+256)+4*context {
				t.Fatalf("%d bytes are held", held)
			}
			if m.Done {
				break
			}
		}
		if exchanges += len(d.Stop(shadow.Dropped, "over")); exchanges != 1 {
			t.Fatalf("%d exchanges, want 1", exchanges)
		}
	})
}
