package daemon

import (
	"log/slog"
	"strings"
	"testing"

	"github.com/splitd/splitd/control"
	"github.com/splitd/splitd/control/api"
	"github.com/splitd/splitd/health"
	"github.com/splitd/splitd/traffic"
)

func TestDownIsSaidOnce(t *testing.T) {
	for reason, want := range map[string]string{
		"down: refused": "down: refused",
		"down, checks pass again, but not yet often enough": "down: checks pass again, but not yet often enough",
		"10.0.0.12 down: refused":                           "down: 10.0.0.12 down: refused",
	} {
		if got := down(reason); got != want {
			t.Errorf("%q is told as %q, want %q", reason, got, want)
		}
	}
}

func TestTheLogOfABackendThatIsDownHasItsPort(t *testing.T) {
	d := newWorld(t, mx(50_000)).mustBoot()
	var text strings.Builder
	d.log = slog.New(slog.NewTextHandler(&text, nil))
	d.heed(health.Event{Key: health.Key{Split: "mx", Backend: "new", Address: new4}, From: health.Up, To: health.Down, Reason: "refused", Port: 2525})
	if !strings.Contains(text.String(), "address=10.0.0.12:2525") {
		t.Errorf("it says %q", text.String())
	}
}

func TestTheLastWordIsOfThePlanesThatCarryFlows(t *testing.T) {
	for name, test := range map[string]struct {
		modes         map[string]traffic.Mode
		sampled       bool
		relay, kernel bool
	}{
		"kernel":  {map[string]traffic.Mode{"mx": traffic.ModeKernel}, false, false, true},
		"sampled": {map[string]traffic.Mode{"mx": traffic.ModeKernel}, true, true, true},
		"proxy":   {map[string]traffic.Mode{"mx": traffic.ModeProxy}, false, true, false},
		"both":    {map[string]traffic.Mode{"mx": traffic.ModeProxy, "web": traffic.ModeKernel}, false, true, true},
		"neither": {nil, false, false, false},
	} {
		text := stopping(test.modes, test.sampled)
		if got := strings.Contains(text, "relay"); got != test.relay {
			t.Errorf("%s: %q", name, text)
		}
		if got := strings.Contains(text, "kernel rules stay"); got != test.kernel {
			t.Errorf("%s: %q", name, text)
		}
	}
}

func TestTheHistoryOfNoSplitNamesThoseThereAre(t *testing.T) {
	w := newWorld(t, mx(50_000))
	d := w.mustBoot()
	_, err := d.History(t.Context(), "nope", 0)
	if err == nil || err.Error() != `find split "nope": there is none of that name: the only split is "mx"` {
		t.Errorf("history of no split: %v", err)
	}
	if _, err := w.set(d, 10_000); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Apply(t.Context(), control.Actor{}, api.ApplyRequest{Name: "x", Text: "splits: []"}); err != nil {
		t.Fatal(err)
	}
	history, err := d.History(t.Context(), "mx", 0)
	if err != nil || len(history.Items) == 0 || history.Items[0].Action != "remove" {
		t.Errorf("history of a split that was removed: %+v, %v", history.Items, err)
	}
}

func TestADrainOfASplitAsksForItsCandidate(t *testing.T) {
	w := newWorld(t, mx(50_000))
	d := w.mustBoot()
	_, err := d.Drain(t.Context(), control.Actor{}, "", api.DrainRequest{Backend: "mx"})
	if err == nil || err.Error() != `drain "mx": name a candidate: new` {
		t.Errorf("drain mx: %v", err)
	}
	if change, err := d.Drain(t.Context(), control.Actor{}, "", api.DrainRequest{Backend: "new"}); err != nil || !change.Changed {
		t.Errorf("drain new: %+v, %v", change, err)
	}
}
