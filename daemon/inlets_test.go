package daemon

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/splitd/splitd/control"
	"github.com/splitd/splitd/control/api"
	"github.com/splitd/splitd/splitter"
	"github.com/splitd/splitd/traffic"
)

// sampledMX is mx with that share of the primary's flows for the relay.
func sampledMX(sample traffic.Weight) traffic.Split {
	s := mx(50_000)
	s.Sample = sample
	return s
}

// reloadWith has the daemon read other files.
func (w *world) reloadWith(d *Daemon, splits ...traffic.Split) {
	w.t.Helper()
	w.files.Splits = splits
	if _, err := d.Apply(w.t.Context(), control.Actor{User: "ann"}, api.ApplyRequest{}); err != nil {
		w.t.Fatal(err)
	}
}

// sampledIn is how the kernel samples the split mx: its share, and the port.
type sampledIn struct {
	Sample traffic.Weight
	Port   uint16
}

func (k *fakeKernel) sampled() sampledIn {
	k.mu.Lock()
	defer k.mu.Unlock()
	return sampledIn{k.splits["mx"].Sample, k.splits["mx"].SamplePort}
}

func (k *fakeKernel) wantSampled(t *testing.T, when string, want sampledIn) {
	t.Helper()
	if diff := cmp.Diff(want, k.sampled()); diff != "" {
		t.Errorf("%s the kernel samples (-want +got):\n%s", when, diff)
	}
}

const itsPort = 61000

func TestTheRelayListensWhereTheKernelSamples(t *testing.T) {
	w := newWorld(t, sampledMX(0))
	d := w.mustBoot()
	w.kernel.wantSampled(t, "without a sample", sampledIn{})
	w.reloadWith(d, sampledMX(300_000))
	w.kernel.wantSampled(t, "with a sample", sampledIn{300_000, itsPort})
	if _, err := w.set(d, 100_000); err != nil {
		t.Fatal(err)
	}
	w.kernel.wantSampled(t, "after another weight", sampledIn{300_000, itsPort})
	w.relay.inlet(func(in *splitter.Inlet) { in.Open = 1 })
	k := newInletKeeper()
	look := func() {
		for range 2 {
			d.lookAtInlets(t.Context(), k)
			w.now = w.now.Add(inletRest)
		}
	}
	w.reloadWith(d, sampledMX(0))
	look()
	w.kernel.wantSampled(t, "while a flow of before is open", sampledIn{0, itsPort})
	w.relay.inlet(func(in *splitter.Inlet) { in.Open = 0 })
	look()
	w.kernel.wantSampled(t, "when it has ended", sampledIn{})
	if open := w.relay.Inlets(); len(open) > 0 {
		t.Errorf("the relay has %v yet", open)
	}
	if lines, err := d.drift(t.Context()); err != nil || len(lines) > 0 {
		t.Errorf("drift: %q, %v", lines, err)
	}
}

func TestASampleIsInForceAfterARestart(t *testing.T) {
	w := newWorld(t, sampledMX(300_000))
	d := w.mustBoot()
	d.endSampling(t.Context())
	w.kernel.wantSampled(t, "when the daemon has ended", sampledIn{0, itsPort})
	_ = d.stop()
	w.relay = &fakeRelay{}
	again := w.mustBoot()
	w.kernel.wantSampled(t, "when it has started again", sampledIn{300_000, itsPort})
	if g := again.view.Load().records.get("mx").Generation; g != 1 {
		t.Errorf("the generation is %d, want 1: nothing has changed", g)
	}
}

// What ends first is the kernel's share: nobody is handed over to a relay that goes.
func TestADaemonThatEndsSamplesNothingAnyMore(t *testing.T) {
	w := newWorld(t, sampledMX(300_000))
	d := w.mustBoot()
	ctx, end := context.WithCancel(t.Context())
	end()
	if err := d.keepInlets(ctx); err != nil {
		t.Fatal(err)
	}
	w.kernel.wantSampled(t, "at the end", sampledIn{0, itsPort})
	if _, err := w.set(d, 20_000); err != nil {
		t.Fatal(err)
	}
	w.kernel.wantSampled(t, "after a change that came late", sampledIn{0, itsPort})
}

