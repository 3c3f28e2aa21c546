package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/splitd/splitd/health"
	"github.com/splitd/splitd/netfilter"
	"github.com/splitd/splitd/splitter"
	"github.com/splitd/splitd/traffic"
)

// Kernel is the kernel data plane as the daemon uses it. Its changing methods
// are never called concurrently; Counts and Differences may be.
type Kernel interface {
	PrepareLegs(ctx context.Context, splits []traffic.Split) error
	AbandonLegs() error
	Apply(ctx context.Context, splits []traffic.Split, paths []traffic.ReturnPath) (changed bool, err error)
	SetWeights(ctx context.Context, splits ...traffic.Split) error
	SetBackends(ctx context.Context, splits ...traffic.Split) error
	Read(ctx context.Context) (map[string]netfilter.SplitState, error)
	Differences(ctx context.Context, splits []traffic.Split, paths []traffic.ReturnPath) ([]string, error)
	Counts(ctx context.Context, splits []traffic.Split) (map[traffic.BackendKey]traffic.Counts, error)
	Describe(ctx context.Context, splits []traffic.Split, paths []traffic.ReturnPath) (netfilter.Description, error)
	Flows(ctx context.Context, splits ...traffic.Split) (map[string]map[string]uint64, error)
	Evidence(ctx context.Context, splits []traffic.Split) ([]traffic.Evidence, error)
	OpenFlows(ctx context.Context, which netfilter.Which) ([]netfilter.OpenFlow, error)
	End(ctx context.Context, flows []netfilter.OpenFlow) (int, error)
	Left(ctx context.Context, splits []traffic.Split) (map[traffic.BackendKey]uint64, error)
	Free(ctx context.Context, splits []traffic.Split, from map[traffic.BackendKey][]netip.Addr) (int, error)
	Follow(ctx context.Context, current func() []traffic.Split) error
	Listen(ctx context.Context) error
	FlowNews(ctx context.Context, current func() []traffic.Split, told func(netfilter.FlowNews), missed func()) error
	Run(ctx context.Context) error
	Watch(ctx context.Context, changed func(netfilter.Stranger)) error
	Mended() uint64
	Moved() <-chan struct{}
	Others() (number uint32, certain bool)
	Include(ctx context.Context, splits []traffic.Split, paths []traffic.ReturnPath) (string, error)
	IncludeOpen(ctx context.Context, splits []traffic.Split, paths []traffic.ReturnPath) (string, error)
	Close() error
}

// Relay is the proxy data plane as the daemon uses it.
type Relay interface {
	MayListen(splits []traffic.Split) error
	Apply(ctx context.Context, splits []traffic.Split) error
	SetWeights(split traffic.Split) error
	SetBackends(split traffic.Split) error
	Counts() map[traffic.BackendKey]traffic.Counts
	Refusals() map[string]map[traffic.Refusal]uint64
	ShutOut() map[string]map[traffic.Refusal]time.Time
	LeftOut() map[traffic.BackendKey][]splitter.LeftOut
	Faults() splitter.Faults
	TeeCounts() map[string]splitter.TeeCounts
	OpenFlows(key traffic.BackendKey) []splitter.OpenFlow
	End(flows []splitter.OpenFlow) int
	Free(from map[traffic.BackendKey][]netip.Addr) int
	OpenInlet(split traffic.Split) (port uint16, err error)
	CloseInlet(split string)
	Inlets() map[string]splitter.Inlet
	FlowsOf(client netip.Addr, split string, most int) []splitter.ClientFlow
	Cut() int
	Run(ctx context.Context) error
}

// planes drives both data planes as one. Its changing methods are called under
// the daemon's change lock.
type planes struct {
	openKernel func() (Kernel, error)
	host       Host
	relay      Relay
	opened     chan<- Kernel // told once when the kernel plane opens; holds one
	log        *slog.Logger

	mu     sync.Mutex // guards kernel alone
	kernel Kernel     // nil until something needs it

	behind behind // what has moved from the kernel to the relay

	// found is what is left out of the planes because health found it down.
	// Stored under the change lock; what it points to does not change.
	found atomic.Pointer[findings]

	sampling atomic.Pointer[sampling] // see sampled
}

// inUse returns the kernel plane if it is open.
func (p *planes) inUse() Kernel {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.kernel
}

// needKernel opens the kernel plane when the splits or return paths use it.
// An error says that this process may not program the kernel.
func (p *planes) needKernel() (Kernel, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.kernel != nil {
		return p.kernel, nil
	}
	kernel, err := p.openKernel()
	if err != nil {
		return nil, err
	}
	p.kernel = kernel
	p.opened <- kernel
	return kernel, nil
}

// resolvedSplits are the definitions with the planes that they got.
func resolvedSplits(definitions []traffic.Split, modes map[string]traffic.Mode) []traffic.Split {
	splits := slices.Clone(definitions)
	for i := range splits {
		splits[i].Mode = modes[splits[i].Name]
	}
	return splits
}

