package smtp

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/splitd/splitd/shadow"
)

// judged is what a session's exchanges come to: each is charged to its heaviest
// difference.
type judged struct {
	differs, excused []string
	coverage         string
	reasons          []string // of what is opaque
}

func judge(exchanges []shadow.Exchange) judged {
	var j judged
	count := make(map[shadow.Verdict]int)
	for _, x := range exchanges {
		count[x.Verdict]++
		if x.Verdict == shadow.Opaque {
			j.reasons = append(j.reasons, x.Reason)
		}
		all := shadow.Differences(x, slices.Concat(Noise(), shadow.SecuredNoise()))
		for i, d := range all {
			switch {
			case d.Excuse != "":
				if x.Endpoint == shadow.Handshaken && d.Path == "not_after" {
					continue // it is nobody's plant
				}
				j.excused = append(j.excused, x.Endpoint+" "+d.Path)
			case i == 0:
				j.differs = append(j.differs, fmt.Sprintf("%s %s: %s -> %s", x.Endpoint, d.Path, d.Expected, d.Got))
			}
		}
	}
	var parts []string
	for _, v := range []shadow.Verdict{
		"", shadow.Skipped, shadow.Opaque, shadow.Truncated, shadow.Dropped,
		shadow.AfterDivergence, shadow.CandidateError, shadow.PrimaryError,
	} {
		if n := count[v]; n > 0 {
			name := string(v)
			if v == "" {
				name = "compared"
			}
			parts = append(parts, fmt.Sprintf("%s=%d", name, n))
		}
	}
	j.coverage = strings.Join(parts, " ")
	return j
}

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
	all := truths(t)
	if len(all) < 60 {
		t.Errorf("%d labelled sessions, want 60", len(all))
	}
	var total score
	for _, s := range all {
		t.Run(s.name, func(t *testing.T) {
			r := playScript(s, New(s.options)(s.session()), schedule{})
			got := judge(r.exchanges)
			total.add(s.differs, got.differs)
			if diff := cmp.Diff(s.differs, got.differs, cmpopts.EquateEmpty()); diff != "" {
				t.Errorf("differences (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(s.noise, got.excused, cmpopts.EquateEmpty(), cmpopts.SortSlices(strings.Compare)); diff != "" {
				t.Errorf("excused (-want +got):\n%s", diff)
			}
			if got.coverage != s.coverage {
				t.Errorf("coverage is %q, want %q", got.coverage, s.coverage)
			}
			if s.reasons != nil {
				if diff := cmp.Diff(s.reasons, got.reasons); diff != "" {
					t.Errorf("why it is opaque (-want +got):\n%s", diff)
				}
			}
			if s.sends != nil {
				if diff := cmp.Diff(s.sends, r.heard); diff != "" {
					t.Errorf("what the candidate hears (-want +got):\n%s", diff)
				}
			}
			if t.Failed() {
				for _, x := range r.exchanges {
					t.Logf("%s: %s %s\n  %v\n  %v", x.Endpoint, x.Verdict, x.Reason, x.Primary.Fields, x.Candidate.Fields)
				}
				t.Logf("heard %q", r.raw)
			}
		})
	}
	total.judge(t)
}
