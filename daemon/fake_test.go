package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/splitd/splitd/configs"
	"github.com/splitd/splitd/control"
	"github.com/splitd/splitd/control/api"
	"github.com/splitd/splitd/health"
	"github.com/splitd/splitd/netfilter"
	"github.com/splitd/splitd/netfilter/doctor"
	"github.com/splitd/splitd/shadow/runner"
	"github.com/splitd/splitd/splitter"
	"github.com/splitd/splitd/state"
	"github.com/splitd/splitd/traffic"
)

// crash is what the fakes panic with where a process would die.
type crash struct{}

// fuse blows at one step of everything that has an effect.
type fuse struct{ left atomic.Int64 }

func (f *fuse) burn() {
	if f.left.Add(-1) == 0 {
		panic(crash{})
	}
}

// fakeKernel keeps splits as the kernel would: it outlives the daemon.
type fakeKernel struct {
	mu        sync.Mutex // guards splits and freed against readers, who come at any time
	fuse      *fuse
	splits    map[string]traffic.Split
	fail      error           // what the next changes answer
	abandoned int             // times that what was prepared was given up
	refuse    error           // what preflight answers
	shadows   []doctor.Shadow // that Examine was asked about
	found     []doctor.Finding
	warns     []string // what a glance finds besides a note
	// failAfter is what the next Apply answers after it has changed things.
	failAfter error
	countErr  error // why counters cannot be read
	flows     map[string]uint64
	forced    bool          // `off --force` has turned all splits off
	mended    uint64        // return paths, by the kernel plane itself
	moved     chan struct{} // tells of routers with another link-layer address
	slow      time.Duration // what SetBackends takes
	open      []netfilter.OpenFlow
	evidence  []traffic.Evidence
	freed     []traffic.BackendKey
	freeErr   error // why nothing can be freed
	strict    bool  // conntrack picks up no flow in its middle
	// refuseSamples is a kernel without nft_tproxy; given is what SetBackends got last.
	refuseSamples bool
	given         traffic.Split
	meanwhile     func() // happens while the next one who looks at conntrack does so
}

func (k *fakeKernel) weight(split string) traffic.Weight {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.splits[split].CandidateWeight()
}

var (
	_ Kernel = (*fakeKernel)(nil)
	_ Host   = (*fakeKernel)(nil)
)

func (k *fakeKernel) Preflight([]traffic.Split, []traffic.ReturnPath) ([]string, error) {
	return []string{"note: fake", "beware"}, k.refuse
}

func (k *fakeKernel) PicksUp() bool { return !k.strict }

func (k *fakeKernel) Others() (uint32, bool) { return 0, false }

func (k *fakeKernel) Glance([]traffic.Split, []traffic.ReturnPath, doctor.Others, replies) ([]string, error) {
	return append([]string{"note: fake"}, k.warns...), k.refuse
}

func (k *fakeKernel) Examine(_ context.Context, _ []traffic.Split, _ []traffic.ReturnPath, _ replies, shadows []doctor.Shadow) ([]doctor.Finding, error) {
	k.shadows = shadows
	return k.found, nil
}

func (k *fakeKernel) PrepareLegs(context.Context, []traffic.Split) error { return k.fail }

func (k *fakeKernel) AbandonLegs() error {
	k.abandoned++
	return nil
}

func (k *fakeKernel) Apply(_ context.Context, splits []traffic.Split, _ []traffic.ReturnPath) (bool, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.fuse.burn()
	if k.fail != nil {
		return false, k.fail
	}
	if err := refusesSamples(splits); k.refuseSamples && err != nil {
		return false, err
	}
	k.splits = map[string]traffic.Split{}
	for _, s := range splits {
		k.splits[s.Name] = s
	}
	k.fuse.burn()
	if err := k.failAfter; err != nil {
		k.failAfter = nil
		return true, err
	}
	return true, nil
}

func (k *fakeKernel) SetWeights(_ context.Context, splits ...traffic.Split) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.fuse.burn()
	if k.fail != nil {
		return k.fail
	}
	for _, s := range splits {
		if _, ok := k.splits[s.Name]; !ok {
			return netfilter.ErrNotInKernel
		}
	}
	for _, s := range splits {
		k.splits[s.Name] = s
	}
	k.fuse.burn()
	return nil
}

