package daemon

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/splitd/splitd/control"
	"github.com/splitd/splitd/control/api"
	"github.com/splitd/splitd/state"
	"github.com/splitd/splitd/traffic"
)

// Two forced offs while no daemon runs, of which the second finds one split off
// already: each has its line, in order.
func TestEachForcedOffThatChangedSomethingIsInTheHistory(t *testing.T) {
	web := mx(0)
	web.Name = "a-web" // before mx in the files
	w := newWorld(t, web, mx(0))
	d := w.mustBoot()
	for _, split := range []string{"a-web", "mx"} {
		if err := w.sets(d, split, percent(20))(); err != nil {
			t.Fatal(err)
		}
	}
	_ = d.stop()
	for _, f := range []state.Forced{
		{Splits: []string{"mx"}, Time: noon.Add(time.Minute), Reason: "INC-1"},
		{Time: noon.Add(2 * time.Minute), Reason: "INC-2"},
	} {
		if err := state.WriteForced(w.dir, f); err != nil {
			t.Fatal(err)
		}
	}
	w.now = noon.Add(time.Hour)
	d = w.mustBoot()
	history, err := d.History(t.Context(), "", 2)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range history.Items {
		got = append(got, e.Split+" "+e.Action+" "+e.Reason)
	}
	if diff := cmp.Diff([]string{"a-web off INC-2", "mx off INC-1"}, got); diff != "" {
		t.Errorf("the history, newest first (-want +got):\n%s", diff)
	}
	w.agrees(d)
}

func TestAnOffOutlivesARemovalOfItsSplit(t *testing.T) {
	for name, tt := range map[string]struct {
		word func(*world, *Daemon)
		want traffic.Weight
		says string
	}{
		"off":    {func(w *world, d *Daemon) { w.off(d) }, 0, `split "mx": "new" stays closed by bob`},
		"a set":  {func(w *world, d *Daemon) { _, _ = w.set(d, percent(1)) }, percent(50), `split "mx": the 1% that ann set for "new" are forgotten`},
		"nobody": {func(*world, *Daemon) {}, percent(50), ""},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, mx(percent(50)))
			d := w.mustBoot()
			tt.word(w, d)
			w.files.Splits = nil
			answer, err := d.Apply(t.Context(), control.Actor{}, api.ApplyRequest{})
			if err != nil || tt.says != "" && !strings.Contains(strings.Join(answer.Warnings, "\n"), tt.says) {
				t.Errorf("the removal = %q, %v, want %q", answer.Warnings, err, tt.says)
			}
			_ = d.stop()
			d = w.mustBoot()
			w.files.Splits = []traffic.Split{mx(percent(50))}
			if _, err := d.Apply(t.Context(), control.Actor{}, api.ApplyRequest{}); err != nil {
				t.Fatal(err)
			}
			if got := w.kernel.weight("mx"); got != tt.want {
				t.Errorf("the split came back at %s, want %s", got, tt.want)
			}
			w.agrees(d)
		})
	}
}

func TestWhatPinsASplitNamesWhatHelps(t *testing.T) {
	pinned := mx(percent(50))
	pinned.Pinned = true
	w := newWorld(t, pinned)
	d := w.mustBoot()
	refusal := func(want, not string) {
		t.Helper()
		_, err := d.Undo(t.Context(), control.Actor{}, "mx", api.Request{})
		refused, ok := errors.AsType[*api.Error](err)
		if !ok || !strings.Contains(refused.Message, want) || strings.Contains(refused.Message, not) {
			t.Errorf("undo = %v, want %s and not %s", err, want, not)
		}
	}
	refusal("`splitctl apply`", "default")
	w.off(d)
	refusal("`splitctl set mx default`", "`splitctl apply`")
	if _, err := d.Set(t.Context(), control.Actor{}, "mx", api.SetRequest{Default: true}); err != nil || w.kernel.weight("mx") != percent(50) {
		t.Errorf("set default = %v; the kernel has %s, want the file's", err, w.kernel.weight("mx"))
	}
}

func TestAnApplySaysThatAGroupIsClosed(t *testing.T) {
	split := grouped()
	split.Candidates[0].Weight = 0
	w := newWorld(t, split)
	d := w.mustBoot()
	w.off(d)
	answer, err := d.Apply(t.Context(), control.Actor{}, api.ApplyRequest{})
	want := "split \"mx\": the file's clients.always of \"new\" are not in force: bob closed it; `splitctl set mx default` takes the file's"
	if err != nil || !strings.Contains(strings.Join(answer.Warnings, "\n"), want) {
		t.Errorf("apply = %q, %v, want %q", answer.Warnings, err, want)
	}
}
