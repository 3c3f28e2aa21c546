package netfilter

import (
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/splitd/splitd/traffic"
)

// Rules and routes of ours are known by their protocol: when the numbers in
// the configuration have changed, those of before go.
func TestRulesAndRoutesOfFormerSettingsAreToldAndRemoved(t *testing.T) {
	t.Parallel()
	former := Settings{MarkMask: labSettings.MarkMask, RouteTable: 7000, RulePriority: 8000}
	for name, paths := range map[string][]traffic.ReturnPath{"address": byAddress(), "mark": byMark()} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			lab := newReturnLab(t)
			lab.strangers()
			untouched := lab.snapshot()
			lab.apply(paths...)
			fresh := lab.snapshot()
			lab.cleanup()

			lab.applyWith(former, paths...)
			lines := lab.differences(paths)
			for _, want := range []string{
				`^ip rule del pref 8000 to 10\.0\.0\.1 lookup main protocol 83: to be removed$`,
				`^ip -6 rule del pref 8002 .* lookup 7001 protocol 83: to be removed$`,
				`^ip route del default via 10\.0\.0\.1 dev eth0 table 7000 protocol 83: to be removed$`,
				`^ip -6 route del blackhole default metric 4000 table 7001 protocol 83: to be removed$`,
			} {
				if !slices.ContainsFunc(lines, regexp.MustCompile(want).MatchString) {
					t.Errorf("no difference is like %q: %q", want, lines)
				}
			}
			if !lab.apply(paths...) {
				t.Error("apply with other settings says that nothing changed")
			}
			// The marking table was made twice and has another handle.
			lines = slices.DeleteFunc(fresh.Differences(lab.snapshot()), func(line string) bool { return strings.Contains(line, "table inet name splitd_return") })
			if len(lines) > 0 {
				t.Errorf("other than applied afresh: %q", lines)
			}

			for what, remove := range map[string]func(){"apply without paths": func() { lab.apply() }, "cleanup": lab.cleanup} {
				lab.applyWith(former, paths...)
				remove()
				if lines := untouched.Differences(lab.snapshot()); len(lines) > 0 {
					t.Errorf("left by %s: %q", what, lines)
				}
				if diff := cmp.Diff([]string(nil), lab.differences(nil)); diff != "" {
					t.Errorf("differences after %s (-want +got):\n%s", what, diff)
				}
			}
		})
	}
}

func (lab returnLab) applyWith(settings Settings, paths ...traffic.ReturnPath) {
	lab.t.Helper()
	want, err := BuildReturns(paths, settings)
	if err != nil {
		lab.t.Fatal(err)
	}
	lab.host.Do(func() error { _, err := applyReturns(lab.t.Context(), want); return err })
}