func (k *fakeKernel) SetBackends(_ context.Context, splits ...traffic.Split) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.fuse.burn()
	time.Sleep(k.slow)
	if k.fail != nil {
		return k.fail
	}
	for _, s := range splits {
		have, ok := k.splits[s.Name]
		if !ok {
			return netfilter.ErrNotInKernel
		}
		k.given = s
		have.Candidates = slices.Clone(have.Candidates)
		for i := range have.Candidates {
			have.Candidates[i].Down, have.Candidates[i].Closed = s.Candidates[i].Down, s.Candidates[i].Closed
		}
		k.splits[s.Name] = have
	}
	return nil
}

// down are the addresses that the kernel leaves out.
func (k *fakeKernel) down(split string) []netip.Addr {
	k.mu.Lock()
	defer k.mu.Unlock()
	return leftOut(k.splits[split])
}

func leftOut(s traffic.Split) []netip.Addr {
	var down []netip.Addr
	for _, c := range s.Candidates {
		down = append(down, c.Down...)
	}
	return down
}

func (k *fakeKernel) Read(context.Context) (map[string]netfilter.SplitState, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	states := map[string]netfilter.SplitState{}
	for name, s := range k.splits {
		state := netfilter.SplitState{Generation: s.Generation, Weights: s.Weights(), Sample: s.Sample, Slots: s.Layout(), Forced: k.forced, Down: map[string]netfilter.Families{}, Clients: map[string]traffic.Clients{}}
		for _, c := range s.Candidates {
			state.Clients[c.Name] = c.Clients
			var f netfilter.Families
			for _, ip := range c.Down { // each is the only one of its family
				f.IPv4, f.IPv6 = f.IPv4 || ip.Is4(), f.IPv6 || ip.Is6()
			}
			state.Down[c.Name] = f
			if c.Closed {
				state.Closed = append(state.Closed, c.Name)
			}
		}
		states[name] = state
	}
	return states, nil
}

func (k *fakeKernel) Differences(_ context.Context, splits []traffic.Split, _ []traffic.ReturnPath) ([]string, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	var differences []string
	for _, s := range splits {
		if got, want := leftOut(k.splits[s.Name]), leftOut(s); !slices.Equal(got, want) {
			differences = append(differences, fmt.Sprintf("%s: wanted without %v, is without %v", s.Name, want, got))
		}
		if have := k.splits[s.Name]; have.Sample != s.Sample {
			differences = append(differences, fmt.Sprintf("%s: wanted a sample of %s, has %s", s.Name, s.Sample, have.Sample))
		}
		if have := k.splits[s.Name]; !maps.Equal(have.Weights(), s.Weights()) || have.Generation != s.Generation {
			differences = append(differences, fmt.Sprintf("%s: wanted %v at %d, has %v at %d", s.Name, s.Weights(), s.Generation, have.Weights(), have.Generation))
		}
	}
	return differences, nil
}

func (k *fakeKernel) Describe(context.Context, []traffic.Split, []traffic.ReturnPath) (netfilter.Description, error) {
	return netfilter.Description{}, nil
}

func (k *fakeKernel) Counts(_ context.Context, splits []traffic.Split) (map[traffic.BackendKey]traffic.Counts, error) {
	counts := map[traffic.BackendKey]traffic.Counts{}
	for _, s := range splits {
		for _, b := range s.Backends() {
			if k.countErr == nil {
				counts[traffic.BackendKey{Split: s.Name, Backend: b.Name}] = traffic.Counts{}
			}
		}
	}
	return counts, k.countErr
}

func (k *fakeKernel) Flows(_ context.Context, splits ...traffic.Split) (map[string]map[string]uint64, error) {
	flows := map[string]map[string]uint64{}
	for _, s := range splits {
		flows[s.Name] = maps.Clone(k.flows)
	}
	return flows, nil
}

func (k *fakeKernel) Evidence(context.Context, []traffic.Split) ([]traffic.Evidence, error) {
	return k.evidence, k.countErr
}

func (k *fakeKernel) OpenFlows(_ context.Context, which netfilter.Which) ([]netfilter.OpenFlow, error) {
	if k.countErr != nil {
		return nil, k.countErr
	}
	var open []netfilter.OpenFlow
	for _, f := range k.open {
		if (which.Backend == "" || f.Backend == which.Backend) && (!which.Clients.IsValid() || which.Clients.Contains(f.Client.Addr())) && leads(which.Splits, f) {
			open = append(open, f)
		}
	}
	if which.Most > 0 && len(open) > which.Most {
		open = open[:which.Most]
	}
	if meanwhile := k.meanwhile; meanwhile != nil {
		k.meanwhile = nil
		meanwhile()
	}
	return open, nil
}

