package daemon

import (
	"errors"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/splitd/splitd/control"
	"github.com/splitd/splitd/control/api"
	"github.com/splitd/splitd/netfilter"
	"github.com/splitd/splitd/state"
	"github.com/splitd/splitd/traffic"
)

// withGroups is mx with groups.
func withGroups(weight traffic.Weight, always, never []string) traffic.Split {
	split := mx(weight)
	networks := func(texts []string) []netip.Prefix {
		var all []netip.Prefix
		for _, text := range texts {
			all = append(all, netip.MustParsePrefix(text))
		}
		return all
	}
	split.Candidates[0].Clients = traffic.Clients{Always: networks(always), Never: networks(never)}
	return split
}

var (
	few  = []string{"198.51.100.0/24"}
	more = []string{"198.51.100.0/24", "203.0.113.0/24"}
)

// groupsIn are the groups of the candidate that the kernel has, as it reads
// them back.
func (w *world) groupsIn() traffic.Clients { return w.kernel.splits["mx"].Candidates[0].Clients }

func sameClients(t *testing.T, what string, want, got traffic.Clients) {
	t.Helper()
	if diff := cmp.Diff(want, got, cmpopts.EquateEmpty(), cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); diff != "" {
		t.Errorf("%s (-want +got):\n%s", what, diff)
	}
}

func TestAGroupThatGivesACandidateMoreIsARaise(t *testing.T) {
	for name, tc := range map[string]struct {
		before, after traffic.Split
		raises        bool
	}{
		"a new always network":             {withGroups(0, few, nil), withGroups(0, more, nil), true},
		"the first always network":         {mx(0), withGroups(0, few, nil), true},
		"a bigger always network":          {withGroups(0, few, nil), withGroups(0, []string{"198.51.0.0/16"}, nil), true},
		"an always network less":           {withGroups(0, more, nil), withGroups(0, few, nil), false},
		"the same always networks, split":  {withGroups(0, few, nil), withGroups(0, []string{"198.51.100.0/25", "198.51.100.128/25"}, nil), false},
		"a never network less":             {withGroups(percent(5), nil, more), withGroups(percent(5), nil, few), true},
		"a never network less, at nothing": {withGroups(0, nil, more), withGroups(0, nil, few), false},
		"a new never network":              {withGroups(percent(5), nil, few), withGroups(percent(5), nil, more), false},
		"less weight and more clients":     {withGroups(percent(5), few, nil), withGroups(0, more, nil), true},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, tc.before)
			d := w.mustBoot()
			w.files.Splits = []traffic.Split{tc.after}
			w.diskFull = true
			_, err := d.Apply(t.Context(), control.Actor{}, api.ApplyRequest{})
			if refused := errors.Is(err, errDiskFull); refused != tc.raises {
				t.Errorf("apply on a full disk = %v, want it refused: %v", err, tc.raises)
			}
			want := tc.after
			if tc.raises {
				want = tc.before
			}
			sameClients(t, "groups in the kernel", want.Candidates[0].Clients, w.groupsIn())
			w.diskFull = false
			if _, err := d.Apply(t.Context(), control.Actor{}, api.ApplyRequest{}); err != nil {
				t.Fatal(err)
			}
			sameClients(t, "with room again", tc.after.Candidates[0].Clients, w.groupsIn())
		})
	}
}

func TestWhatIsClosedIsNotRaisedByItsGroups(t *testing.T) {
	w := newWorld(t, withGroups(0, few, nil))
	d := w.mustBoot()
	if _, err := d.Off(t.Context(), control.Actor{}, "mx", api.Request{}); err != nil {
		t.Fatal(err)
	}
	w.files.Splits = []traffic.Split{withGroups(0, more, nil)}
	w.diskFull = true
	if _, err := d.Apply(t.Context(), control.Actor{}, api.ApplyRequest{}); err != nil {
		t.Errorf("apply = %v, want it done: the candidate takes nobody", err)
	}
}

// TestWithoutAStoreNoGroupGetsMoreThanTheKernelGives starts daemons whose files
// have more than what is known to be in force.
func TestWithoutAStoreNoGroupGetsMoreThanTheKernelGives(t *testing.T) {
	for name, tc := range map[string]struct {
		before []traffic.Split
		after  traffic.Split
		want   traffic.Clients
	}{
		"a first start":                      {nil, withGroups(0, few, nil), traffic.Clients{}},
		"an always network more":             {[]traffic.Split{withGroups(percent(5), few, nil)}, withGroups(percent(5), more, nil), withGroups(0, few, nil).Candidates[0].Clients},
		"an always network that grew":        {[]traffic.Split{withGroups(0, few, nil)}, withGroups(0, []string{"198.51.0.0/16"}, nil), withGroups(0, few, nil).Candidates[0].Clients},
		"a never network less":               {[]traffic.Split{withGroups(percent(5), nil, more)}, withGroups(percent(5), nil, few), withGroups(0, nil, more).Candidates[0].Clients},
		"an always network less, one more":   {[]traffic.Split{withGroups(0, more, nil)}, withGroups(0, []string{"203.0.113.0/24", "192.0.2.0/24"}, nil), withGroups(0, more[1:], nil).Candidates[0].Clients},
		"nothing more, as it stands in them": {[]traffic.Split{withGroups(0, more, nil)}, withGroups(0, few, nil), withGroups(0, few, nil).Candidates[0].Clients},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, tc.before...)
			if tc.before != nil {
				stop(t, w.mustBoot())
			}
			w.dir = t.TempDir() // the store is gone
			w.files.Splits = []traffic.Split{tc.after}
			w.diskFull = true
			d := w.mustBoot()
			sameClients(t, "groups in the kernel", tc.want, w.groupsIn())
			w.diskFull = false
			if _, err := d.Apply(t.Context(), control.Actor{}, api.ApplyRequest{}); err != nil {
				t.Fatal(err)
			}
			sameClients(t, "with room again", tc.after.Candidates[0].Clients, w.groupsIn())
			stop(t, d)
			w.mustBoot()
			sameClients(t, "after a restart", tc.after.Candidates[0].Clients, w.groupsIn())
		})
	}
}

func TestGroupsOfACandidateThatTheKernelHasClosedGiveNothing(t *testing.T) {
	kernel := netfilter.SplitState{
		Generation: 3, Weights: map[string]traffic.Weight{"new": 0}, Closed: []string{"new"},
		Clients: map[string]traffic.Clients{"new": withGroups(0, few, nil).Candidates[0].Clients},
	}
	got := holdDown(state.Record{Name: "mx", Definition: withGroups(0, few, nil)}, holdingsIn(kernel), noon)
	sameClients(t, "groups", traffic.Clients{}, inForce(got).Candidates[0].Clients)
}