// resolve replaces mode auto by the plane that this process may use. It says
// which one and why, because auto never decides in silence.
func (p *planes) resolve(definitions []traffic.Split) ([]traffic.Split, []string) {
	resolved := make([]traffic.Split, 0, len(definitions))
	var notes []string
	for _, s := range definitions {
		if s.Mode == traffic.ModeAuto {
			s.Mode = traffic.ModeKernel
			// Where another splitd holds the kernel, it is no place for a relay
			// beside it either: the kernel plane's error comes later.
			if _, err := p.needKernel(); err != nil && !errors.Is(err, netfilter.ErrAnotherSplitd) {
				s.Mode = traffic.ModeProxy
				notes = append(notes, fmt.Sprintf("split %q: mode auto became proxy: %v", s.Name, err))
			}
		}
		resolved = append(resolved, s)
	}
	return resolved, notes
}

// preflight asks the host whether these splits can work on it, before a start
// or a new definition.
func (p *planes) preflight(splits []traffic.Split, paths []traffic.ReturnPath) ([]string, error) {
	return p.askHost(splits, paths, func(_ Kernel, ofKernel []traffic.Split) ([]string, error) {
		return p.host.Preflight(ofKernel, paths)
	})
}

// glance is preflight for what is defined already.
func (p *planes) glance(splits []traffic.Split, paths []traffic.ReturnPath, replies replies) ([]string, error) {
	return p.askHost(splits, paths, func(kernel Kernel, ofKernel []traffic.Split) ([]string, error) {
		return p.host.Glance(ofKernel, paths, kernel.Others, replies)
	})
}

// askHost has the host asked about those of the splits that the kernel has to do
// with.
func (p *planes) askHost(splits []traffic.Split, paths []traffic.ReturnPath, ask func(Kernel, []traffic.Split) ([]string, error)) ([]string, error) {
	ofKernel := ofKernel(byMode(splits))
	if len(ofKernel) == 0 && len(paths) == 0 {
		return nil, nil
	}
	kernel, err := p.needKernel()
	if err != nil {
		return nil, explainKernel(err, ofKernel, paths)
	}
	return ask(kernel, ofKernel)
}

// apply brings both planes to exactly these splits and return paths. A split
// that moves between them is served by both for a moment, never by none: the
// relay takes what is new before the kernel, and lets go after it. A listener
// that cannot be bound is the likelier failure and so comes first; should the
// kernel refuse, the relay goes back to old. Before a relay is transparent the
// kernel is ready for it, and before the kernel samples the relay listens.
func (p *planes) apply(ctx context.Context, splits, old []traffic.Split, paths []traffic.ReturnPath) error {
	inKernel, inProxy := p.byMode(splits)
	oldKernel, oldProxy := p.byMode(old)
	moving := moved(oldProxy, inKernel)
	if err := p.prepare(ctx, inProxy); err != nil {
		return err
	}
	if err := p.relay.Apply(ctx, slices.Concat(inProxy, moving)); err != nil {
		if len(moving) == 0 {
			return err
		}
		moving = nil // what moves is in the way of what is new
		if err := p.relay.Apply(ctx, inProxy); err != nil {
			return err
		}
	}
	if p.inUse() == nil && len(ofKernel(inKernel, inProxy)) == 0 && len(paths) == 0 {
		return nil
	}
	kernel, err := p.needKernel()
	if err == nil {
		err = p.applyToKernel(ctx, kernel, splits, paths)
	}
	if err == nil {
		p.behind.moved(oldKernel, inProxy)
		if len(moving) > 0 {
			return p.relay.Apply(ctx, inProxy)
		}
		return nil
	}
	if back := p.relay.Apply(context.WithoutCancel(ctx), oldProxy); back != nil {
		return errors.Join(err, fmt.Errorf("put the relay back: %w", back))
	}
	return err
}

// moved are those of the old that are among the new by name.
func moved(old, now []traffic.Split) []traffic.Split {
	var found []traffic.Split
	for _, o := range old {
		if slices.ContainsFunc(now, func(n traffic.Split) bool { return n.Name == o.Name }) {
			found = append(found, o)
		}
	}
	return found
}

// setWeights changes the weights of splits that are already in their planes:
// those in the kernel all at once.
func (p *planes) setWeights(ctx context.Context, splits []traffic.Split) error {
	inKernel, inProxy := p.byMode(splits)
	for _, split := range inProxy {
		if err := p.relay.SetWeights(split); err != nil {
			return fmt.Errorf("set weights of split %q: %w", split.Name, err)
		}
	}
	if len(inKernel) == 0 {
		return nil
	}
	kernel, err := p.needKernel()
	if err != nil {
		return err
	}
	p.restate(inKernel)
	return kernel.SetWeights(ctx, inKernel...)
}

