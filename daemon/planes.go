package daemon

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"

	"github.com/splitd/splitd/netfilter"
	"github.com/splitd/splitd/traffic"
)

// Kernel is the kernel data plane as the daemon uses it. Its changing methods
// are never called concurrently; Counts and Differences may be.
type Kernel interface {
	Preflight(splits []traffic.Split, paths []traffic.ReturnPath) (warnings []string, err error)
	Apply(ctx context.Context, splits []traffic.Split, paths []traffic.ReturnPath) (changed bool, err error)
	SetWeights(ctx context.Context, split traffic.Split) error
	Read(ctx context.Context) (map[string]netfilter.SplitState, error)
	Differences(ctx context.Context, splits []traffic.Split, paths []traffic.ReturnPath) ([]string, error)
	Counts(ctx context.Context, splits []traffic.Split) (map[traffic.BackendKey]traffic.Counts, error)
	Flows(ctx context.Context, split traffic.Split) (map[string]uint64, error)
	Run(ctx context.Context) error
	Close() error
}

// Relay is the proxy data plane as the daemon uses it.
type Relay interface {
	Apply(ctx context.Context, splits []traffic.Split) error
	SetWeights(split traffic.Split) error
	Counts() map[traffic.BackendKey]traffic.Counts
	Run(ctx context.Context) error
}

// planes drives both data planes as one. Its changing methods are called under
// the daemon's change lock.
type planes struct {
	openKernel func() (Kernel, error)
	relay      Relay
	opened     chan<- Kernel // told once when the kernel plane opens; holds one

	mu     sync.Mutex // guards kernel alone
	kernel Kernel     // nil until something needs it
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

// resolve replaces mode auto by the plane that this process may use. It says
// which one and why, because auto never decides in silence.
func (p *planes) resolve(definitions []traffic.Split) ([]traffic.Split, []string) {
	resolved := make([]traffic.Split, 0, len(definitions))
	var notes []string
	for _, s := range definitions {
		if s.Mode == traffic.ModeAuto {
			s.Mode = traffic.ModeKernel
			if _, err := p.needKernel(); err != nil {
				s.Mode = traffic.ModeProxy
				notes = append(notes, fmt.Sprintf("split %q: mode auto became proxy: %v", s.Name, err))
			}
		}
		resolved = append(resolved, s)
	}
	return resolved, notes
}

// preflight asks the host whether these splits can work on it.
func (p *planes) preflight(splits []traffic.Split, paths []traffic.ReturnPath) ([]string, error) {
	inKernel, _ := byMode(splits)
	if len(inKernel) == 0 && len(paths) == 0 {
		return nil, nil
	}
	kernel, err := p.needKernel()
	if err != nil {
		return nil, err
	}
	return kernel.Preflight(inKernel, paths)
}

// apply brings both planes to exactly these splits and return paths. The relay
// goes first because a listener that cannot be bound is the likelier failure;
// should the kernel then refuse, the relay goes back to old.
func (p *planes) apply(ctx context.Context, splits, old []traffic.Split, paths []traffic.ReturnPath) error {
	inKernel, inProxy := byMode(splits)
	if err := p.relay.Apply(ctx, inProxy); err != nil {
		return err
	}
	if p.inUse() == nil && len(inKernel) == 0 && len(paths) == 0 {
		return nil
	}
	kernel, err := p.needKernel()
	if err == nil {
		_, err = kernel.Apply(ctx, inKernel, paths)
	}
	if err == nil {
		return nil
	}
	_, oldProxy := byMode(old)
	if back := p.relay.Apply(ctx, oldProxy); back != nil {
		return errors.Join(err, fmt.Errorf("put the relay back: %w", back))
	}
	return err
}

// setWeights changes the weights of one split that is already in its plane.
func (p *planes) setWeights(ctx context.Context, split traffic.Split) error {
	if split.Mode == traffic.ModeProxy {
		return p.relay.SetWeights(split)
	}
	kernel, err := p.needKernel()
	if err != nil {
		return err
	}
	return kernel.SetWeights(ctx, split)
}

// counts reads the counters of all splits.
func (p *planes) counts(ctx context.Context, splits []traffic.Split) (map[traffic.BackendKey]traffic.Counts, error) {
	counts := p.relay.Counts()
	inKernel, _ := byMode(splits)
	kernel := p.inUse()
	if kernel == nil || len(inKernel) == 0 {
		return counts, nil
	}
	fromKernel, err := kernel.Counts(ctx, inKernel)
	maps.Copy(counts, fromKernel)
	return counts, err
}

// flows reads how many flows each backend of one split has been sent, cheaply.
func (p *planes) flows(ctx context.Context, split traffic.Split) (map[string]uint64, error) {
	if kernel := p.inUse(); kernel != nil && split.Mode == traffic.ModeKernel {
		return kernel.Flows(ctx, split)
	}
	flows := map[string]uint64{}
	counts := p.relay.Counts()
	for _, b := range split.Backends() {
		flows[b.Name] = counts[traffic.BackendKey{Split: split.Name, Backend: b.Name}].Flows
	}
	return flows, nil
}

// differences lists what the kernel does otherwise than these splits and paths
// want; none when nothing of them is in the kernel.
func (p *planes) differences(ctx context.Context, splits []traffic.Split, paths []traffic.ReturnPath) ([]string, error) {
	kernel := p.inUse()
	if kernel == nil {
		return nil, nil
	}
	inKernel, _ := byMode(splits)
	return kernel.Differences(ctx, inKernel, paths)
}

// byMode tells the kernel's splits from the relay's.
func byMode(splits []traffic.Split) (kernel, proxy []traffic.Split) {
	for _, s := range splits {
		if s.Mode == traffic.ModeProxy {
			proxy = append(proxy, s)
		} else {
			kernel = append(kernel, s)
		}
	}
	return kernel, proxy
}