func TestASplitThatTheRelayCannotListenForIsNotSampled(t *testing.T) {
	local := sampledMX(300_000)
	remote := local
	remote.Primary = traffic.Backend{Name: "old", Addresses: []traffic.Address{{IP: noonRouter}}}
	for name, test := range map[string]struct {
		split traffic.Split
		deaf  error
		path  bool
	}{
		"no port is free":                       {local, errors.New("all of them are taken"), false},
		"its primary is a return path's router": {remote, nil, true},
		"it speaks UDP alone":                   {ofUDP(local), nil, false},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, test.split)
			w.relay.deaf = test.deaf
			if test.path {
				w.files.ReturnPaths = []traffic.ReturnPath{{Name: "back", Via: noonRouter}}
			}
			d := w.mustBoot()
			if got := w.kernel.sampled(); got.Port != 0 {
				t.Errorf("the kernel has port %d", got.Port)
			}
			if w.kernel.weight("mx") != 50_000 {
				t.Errorf("the candidate has %s", w.kernel.weight("mx"))
			}
			if got := warningsOf(t, d); !strings.Contains(got, "nothing of it is sampled: ") {
				t.Errorf("status warns %q", got)
			}
			w.relay.deaf = nil
			if _, err := w.set(d, 60_000); err != nil {
				t.Fatal(err)
			}
			want := uint16(0)
			if test.deaf != nil {
				want = itsPort
			}
			if got := w.kernel.sampled(); got.Port != want {
				t.Errorf("after a change, when the relay can listen, the kernel has port %d, want %d", got.Port, want)
			}
		})
	}
}

// warningsOf are those of mx in status.
func warningsOf(t *testing.T, d *Daemon) string {
	t.Helper()
	list, err := d.Splits(t.Context(), "mx")
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(list.Items[0].Warnings, "; ")
}

var noonRouter = mx(0).Candidates[0].Addresses[0].IP.Prev()

func ofUDP(s traffic.Split) traffic.Split {
	s.Service.Ports = []traffic.Port{{Number: 53, Transport: traffic.UDP}}
	return s
}

func TestAKernelThatRefusesToSampleHasTheSplitsAllTheSame(t *testing.T) {
	w := newWorld(t, sampledMX(300_000))
	w.kernel.refuseSamples = true
	d := w.mustBoot()
	if got := warningsOf(t, d); !strings.Contains(got, "nothing of it is sampled: the kernel refuses the rules for that: nft_tproxy") {
		t.Errorf("status warns %q", got)
	}
	if got := w.kernel.sampled(); got.Port != 0 || w.kernel.weight("mx") != 50_000 {
		t.Errorf("the kernel has port %d and weight %s", got.Port, w.kernel.weight("mx"))
	}
	if open := w.relay.Inlets(); len(open) > 0 {
		t.Errorf("the relay listens for %v", open)
	}
}

// Their packets have to find the relay yet.
func TestFlowsOfASplitThatIsRemovedOrMovesToTheRelayKeepTheirWay(t *testing.T) {
	moved := sampledMX(300_000)
	moved.Mode = traffic.ModeProxy
	for name, files := range map[string][]traffic.Split{"removed": nil, "moved": {moved}} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, sampledMX(300_000))
			d := w.mustBoot()
			w.relay.inlet(func(in *splitter.Inlet) { in.Open = 1 })
			w.reloadWith(d, files...)
			w.kernel.wantSampled(t, "while a flow is open", sampledIn{0, itsPort})
			if k := w.kernel.splits["mx"]; len(k.Service.Addresses) > 0 || len(k.Candidates) > 0 {
				t.Errorf("the kernel serves %+v", k)
			}
			w.relay.inlet(func(in *splitter.Inlet) { in.Open = 0 })
			k := newInletKeeper()
			for range 2 {
				d.lookAtInlets(t.Context(), k)
				w.now = w.now.Add(inletRest)
			}
			if _, there := w.kernel.splits["mx"]; there || len(w.relay.Inlets()) > 0 {
				t.Errorf("after its end the kernel has it: %t, the relay %v", there, w.relay.Inlets())
			}
		})
	}
}

// Its first three clients pay for it; there is no other way to find out.
func TestASampleRestsWhileItsFlowsDoNotReachThePrimary(t *testing.T) {
	w := newWorld(t, sampledMX(300_000))
	log := &strings.Builder{}
	d := w.mustBoot()
	d.log = slog.New(slog.NewTextHandler(log, nil))
	k := newInletKeeper()
	for i := range 4 {
		w.kernel.wantSampled(t, "before", sampledIn{300_000, itsPort})
		w.relay.inlet(func(in *splitter.Inlet) { in.Trouble += 3 })
		d.lookAtInlets(t.Context(), k)
		w.kernel.wantSampled(t, "in trouble", sampledIn{0, itsPort})
		if lines, err := d.drift(t.Context()); err != nil || len(lines) > 0 {
			t.Errorf("drift: %q, %v", lines, err)
		}
		if got := warningsOf(t, d); !strings.Contains(got, "its sample rests: sampled flows do not reach the primary") {
			t.Errorf("status warns %q", got)
		}
		w.now = w.now.Add(restFirst<<i - time.Second)
		d.lookAtInlets(t.Context(), k)
		w.kernel.wantSampled(t, "until then", sampledIn{0, itsPort})
		w.now = w.now.Add(time.Second)
		d.lookAtInlets(t.Context(), k)
	}
	w.kernel.wantSampled(t, "after all", sampledIn{300_000, itsPort})
	if !strings.Contains(log.String(), "its replies may take another way than through this host") {
		t.Errorf("the log does not say why: %s", log)
	}
	w.relay.inlet(func(in *splitter.Inlet) { in.Flows += troubledWindow })
	d.lookAtInlets(t.Context(), k)
	w.relay.inlet(func(in *splitter.Inlet) { in.Flows, in.Trouble = in.Flows+100, in.Trouble+5 })
	d.lookAtInlets(t.Context(), k)
	w.kernel.wantSampled(t, "with one in twenty in trouble", sampledIn{300_000, itsPort})
}

