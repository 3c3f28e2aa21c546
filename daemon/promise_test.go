package daemon

import (
	"errors"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"github.com/splitd/splitd/control"
	"github.com/splitd/splitd/control/api"
	"github.com/splitd/splitd/state"
	"github.com/splitd/splitd/traffic"
)

// twoCandidates is mx with a second candidate "b".
func twoCandidates(a, b traffic.Weight) traffic.Split {
	s := mx(a)
	s.Candidates = append(s.Candidates, traffic.Backend{
		Name: "b", Addresses: []traffic.Address{{IP: netip.MustParseAddr("10.0.0.13")}}, Weight: b,
	})
	return s
}

func TestOffLeavesNothingWhateverFilesAndOperatorsSaid(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	weight := func(limit traffic.Weight) traffic.Weight { return traffic.Weight(random.IntN(int(limit) + 1)) }
	for range 5_000 {
		a := weight(traffic.Whole)
		definition := twoCandidates(a, weight(traffic.Whole-a))
		definition.Pinned = random.IntN(2) == 0
		definition.Shadow.To = "b"
		if random.IntN(2) == 0 {
			definition.Sample = weight(traffic.Whole)
		}
		record := state.Record{Name: "mx", Definition: definition, Overrides: traffic.Overrides{}}
		for _, name := range []string{"new", "b", traffic.SampleKey} {
			o := traffic.Override{Weight: weight(traffic.Whole / 2), Since: noon}
			switch random.IntN(4) {
			case 0:
				continue
			case 1:
				o.Until = noon.Add(time.Minute)
			case 2:
				o = traffic.Override{Since: noon, Off: true}
			}
			record.Overrides[name] = o
		}
		off := record
		off.Overrides = offOverrides(record, "root", "", noon)
		if got := inForce(off); got.CandidateWeight() != 0 || got.Sample != 0 {
			t.Fatalf("after off of %+v: %s, sample %s", record, got.CandidateWeight(), got.Sample)
		}
		later := off
		later.Overrides = off.Overrides.Prune(definition, noon.Add(time.Hour))
		if got := inForce(later); got.CandidateWeight() != 0 || got.Sample != 0 {
			t.Fatalf("an hour after off of %+v: %s, sample %s", record, got.CandidateWeight(), got.Sample)
		}
	}
}

func TestLoweringOneCandidateRaisesNoOther(t *testing.T) {
	w := newWorld(t, twoCandidates(0, 0))
	d := w.mustBoot()
	if _, err := d.Set(t.Context(), control.Actor{}, "mx", api.SetRequest{Weights: map[string]int{"new": 1_000_000}}); err != nil {
		t.Fatal(err)
	}
	w.files.Splits = []traffic.Split{twoCandidates(0, percent(50))} // waits for room
	if _, err := d.Apply(t.Context(), control.Actor{}, api.ApplyRequest{}); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Set(t.Context(), control.Actor{}, "mx", api.SetRequest{Weights: map[string]int{"new": 100_000}}); err != nil {
		t.Fatal(err)
	}
	if got := w.kernel.splits["mx"].CandidateWeight(); got != percent(10) {
		t.Errorf("the candidates have %s, want the 10%% that was asked for", got)
	}
}

func TestOffAndSetMendAKernelThatHasLostTheSplits(t *testing.T) {
	w := newWorld(t, mx(0))
	d := w.mustBoot()
	if _, err := w.set(d, percent(50)); err != nil {
		t.Fatal(err)
	}
	clear(w.kernel.splits) // nft flush ruleset
	if _, err := d.Off(t.Context(), control.Actor{}, "mx", api.Request{}); err != nil {
		t.Fatalf("off = %v", err)
	}
	w.agrees(d)
	if got := w.kernel.splits["mx"]; got.Name == "" || got.CandidateWeight() != 0 {
		t.Errorf("the kernel has %+v, want the split at 0", got)
	}
}