// leads says whether a flow is found by one of the definitions.
func leads(definitions []traffic.Split, f netfilter.OpenFlow) bool {
	return slices.ContainsFunc(definitions, func(s traffic.Split) bool {
		return s.Name == f.Split && slices.Contains(s.Service.Addresses, f.Service.Addr()) && slices.ContainsFunc(s.Backends(), func(b traffic.Backend) bool {
			return b.Name == f.Backend && slices.ContainsFunc(b.Addresses, func(a traffic.Address) bool { return a.IP == f.Server.Addr() })
		})
	})
}

func (k *fakeKernel) End(_ context.Context, flows []netfilter.OpenFlow) (ended int, err error) {
	for _, f := range flows {
		if i := slices.IndexFunc(k.open, func(o netfilter.OpenFlow) bool { return o.Client == f.Client }); i >= 0 {
			k.open = slices.Delete(k.open, i, i+1)
			ended++
		}
	}
	return ended, k.fail
}

func (k *fakeKernel) Left(ctx context.Context, splits []traffic.Split) (map[traffic.BackendKey]uint64, error) {
	open, err := k.OpenFlows(ctx, netfilter.Which{Splits: splits})
	left := map[traffic.BackendKey]uint64{}
	for _, f := range open {
		left[f.BackendKey]++
	}
	return left, err
}

func (k *fakeKernel) Free(_ context.Context, splits []traffic.Split, from map[traffic.BackendKey][]netip.Addr) (int, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if err := k.freeErr; err != nil {
		return 0, err
	}
	for key := range from {
		if slices.ContainsFunc(splits, func(s traffic.Split) bool { return s.Name == key.Split }) {
			k.freed = append(k.freed, key)
		}
	}
	return len(from), nil
}

func (k *fakeKernel) freedSoFar() []traffic.BackendKey {
	k.mu.Lock()
	defer k.mu.Unlock()
	return slices.Clone(k.freed)
}

func (k *fakeKernel) Follow(ctx context.Context, _ func() []traffic.Split) error {
	<-ctx.Done()
	return nil
}

func (k *fakeKernel) FlowNews(ctx context.Context, _ func() []traffic.Split, _ func(netfilter.FlowNews), _ func()) error {
	<-ctx.Done()
	return nil
}

func (k *fakeKernel) Listen(ctx context.Context) error { <-ctx.Done(); return nil }
func (k *fakeKernel) Run(ctx context.Context) error    { <-ctx.Done(); return nil }
func (k *fakeKernel) Watch(ctx context.Context, _ func(netfilter.Stranger)) error {
	<-ctx.Done()
	return nil
}

func (k *fakeKernel) Include(context.Context, []traffic.Split, []traffic.ReturnPath) (string, error) {
	return "all tables", nil
}

func (k *fakeKernel) IncludeOpen(context.Context, []traffic.Split, []traffic.ReturnPath) (string, error) {
	return "open tables", nil
}

func (k *fakeKernel) Mended() uint64 { return k.mended }

func (k *fakeKernel) Moved() <-chan struct{} { return k.moved }

func (k *fakeKernel) Close() error { return nil }

// fakeRelay takes everything, and keeps how it would draw.
type fakeRelay struct {
	mu      sync.Mutex // guards splits and what is freed
	splits  []traffic.Split
	applies int                   // how often all was applied
	open    []splitter.OpenFlow   // goes on
	clients []splitter.ClientFlow // goes on as well
	freed   []traffic.BackendKey
	freedAt []netip.Addr
	fail    error // what an Apply answers
	busy    error // why it cannot listen
	inlets  map[string]splitter.Inlet
	deaf    error // why it cannot listen for a sample
	out     map[traffic.BackendKey][]splitter.LeftOut
	shut    map[string]map[traffic.Refusal]time.Time
}

var _ Relay = (*fakeRelay)(nil)

func (r *fakeRelay) MayListen([]traffic.Split) error { return r.busy }

func (r *fakeRelay) Apply(_ context.Context, splits []traffic.Split) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.fail != nil {
		return r.fail
	}
	r.splits = slices.Clone(splits)
	r.applies++
	return nil
}

