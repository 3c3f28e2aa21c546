package netfilter

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/splitd/splitd/traffic"
)

func (lab *splitLab) forceOff(split string) (done []Forced) {
	lab.t.Helper()
	lab.router.Do(func() (err error) { done, err = ForceOff(lab.t.Context(), labSettings, split); return err })
	return done
}

func TestForceOffNeedsNothingButTheKernel(t *testing.T) {
	lab := newSplitLab(t)
	lab.serveAll()
	mx, web, idle := remoteSplit(15, traffic.Whole), localSplit(3, 250_000), localSplit(4, 0)
	web.Name, web.Service.Ports = "web", []traffic.Port{{Number: 2525, Transport: traffic.TCP}}
	idle.Name, idle.Service.Ports = "idle", []traffic.Port{{Number: 27, Transport: traffic.TCP}}
	lab.apply(mx, web, idle)
	if got := lab.load(100, nil, service25v4, service25v6); got.by[fromNew] != 100 {
		t.Fatalf("at 100 %%: %v", got)
	}
	before := lab.generation()
	if diff := cmp.Diff([]Forced{{Split: "mx", Generation: 16, PreviousPPM: traffic.Whole}}, lab.forceOff("mx")); diff != "" {
		t.Errorf("off mx (-want +got):\n%s", diff)
	}
	if after := lab.generation(); after != before+1 {
		t.Errorf("off took %d transactions", after-before)
	}
	if got := lab.load(500, nil, service25v4, service25v6); got.by[fromOld] != 500 {
		t.Errorf("after off: %v", got)
	}
	want := []Forced{
		{Split: "idle", Generation: 4, PreviousPPM: 0},
		{Split: "mx", Generation: 16, PreviousPPM: 0},
		{Split: "web", Generation: 4, PreviousPPM: 250_000},
	}
	if diff := cmp.Diff(want, lab.forceOff("")); diff != "" {
		t.Errorf("off all (-want +got):\n%s", diff)
	}
	states := map[string]SplitState{
		"idle": {Generation: 4, Weights: map[string]traffic.Weight{"new": 0}},
		"mx":   {Generation: 16, Weights: map[string]traffic.Weight{"new": 0}, Forced: true},
		"web":  {Generation: 4, Weights: map[string]traffic.Weight{"new": 0}, Forced: true},
	}
	if diff := cmp.Diff(states, lab.read()); diff != "" {
		t.Errorf("read (-want +got):\n%s", diff)
	}
	mx.Generation, mx.Candidates[0].Weight = 16, 0
	web.Candidates[0].Weight = 0
	wanted := []string{
		`split "mx": generation is 16 (forced off), 16 is wanted`,
		`split "web": generation is 4 (forced off), 3 is wanted`,
	}
	if diff := cmp.Diff(wanted, lab.differences(mx, web, idle)); diff != "" {
		t.Errorf("differences (-want +got):\n%s", diff)
	}
}

// Right after the primary changed, the chains of both stand in the kernel.
func TestForceOffFindsThePrimaryInForce(t *testing.T) {
	lab := newSplitLab(t)
	lab.serveAll()
	for _, weight := range []traffic.Weight{0, 1, 500_000, traffic.Whole} {
		first, second := localSplit(1, weight), remoteSplit(2, weight)
		first.Primary.Name = "a-former"
		lab.apply(first)
		lab.apply(second)
		lab.forceOff("")
		if got := lab.load(100, nil, service25v4, service25v6); got.by[fromOld] != 100 {
			t.Errorf("from %s: %v", weight, got)
		}
	}
}

func TestForceOffNamesTheSplitsThereAre(t *testing.T) {
	lab := newSplitLab(t)
	if done := lab.forceOff(""); len(done) != 0 {
		t.Errorf("off on an untouched host: %v", done)
	}
	lab.apply(localSplit(1, 1))
	lab.router.Do(func() error {
		_, err := ForceOff(t.Context(), labSettings, "web")
		wantError(t, err, `force off: the kernel has no split "web", it has mx`)
		return nil
	})
}

func TestWhoWroteTheRulesIsInTheKernel(t *testing.T) {
	lab := newSplitLab(t)
	about := About{StateDir: "/var/lib/splitd/" + strings.Repeat("deep/", 100), Include: "/run/elsewhere/include.nft"}
	for _, want := range []About{{}, about} {
		lab.kernel.options.About = about
		if want != (About{}) {
			lab.apply(localSplit(1, 1))
		}
		lab.router.Do(func() error {
			got, err := ReadAbout()
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("read (-want +got):\n%s", diff)
			}
			return err
		})
	}
}