func TestOffWaitsNeitherForADiskThatHangsNorForARaiseThatDoes(t *testing.T) {
	web := mx(0)
	web.Name = "web"
	web.Service.Addresses = []netip.Addr{netip.MustParseAddr("192.0.2.26")}
	w := newWorld(t, mx(0), web)
	d := w.mustBoot()
	if _, err := w.set(d, percent(50)); err != nil {
		t.Fatal(err)
	}
	answers := w.hang()
	raised := make(chan error, 1)
	go func() {
		_, err := d.Set(t.Context(), control.Actor{}, "web", api.SetRequest{WeightPPM: new(500_000)})
		raised <- err
	}()
	<-w.hanging // the raise waits for the disk
	change, err := d.Off(t.Context(), control.Actor{}, "mx", api.Request{})
	if err != nil || len(change.Warnings) == 0 || w.kernel.weight("mx") != 0 {
		t.Errorf("off on a hung disk = %+v, %v, kernel %s; want it done, with a warning", change, err, w.kernel.weight("mx"))
	}
	if _, err := d.Splits(t.Context(), ""); err != nil {
		t.Errorf("status on a hung disk = %v", err)
	}
	select {
	case err := <-raised:
		t.Fatalf("off and status took as long as the raise, which has ended: %v", err)
	default:
	}
	answers()
	if err := <-raised; err == nil {
		t.Error("the raise ignores what was changed while it waited")
	}
	w.agrees(d)
	if got := w.kernel.weight("mx") + w.kernel.weight("web"); got != 0 {
		t.Errorf("in the end the kernel has %s, want nothing", got)
	}
}

func TestAnApplyThatFailsHalfwayIsPutBackAsALaterGeneration(t *testing.T) {
	w := newWorld(t, mx(0))
	d := w.mustBoot()
	w.files.Splits = []traffic.Split{mx(percent(50))}
	w.kernel.failAfter = errors.New("a return path is in the way")
	if _, err := d.Apply(t.Context(), control.Actor{}, api.ApplyRequest{}); !errors.Is(err, w.kernel.failAfter) && err == nil {
		t.Fatalf("apply = %v, want its failure", err)
	}
	if got := w.kernel.splits["mx"]; got.CandidateWeight() != 0 || got.Generation <= 2 {
		t.Errorf("the kernel has %s at generation %d, want 0%% at a generation after the failed one", got.CandidateWeight(), got.Generation)
	}
	w.files.Splits = []traffic.Split{mx(0)}
	w.agrees(d)
}

func TestUndoOfAPinnedSplitIsRefused(t *testing.T) {
	pinned := mx(percent(50))
	pinned.Pinned = true
	w := newWorld(t, pinned)
	d := w.mustBoot()
	pinned.Candidates[0].Weight = percent(5)
	w.files.Splits = []traffic.Split{pinned}
	if _, err := d.Apply(t.Context(), control.Actor{}, api.ApplyRequest{}); err != nil {
		t.Fatal(err)
	}
	_, err := d.Undo(t.Context(), control.Actor{}, "mx", api.Request{})
	if refused, ok := errors.AsType[*api.Error](err); !ok || refused.Code != api.CodeConflict {
		t.Errorf("undo of a pinned split = %v, want a conflict", err)
	}
}

