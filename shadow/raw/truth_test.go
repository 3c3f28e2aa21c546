package raw

import (
	"fmt"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/splitd/splitd/shadow"
)

// A score is how well differences are told from what is none.
type score struct{ right, wrong, missed int }

func (s *score) add(want, got []string) {
	left := slices.Clone(want)
	for _, g := range got {
		if i := slices.Index(left, g); i >= 0 {
			left = slices.Delete(left, i, i+1)
			s.right++
		} else {
			s.wrong++
		}
	}
	s.missed += len(left)
}

func (s score) String() string {
	return fmt.Sprintf("precision %.4f, recall %.4f (%d right, %d wrong, %d missed)", s.precision(), s.recall(), s.right, s.wrong, s.missed)
}

func (s score) precision() float64 { return float64(s.right) / float64(max(1, s.right+s.wrong)) }
func (s score) recall() float64    { return float64(s.right) / float64(max(1, s.right+s.missed)) }

func (s score) judge(t *testing.T) {
	t.Helper()
	t.Log(s)
	if s.precision() < 0.99 || s.recall() < 0.99 {
		t.Errorf("%v, want 0.99 of both", s)
	}
}

func TestTheTruthSetIsToldFromNoise(t *testing.T) {
	t.Parallel()
	all := truths(t)
	if len(all) < 60 {
		t.Errorf("%d labelled flows, want 60", len(all))
	}
	var total score
	for _, s := range all {
		ways := map[string][]shadow.Event{"as written": s.events}
		if !s.ordered {
			ways["byte by byte"] = bytewise(s.events)
			ways["a candidate that lags"] = lagging(s.events)
			ways["lagging byte by byte"] = bytewise(lagging(s.events))
			ways["a candidate that is first"] = leading(s.events)
		}
		for way, events := range ways {
			t.Run(s.name+", "+way, func(t *testing.T) {
				p := play(events, shadow.Session{Keep: s.keep})
				got := judge(p.exchange, s.rules)
				total.add(s.differs, got.differs)
				if diff := cmp.Diff(s.differs, got.differs, cmpopts.EquateEmpty()); diff != "" {
					t.Errorf("differences (-want +got):\n%s", diff)
				}
				if diff := cmp.Diff(s.noise, got.excused, cmpopts.EquateEmpty()); diff != "" {
					t.Errorf("excused (-want +got):\n%s", diff)
				}
				if got.coverage != s.coverage || s.reason != "" && got.reason != s.reason {
					t.Errorf("it is %s (%s), want %s (%s)", got.coverage, got.reason, s.coverage, s.reason)
				}
				if got.offset != s.offset || p.count != 1 {
					t.Errorf("%d exchanges, which differ at %q, want it at %q", p.count, got.offset, s.offset)
				}
				if s.hears != nil && way == "as written" && p.sent != *s.hears {
					t.Errorf("the candidate gets %q, want %q", p.sent, *s.hears)
				}
			})
		}
	}
	total.judge(t)
}