// setBackends brings the backends of a split that is already in its plane to
// what health has found.
func (p *planes) setBackends(ctx context.Context, split traffic.Split, found *findings) error {
	split = health.Withdraw(split, found.down)
	if split.Mode == traffic.ModeProxy {
		if err := p.relay.SetBackends(split); !errors.Is(err, splitter.ErrStopped) {
			return err
		}
		return nil // no new flow begins any more
	}
	if kernel := p.inUse(); kernel != nil {
		return kernel.SetBackends(ctx, p.sampled().of(split))
	}
	return nil
}

// counts reads the counters of all splits.
func (p *planes) counts(ctx context.Context, splits []traffic.Split) (map[traffic.BackendKey]traffic.Counts, error) {
	counts := p.relay.Counts()
	inKernel, _ := byMode(splits)
	kernel := p.inUse()
	if kernel == nil {
		return counts, nil
	}
	unread := p.addBehind(ctx, kernel, splits, counts)
	if len(inKernel) == 0 {
		return counts, unread
	}
	fromKernel, err := kernel.Counts(ctx, inKernel)
	for key, c := range fromKernel {
		// Of a split that has moved into the kernel the relay may have some yet.
		if before := counts[key].Active; before != nil && c.Active != nil {
			c.Active = new(*c.Active + *before)
		}
		counts[key] = c
	}
	return counts, errors.Join(err, unread)
}

// flows reads how many flows each backend of the splits has been sent, by split
// and backend, cheaply.
func (p *planes) flows(ctx context.Context, splits []traffic.Split) (map[string]map[string]uint64, error) {
	inKernel, inProxy := byMode(splits)
	flows := map[string]map[string]uint64{}
	if kernel := p.inUse(); kernel != nil && len(inKernel) > 0 {
		var err error
		if flows, err = kernel.Flows(ctx, inKernel...); err != nil {
			return nil, err
		}
	} else {
		inProxy = splits
	}
	counts := p.relay.Counts()
	for _, s := range inProxy {
		flows[s.Name] = map[string]uint64{}
		for _, b := range s.Backends() {
			flows[s.Name][b.Name] = counts[traffic.BackendKey{Split: s.Name, Backend: b.Name}].Flows
		}
	}
	return flows, nil
}

// mended is how often the kernel plane has put back by itself what return paths
// lacked.
func (p *planes) mended() uint64 {
	if kernel := p.inUse(); kernel != nil {
		return kernel.Mended()
	}
	return 0
}

// describe renders what is wanted in the kernel as text: as it stands there
// when the plane is open, else as it would be new.
func (p *planes) describe(ctx context.Context, splits []traffic.Split, paths []traffic.ReturnPath, settings netfilter.Settings) (netfilter.Description, error) {
	if kernel := p.inUse(); kernel != nil {
		return kernel.Describe(ctx, p.forKernel(splits), paths)
	}
	return netfilter.Describe(splits, paths, settings)
}

// differences lists what the kernel does otherwise than these splits and paths
// want; none when nothing of them is in the kernel.
func (p *planes) differences(ctx context.Context, splits []traffic.Split, paths []traffic.ReturnPath) ([]string, error) {
	kernel := p.inUse()
	if kernel == nil {
		return nil, nil
	}
	return kernel.Differences(ctx, p.forKernel(splits), paths)
}

// byMode tells the kernel's splits, as they are sampled, from the relay's, both
// without what health has found down.
func (p *planes) byMode(splits []traffic.Split) (kernel, proxy []traffic.Split) {
	kernel, proxy = byMode(splits)
	found, sampled := p.found.Load(), p.sampled()
	for i, s := range kernel {
		kernel[i] = sampled.of(s)
	}
	for _, all := range [][]traffic.Split{kernel, proxy} {
		for i, s := range all {
			all[i] = health.Withdraw(s, found.down)
		}
	}
	return kernel, proxy
}

// byMode tells the kernel's splits from the relay's.
func byMode(splits []traffic.Split) (kernel, proxy []traffic.Split) {
	kernel = make([]traffic.Split, 0, len(splits)) // mostly all: there may be thousands
	for _, s := range splits {
		if s.Mode == traffic.ModeProxy {
			proxy = append(proxy, s)
		} else {
			kernel = append(kernel, s)
		}
	}
	return kernel, proxy
}

// evidence gathers what is known of the kernel's flows, by split. Where that
// fails, counts says why.
func (p *planes) evidence(ctx context.Context, splits []traffic.Split) map[string][]traffic.Evidence {
	inKernel, _ := byMode(splits)
	kernel := p.inUse()
	if kernel == nil || len(inKernel) == 0 {
		return nil
	}
	all, err := kernel.Evidence(ctx, inKernel)
	if err != nil {
		return nil
	}
	bySplit := map[string][]traffic.Evidence{}
	for _, e := range all {
		bySplit[e.Split] = append(bySplit[e.Split], e)
	}
	return bySplit
}