func (r *fakeRelay) SetWeights(s traffic.Split) error { return r.SetBackends(s) }

func (r *fakeRelay) SetBackends(s traffic.Split) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	i := slices.IndexFunc(r.splits, func(have traffic.Split) bool { return have.Name == s.Name })
	if i < 0 {
		return fmt.Errorf("split %q is not served", s.Name)
	}
	r.splits[i] = s
	return nil
}

// mx is that split as the relay draws.
func (r *fakeRelay) mx() traffic.Split {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.splits[slices.IndexFunc(r.splits, func(s traffic.Split) bool { return s.Name == "mx" })]
}

func (r *fakeRelay) Counts() map[traffic.BackendKey]traffic.Counts {
	counts := map[traffic.BackendKey]traffic.Counts{}
	for _, f := range r.open {
		c := counts[f.BackendKey]
		if c.Active == nil {
			c.Active = new(uint64)
		}
		*c.Active++
		counts[f.BackendKey] = c
	}
	return counts
}

func (r *fakeRelay) TeeCounts() map[string]splitter.TeeCounts { return nil }

func (r *fakeRelay) OpenFlows(key traffic.BackendKey) []splitter.OpenFlow {
	return slices.DeleteFunc(slices.Clone(r.open), func(f splitter.OpenFlow) bool { return f.BackendKey != key })
}

func (r *fakeRelay) End(flows []splitter.OpenFlow) (ended int) {
	for _, f := range flows {
		if i := slices.IndexFunc(r.open, func(o splitter.OpenFlow) bool { return o.BackendKey == f.BackendKey }); i >= 0 {
			r.open = slices.Delete(r.open, i, i+1)
			ended++
		}
	}
	return ended
}

func (r *fakeRelay) Free(from map[traffic.BackendKey][]netip.Addr) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	for key, addresses := range from {
		r.freed = append(r.freed, key)
		r.freedAt = append(r.freedAt, addresses...)
	}
	return 0
}

func (r *fakeRelay) FlowsOf(client netip.Addr, split string, most int) []splitter.ClientFlow {
	flows := slices.DeleteFunc(slices.Clone(r.clients), func(f splitter.ClientFlow) bool {
		return f.Client.Addr() != client || split != "" && f.Split != split
	})
	return flows[:min(most, len(flows))]
}

func (r *fakeRelay) OpenInlet(split traffic.Split) (uint16, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.deaf != nil {
		return 0, r.deaf
	}
	in, there := r.inlets[split.Name]
	if !there {
		in.Port = 61000 + uint16(len(r.inlets))
	}
	if r.inlets == nil {
		r.inlets = map[string]splitter.Inlet{}
	}
	r.inlets[split.Name] = in
	return in.Port, nil
}

func (r *fakeRelay) CloseInlet(split string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.inlets, split)
}

func (r *fakeRelay) Inlets() map[string]splitter.Inlet {
	r.mu.Lock()
	defer r.mu.Unlock()
	return maps.Clone(r.inlets)
}

// inlet has that of mx do something.
func (r *fakeRelay) inlet(does func(*splitter.Inlet)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	in := r.inlets["mx"]
	does(&in)
	r.inlets["mx"] = in
}

func (r *fakeRelay) LeftOut() map[traffic.BackendKey][]splitter.LeftOut { return r.out }

func (r *fakeRelay) ShutOut() map[string]map[traffic.Refusal]time.Time { return r.shut }

func (r *fakeRelay) Cut() int                                        { return 0 }
func (r *fakeRelay) Faults() splitter.Faults                         { return splitter.Faults{} }
func (r *fakeRelay) Refusals() map[string]map[traffic.Refusal]uint64 { return nil }
func (r *fakeRelay) Run(ctx context.Context) error                   { <-ctx.Done(); return nil }

// checks find everybody alive but those who are dead. The fixed clock of a
// world makes none: see watched.
type checks struct{ dead *sync.Map }

func (c checks) Check(_ context.Context, t health.Target) health.Result {
	if c.dead != nil {
		if _, dead := c.dead.Load(t.Address); dead {
			return health.Result{Outcome: health.Failed, Reason: "connection refused"}
		}
	}
	return health.Result{Outcome: health.Passed}
}

// fusedStore is the real store with the fuse around its writes, and a fault
// that can be switched on.
type fusedStore struct {
	*state.Store
	world *world
}

