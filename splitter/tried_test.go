package splitter

import (
	"fmt"
	"testing"
)

// leastSteps is what the model of a stream has to go through: each is one thing
// that a peer does, that is heard, or that the stream asks for.
const leastSteps = 2_000_000

// tried counts what the model has tried, by words.
type tried map[string]int

// act counts an act of the stream's: by what it was, and what it met.
func (t tried) act(s stream, from side, a act, o outcome) {
	name := map[act]string{actRecv: "receive", actSend: "send", actDraw: "draw", actPour: "pour", actShut: "FIN"}[a]
	t[fmt.Sprintf("%s from %d", name, from)]++
	gives := a == actSend || a == actPour
	switch {
	case o.kind == unable:
		t[fmt.Sprintf("%s from %d fails", name, from)]++
	case o.kind == failed:
		t[fmt.Sprintf("%s from %d finds an RST", name, from)]++
	case gives && o.kind == moved && o.n < int(s.ways[from].held):
		t[fmt.Sprintf("%s from %d is taken in part", name, from)]++
	case gives && o.kind == moved && s.ways[from.other()].shut:
		t[fmt.Sprintf("%s from %d behind the other's FIN", name, from)]++
	}
}

// reset counts an RST of a side: by what the stream has of its own then.
func (t tried) reset(s stream, from side) {
	if s.ways[from].held > 0 {
		t[fmt.Sprintf("%d resets while bytes of it are held", from)]++
	}
	if s.ways[from.other()].held > 0 {
		t[fmt.Sprintf("%d resets while bytes for it are held", from)]++
	}
	if s.ways[from].shut {
		t[fmt.Sprintf("%d resets behind its FIN", from)]++
	}
	if s.ways[from.other()].shut {
		t[fmt.Sprintf("%d resets behind the other's FIN", from)]++
	}
}

func (t tried) add(more tried) {
	for what, n := range more {
		t[what] += n
	}
}

// judge fails a test that has not tried everything several times, for both sides.
func (t tried) judge(tb testing.TB) {
	tb.Helper()
	const often = 5
	want := []string{"a tee ends"}
	for from := range 2 {
		for _, act := range []string{"receive", "send", "draw", "pour", "FIN"} {
			want = append(want, fmt.Sprintf("%s from %d", act, from))
		}
		for _, act := range []string{"receive", "send", "draw", "pour", "FIN"} {
			want = append(want, fmt.Sprintf("%s from %d finds an RST", act, from))
		}
		for _, act := range []string{"draw", "pour"} {
			want = append(want, fmt.Sprintf("%s from %d fails", act, from))
		}
		for _, act := range []string{"send", "pour"} {
			want = append(want, fmt.Sprintf("%s from %d is taken in part", act, from), fmt.Sprintf("%s from %d behind the other's FIN", act, from))
		}
		for _, when := range []string{"while bytes of it are held", "while bytes for it are held", "behind its FIN", "behind the other's FIN"} {
			want = append(want, fmt.Sprintf("%d resets %s", from, when))
		}
	}
	for _, what := range want {
		if t[what] < often {
			tb.Errorf("%q was tried %d times, want %d at least", what, t[what], often)
		}
	}
}
