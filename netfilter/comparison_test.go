package netfilter

import (
	"testing"

	"github.com/splitd/splitd/traffic"
)

func TestTheSameIsComparedOnce(t *testing.T) {
	compared := 0
	compare := func() []string { compared++; return []string{"a difference"} }
	one, other := sight{}, sight{}
	splits := func(change func(*traffic.Split)) []traffic.Split {
		s := []traffic.Split{remoteSplit(1, 0), remoteSplit(1, 500_000)}
		if change != nil {
			change(&s[1])
		}
		return s
	}
	down := func(s *traffic.Split) { s.Candidates[0].Down = s.Candidates[0].Down[:0:0] }
	dead := func(s *traffic.Split) {
		s.Candidates[0].Down = append(s.Candidates[0].Down, s.Candidates[0].Addresses[0].IP)
	}
	var c comparison
	for _, step := range []struct {
		about  string
		have   sight
		splits []traffic.Split
		want   int
	}{
		{"the first time", one, splits(nil), 1},
		{"the same again", one, splits(nil), 1},
		{"something else in the kernel", other, splits(nil), 2},
		{"a backend is down", other, splits(dead), 3},
		{"it is up again", other, splits(down), 4},
		{"a split more", other, append(splits(down), remoteSplit(1, 1)), 5},
		{"nothing in the kernel", nil, splits(nil), 6},
		{"still nothing", nil, splits(nil), 7},
	} {
		if got := c.lines(step.have, step.splits, compare); len(got) != 1 || compared != step.want {
			t.Errorf("%s: %d comparisons so far, want %d (%v)", step.about, compared, step.want, got)
		}
	}
}