func (s fusedStore) Commit(records []state.Record, entries []state.Entry) ([]state.Entry, error) {
	return s.write(func() ([]state.Entry, error) { return s.Store.Commit(records, entries) })
}

func (s fusedStore) CommitRunning(running state.Running, records []state.Record, entries []state.Entry) ([]state.Entry, error) {
	return s.write(func() ([]state.Entry, error) { return s.Store.CommitRunning(running, records, entries) })
}

func (s fusedStore) write(commit func() ([]state.Entry, error)) ([]state.Entry, error) {
	s.world.fuse.burn()
	if s.world.diskFull {
		return nil, errDiskFull
	}
	s.world.await()
	numbered, err := commit()
	s.world.fuse.burn()
	return numbered, err
}

func (s fusedStore) History(split string, limit int) ([]state.Entry, error) {
	s.world.await()
	return s.Store.History(split, limit)
}

// await hangs as the disk does.
func (w *world) await() {
	answer := w.disk.Load()
	if answer == nil {
		return
	}
	select {
	case w.hanging <- struct{}{}:
	default:
	}
	<-*answer
}

var errDiskFull = errors.New("no space left on device")

// world is what outlives a daemon: the kernel, the disk, the files.
type world struct {
	t        *testing.T
	dir      string
	fuse     *fuse
	kernel   *fakeKernel
	relay    *fakeRelay // it does not outlive a daemon; its open flows are the test's
	files    configs.Definition
	badFile  error
	diskFull bool
	locked   error // why the store cannot be opened
	fileless bool  // the split stands on the command line
	now      time.Time

	disk    atomic.Pointer[chan struct{}] // writes wait for it while it is set
	hanging chan struct{}                 // told when one begins to wait
}

// hang makes the disk hang until the returned function is called.
func (w *world) hang() (answer func()) {
	answers := make(chan struct{})
	w.disk.Store(&answers)
	return func() {
		w.disk.Store(nil)
		close(answers)
	}
}

func newWorld(t *testing.T, splits ...traffic.Split) *world {
	t.Helper()
	w := &world{t: t, dir: t.TempDir(), fuse: &fuse{}, now: noon, files: configs.Definition{Splits: splits}, hanging: make(chan struct{}, 1)}
	w.kernel, w.relay = &fakeKernel{fuse: w.fuse}, &fakeRelay{}
	return w
}

func (w *world) clock() time.Time { return w.now }

// boot starts a daemon in the world, as far as its first apply.
func (w *world) boot() (*Daemon, error) { return w.bootWith(func(*Daemon) {}) }

// bootWith is boot, with something done to the daemon before it begins.
func (w *world) bootWith(prepare func(*Daemon)) (*Daemon, error) {
	config := configs.Config{StateDir: w.dir, Definition: w.files}
	d := New(Options{
		Config: config,
		Reload: func() (configs.Config, error) {
			config.Definition = w.files
			return config, w.badFile
		},
		Sources:    "the files",
		Fileless:   w.fileless,
		OpenKernel: func() (Kernel, error) { return w.kernel, nil },
		Relay:      w.relay,
		Stage:      here{runner.NewBudget(shadowBudget), w.clock, slog.New(slog.DiscardHandler)},
		Host:       w.kernel,
		OpenStore: func() (Store, error) {
			if w.locked != nil {
				return nil, w.locked
			}
			store, err := state.Open(filepath.Join(w.dir, storeFile))
			if err != nil {
				return nil, err
			}
			goOn(store, w.dir, slog.New(slog.DiscardHandler))
			return fusedStore{store, w}, nil
		},
		UID:     1000,
		Checker: checks{}, Rand: func() float64 { return 0 },
		Log: slog.New(slog.DiscardHandler),
		Now: w.clock,
	})
	d.journal = func(...state.Entry) error { return nil }
	prepare(d)
	return d, d.begins(w.t.Context())
}

func (w *world) mustBoot() *Daemon {
	w.t.Helper()
	d, err := w.boot()
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _ = d.stop() })
	return d
}

// set asks for a weight of the split mx.
func (w *world) set(d *Daemon, weight traffic.Weight) (api.Change, error) {
	return d.Set(w.t.Context(), control.Actor{User: "ann"}, "mx", api.SetRequest{WeightPPM: new(int(weight))})
}