func TestUndoDoesNotBringBackWhatHasEndedByItself(t *testing.T) {
	w := newWorld(t, mx(0))
	d := w.mustBoot()
	if _, err := d.Set(t.Context(), control.Actor{}, "mx", api.SetRequest{WeightPPM: new(500_000), TTLSeconds: 3600}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.set(d, percent(10)); err != nil {
		t.Fatal(err)
	}
	w.now = noon.Add(48 * time.Hour)
	if _, err := d.Undo(t.Context(), control.Actor{}, "mx", api.Request{}); err != nil {
		t.Fatal(err)
	}
	if got := w.kernel.weight("mx"); got != 0 {
		t.Errorf("undo two days later gives %s, want the file's 0%%", got)
	}
}

func TestAnOverrideThatEndsWhileTheDaemonIsDownIsToldAsExpired(t *testing.T) {
	w := newWorld(t, mx(0))
	d := w.mustBoot()
	if _, err := d.Set(t.Context(), control.Actor{}, "mx", api.SetRequest{WeightPPM: new(500_000), TTLSeconds: 60}); err != nil {
		t.Fatal(err)
	}
	_ = d.stop()
	w.now = noon.Add(time.Hour)
	d = w.mustBoot()
	history, err := d.History(t.Context(), "mx", 1)
	if err != nil || history.Items[0].Action != string(state.ActionExpire) || history.Items[0].WeightPPM != 0 {
		t.Errorf("history = %+v, %v, want an expiry to 0", history.Items, err)
	}
}

func TestASplitThatComesBackHasTheFilesWeight(t *testing.T) {
	w := newWorld(t, mx(0))
	d := w.mustBoot()
	if _, err := w.set(d, percent(50)); err != nil {
		t.Fatal(err)
	}
	for _, splits := range [][]traffic.Split{nil, {mx(0)}} {
		w.files.Splits = splits
		if _, err := d.Apply(t.Context(), control.Actor{}, api.ApplyRequest{}); err != nil {
			t.Fatal(err)
		}
	}
	if got := w.kernel.weight("mx"); got != 0 {
		t.Errorf("the split came back at %s, want the file's 0%%", got)
	}
}

func TestAChangedReturnPathIsAChange(t *testing.T) {
	w := newWorld(t, mx(0))
	d := w.mustBoot()
	w.files.ReturnPaths = []traffic.ReturnPath{{Name: "from-old", Device: "eth0", Match: traffic.MatchMark}}
	for _, want := range []bool{true, false} {
		answer, err := d.Apply(t.Context(), control.Actor{}, api.ApplyRequest{})
		if err != nil || answer.Changed != want || answer.ReturnPathsChanged != want {
			t.Errorf("apply = %+v, %v, want changed %v", answer, err, want)
		}
	}
}

func TestARaiseIsRefusedByAHostThatCanNoLongerCarryIt(t *testing.T) {
	w := newWorld(t, mx(0))
	d := w.mustBoot()
	w.kernel.refuse = errors.New("ip_forward is off: sysctl -w net.ipv4.ip_forward=1")
	if _, err := w.set(d, percent(50)); !errors.Is(err, w.kernel.refuse) {
		t.Errorf("set = %v, want the host's refusal", err)
	}
	if _, err := d.Off(t.Context(), control.Actor{}, "mx", api.Request{}); err != nil {
		t.Errorf("off = %v, want it to work", err)
	}
}

func TestAStoreThatComesBackGoesOnFromTheLaterGeneration(t *testing.T) {
	w := newWorld(t, mx(0))
	d := w.mustBoot()
	for _, p := range []int{5, 10, 50} {
		if _, err := w.set(d, percent(p)); err != nil {
			t.Fatal(err)
		}
	}
	_ = d.stop()
	w.locked = errors.New("locked by another process")
	clear(w.kernel.splits) // a reboot: the kernel knows nothing
	d = w.mustBoot()
	if got := w.kernel.weight("mx"); got != 0 {
		t.Errorf("without store and kernel the weight is %s, want 0%%", got)
	}
	if _, err := w.set(d, percent(1)); !errors.Is(err, w.locked) {
		t.Errorf("raising = %v, want it refused", err)
	}
	w.locked = nil
	change, err := w.set(d, percent(1))
	if err != nil || change.Generation <= 4 {
		t.Errorf("raising with the store back = %+v, %v, want a generation over 4", change, err)
	}
	w.agrees(d)
}

func TestACounterThatCannotBeReadIsUnknownAndNotZero(t *testing.T) {
	w := newWorld(t, mx(0))
	d := w.mustBoot()
	w.kernel.countErr = errors.New("dump interrupted")
	list, err := d.Splits(t.Context(), "mx")
	if err != nil {
		t.Fatal(err)
	}
	if s := list.Items[0]; s.Flows.Total != nil || s.ObservedPPM != nil || s.Backends[0].FlowsTotal != nil || len(list.Warnings) == 0 {
		t.Errorf("status = %+v, warnings %v; want unknown flows and a warning", s, list.Warnings)
	}
	sample := d.Sample(t.Context())
	if len(sample.Splits[0].Counts) != 0 || sample.Failures == 0 {
		t.Errorf("sample = %+v, want no counts and a failure", sample)
	}
}
