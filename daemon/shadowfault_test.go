package daemon

import (
	"errors"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/splitd/splitd/control"
	"github.com/splitd/splitd/control/api"
	"github.com/splitd/splitd/traffic"
)

// refusing is a Stage on which no play can be made while it refuses.
type refusing struct {
	here
	refuses *atomic.Bool
}

func (r refusing) Play(o PlayOptions) (Play, error) {
	if r.refuses.Load() {
		return nil, errors.New("make ring: no memory")
	}
	return r.here.Play(o)
}

// shadowOf is what status says of the shadow of the split web, and of what it warns.
func shadowOf(t *testing.T, d *Daemon) (api.Shadow, string) {
	t.Helper()
	list, err := d.Splits(t.Context(), "web")
	if err != nil {
		t.Fatal(err)
	}
	return list.Items[0].Shadow, strings.Join(list.Items[0].Warnings, "\n")
}

func TestASplitThatCannotBePlayedIsPausedAndSaysWhyAndItsFlowsAreCounted(t *testing.T) {
	var refuses atomic.Bool
	refuses.Store(true)
	w := newWorld(t, shadowedSplit("web", website(t, `{"n":1}`), traffic.Whole))
	d, err := w.bootWith(func(d *Daemon) { d.shadows.stage = refusing{d.shadows.stage.(here), &refuses} })
	if err != nil {
		t.Fatal(err)
	}
	defer d.stop() //nolint:errcheck // the test is over
	apply := func(rules ...string) {
		t.Helper()
		w.files.Splits[0].Shadow.Ignore = rules
		if _, err := d.Apply(t.Context(), control.Actor{}, api.ApplyRequest{}); err != nil {
			t.Fatal(err)
		}
	}
	unplayed := func(flows uint64) {
		t.Helper()
		if visit(d, "web") {
			t.Error("a flow is played")
		}
		if s, warnings := shadowOf(t, d); s.State != api.ShadowPaused || s.Reason != "make ring: no memory" ||
			!strings.Contains(warnings, `flows are not played to "new": make ring: no memory`) {
			t.Errorf("status has %+v and warns %q", s, warnings)
		}
		if m := d.Sample(t.Context()).Splits[0].Shadow; m == nil || m.Declined["fault"] != flows {
			t.Errorf("the metrics have %+v, want %d declined", m, flows)
		}
	}
	unplayed(1)
	refuses.Store(false)
	apply("ignore body $.x")
	if s, warnings := shadowOf(t, d); s.State != api.ShadowOn || warnings != "" || !visit(d, "web") {
		t.Errorf("when it can be played again status has %+v and warns %q", s, warnings)
	}
	// By the rules of before nothing is played either.
	refuses.Store(true)
	apply("ignore body $.y")
	unplayed(2)
	refuses.Store(false)
	apply("ignore body $.x")
	if s, _ := shadowOf(t, d); s.State != api.ShadowOn || !visit(d, "web") {
		t.Errorf("when the definition is taken back status has %+v", s)
	}
}