// Clients of a kernel split are not to wait because the relay has all flows that it may.
func TestASampleRestsWhileTheRelayIsNearlyFull(t *testing.T) {
	for name, test := range map[string]struct{ fill, empty func(*splitter.Inlet) }{
		"nearly full":         {func(in *splitter.Inlet) { in.Full = true }, func(in *splitter.Inlet) { in.Full = false }},
		"short of something":  {func(in *splitter.Inlet) { in.Short++ }, func(*splitter.Inlet) {}},
		"short and much used": {func(in *splitter.Inlet) { in.Short, in.Flows = in.Short+1, in.Flows+10*troubledWindow }, func(*splitter.Inlet) {}},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, sampledMX(300_000))
			d := w.mustBoot()
			k := newInletKeeper()
			d.lookAtInlets(t.Context(), k)
			w.kernel.wantSampled(t, "with room", sampledIn{300_000, itsPort})
			w.relay.inlet(test.fill)
			d.lookAtInlets(t.Context(), k)
			w.kernel.wantSampled(t, "full", sampledIn{0, itsPort})
			if got := warningsOf(t, d); !strings.Contains(got, "its sample rests: the relay has nearly all flows that it may") {
				t.Errorf("status warns %q", got)
			}
			w.now = w.now.Add(restFirst - time.Second)
			d.lookAtInlets(t.Context(), k)
			w.kernel.wantSampled(t, "for a while", sampledIn{0, itsPort})
			w.now = w.now.Add(time.Second)
			w.relay.inlet(func(in *splitter.Inlet) { test.empty(in) })
			d.lookAtInlets(t.Context(), k)
			w.kernel.wantSampled(t, "with room again", sampledIn{300_000, itsPort})
			d.lookAtInlets(t.Context(), k)
			w.kernel.wantSampled(t, "and after", sampledIn{300_000, itsPort})
		})
	}
}

func TestASampleRestsForAsLongAsTheRelayIsNearlyFull(t *testing.T) {
	w := newWorld(t, sampledMX(300_000))
	d := w.mustBoot()
	k := newInletKeeper()
	w.relay.inlet(func(in *splitter.Inlet) { in.Full = true })
	for range 3 {
		d.lookAtInlets(t.Context(), k)
		w.kernel.wantSampled(t, "full", sampledIn{0, itsPort})
		w.now = w.now.Add(2 * restFirst)
	}
	w.relay.inlet(func(in *splitter.Inlet) { in.Full = false })
	d.lookAtInlets(t.Context(), k)
	w.kernel.wantSampled(t, "with room again", sampledIn{300_000, itsPort})
}

// SetBackends writes the chains of all backends, that of the sampled flows too.
func TestAnotherBackendStateKeepsTheInlet(t *testing.T) {
	w := newWorld(t, sampledMX(300_000))
	d := w.mustBoot()
	split := d.view.Load().split("mx")
	if err := d.planes.setBackends(t.Context(), split, d.planes.found.Load()); err != nil {
		t.Fatal(err)
	}
	if got := w.kernel.given; got.SamplePort != itsPort {
		t.Errorf("the kernel was given port %d, want %d", got.SamplePort, itsPort)
	}
}

func TestTheKernelsFlowsThatPassTheRelayAreInTheNoticeOfAnEnd(t *testing.T) {
	w := newWorld(t, sampledMX(300_000))
	d := w.mustBoot()
	w.relay.inlet(func(in *splitter.Inlet) { in.Open = 3 })
	if e := d.ending(nil); e.Flows != 3 {
		t.Errorf("the notice has %d flows, want 3", e.Flows)
	}
}

var errNoTProxy = errors.New("nft_tproxy: no such file or directory")

func refusesSamples(splits []traffic.Split) error {
	if slices.ContainsFunc(splits, func(s traffic.Split) bool { return s.SamplePort != 0 }) {
		return errNoTProxy
	}
	return nil
}
