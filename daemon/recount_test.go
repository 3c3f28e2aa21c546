package daemon

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/splitd/splitd/control"
	"github.com/splitd/splitd/control/api"
	"github.com/splitd/splitd/traffic"
)

// Two applies of a rename cost a report, and a rule that is mended leaves what was
// counted by the one before.
func TestAnApplySaysWhatItDoesToAReport(t *testing.T) {
	renamed := func(s *traffic.Split) {
		s.Candidates[0].Name, s.Shadow.To = "newer", "newer"
	}
	for name, tt := range map[string]struct {
		edit func(*traffic.Split)
		want string
	}{
		"another candidate": {renamed, `split "web": its report of 1 exchanges begins anew with the next sampled flow: it is of candidate "new" and protocol http, the file says "newer" and http`},
		"another protocol":  {func(s *traffic.Split) { s.Protocol = "raw" }, "begins anew"},
		"another rule": {
			func(s *traffic.Split) { s.Shadow.Ignore = []string{"set body $.tags[]"} },
			"split \"web\": ignore has changed, and its report has 1 exchanges that were compared by the rules before: `splitctl report web --reset` counts by these alone",
		},
		"another weight": {func(s *traffic.Split) { s.Candidates[0].Weight = percent(1) }, ""},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, shadowedSplit("web", website(t, `{"n":1}`), traffic.Whole))
			d := w.mustBoot()
			visit(d, "web")
			awaitCompared(t, d, 1)
			edited := shadowedSplit("web", candidateOf(w.files.Splits[0]), traffic.Whole)
			tt.edit(&edited)
			w.files.Splits = []traffic.Split{edited}
			answer, err := d.Apply(t.Context(), control.Actor{}, api.ApplyRequest{})
			told := strings.Join(answer.Warnings, "\n")
			if err != nil || !strings.Contains(told, tt.want) || tt.want == "" && strings.Contains(told, "report") {
				t.Errorf("apply warns %q, %v, want %q", told, err, tt.want)
			}
		})
	}
}

func candidateOf(s traffic.Split) netip.AddrPort {
	at := s.Candidates[0].Addresses[0]
	return netip.AddrPortFrom(at.IP, at.Port)
}

func TestNothingIsSaidOfAReportThatHasNothing(t *testing.T) {
	w := newWorld(t, shadowedSplit("web", website(t, `{"n":1}`), traffic.Whole))
	d := w.mustBoot()
	edited := shadowedSplit("web", candidateOf(w.files.Splits[0]), traffic.Whole)
	edited.Shadow.Ignore = []string{"set body $.tags[]"}
	w.files.Splits = []traffic.Split{edited}
	answer, err := d.Apply(t.Context(), control.Actor{}, api.ApplyRequest{})
	if told := strings.Join(answer.Warnings, "\n"); err != nil || strings.Contains(told, "report") {
		t.Errorf("apply warns %q, %v", told, err)
	}
}
