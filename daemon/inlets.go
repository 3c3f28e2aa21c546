package daemon

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/splitd/splitd/splitter"
	"github.com/splitd/splitd/traffic"
)

// sampling says where the relay takes over what the kernel samples of its splits. It
// is never changed: the planes have another one then, stored under the change lock.
type sampling struct {
	// ports are those of the relay's inlets, by split. A split keeps its own until
	// nothing of it is sampled and its last flow there has ended.
	ports map[string]uint16
	// resting are the splits of which nothing is sampled for now, whatever was asked
	// for, and why.
	resting map[string]string
	// refused are those that cannot be sampled as they are, and why.
	refused map[string]string
	ended   bool // this daemon ends: nothing is sampled any more
}

// of is a split of the kernel as it is sampled.
func (s *sampling) of(split traffic.Split) traffic.Split {
	split.SamplePort = s.ports[split.Name]
	if _, rests := s.resting[split.Name]; rests || s.ended {
		split.Sample = 0
	}
	return split
}

// trouble is why nothing of a split is sampled that is to be; "" where it is.
func (s *sampling) trouble(split traffic.Split) string {
	switch {
	case split.Mode == traffic.ModeProxy || split.Sample == 0 || s.ended:
		return ""
	case !speaksTCP(split):
		return "nothing of it is sampled: shadows are of TCP, and it has no port of that"
	case s.resting[split.Name] != "":
		return "its sample rests: " + s.resting[split.Name]
	case s.refused[split.Name] != "":
		return "nothing of it is sampled: " + s.refused[split.Name]
	}
	return ""
}

// remains are what the kernel has of splits that it has no more of, whose flows the
// relay has yet: packets of those find it, and nothing is drawn.
func (s *sampling) remains(inKernel []traffic.Split) []traffic.Split {
	var all []traffic.Split
	for _, name := range slices.Sorted(maps.Keys(s.ports)) {
		if !slices.ContainsFunc(inKernel, func(k traffic.Split) bool { return k.Name == name }) {
			all = append(all, traffic.Split{
				Name: name, Mode: traffic.ModeKernel, SamplePort: s.ports[name], Primary: traffic.Backend{Name: "gone", Local: true},
			})
		}
	}
	return all
}

// with returns one with other ports and rests.
func (s *sampling) with(change func(next *sampling)) *sampling {
	next := &sampling{ports: maps.Clone(s.ports), resting: maps.Clone(s.resting), refused: maps.Clone(s.refused), ended: s.ended}
	if next.ports == nil {
		next.ports, next.resting, next.refused = map[string]uint16{}, map[string]string{}, map[string]string{}
	}
	change(next)
	return next
}

// sampled is what there is of it, never nil.
func (p *planes) sampled() *sampling {
	if s := p.sampling.Load(); s != nil {
		return s
	}
	return &sampling{}
}

// wantsInlet says whether one of the splits is to be sampled by a relay that does not
// listen for it yet. For those the kernel has to be given more than weights.
func (p *planes) wantsInlet(splits []traffic.Split) bool {
	s := p.sampled()
	inKernel, _ := byMode(splits)
	return slices.ContainsFunc(inKernel, func(k traffic.Split) bool { return s.ports[k.Name] == 0 && s.toSample(k) })
}

// toSample says whether flows of a split of the kernel are to pass the relay. It
// carries TCP alone.
func (s *sampling) toSample(split traffic.Split) bool {
	return s.of(split).Sample > 0 && speaksTCP(split)
}

func speaksTCP(split traffic.Split) bool {
	return slices.ContainsFunc(split.Service.Ports, func(p traffic.Port) bool { return p.Transport == traffic.TCP })
}

// openInlets has the relay listen for what is to be sampled of the splits, and tells
// it what has become of those that it listens for. It returns those that are new. A
// split for which it cannot listen is not sampled: all of its flows stay the
// kernel's.
func (p *planes) openInlets(splits []traffic.Split, paths []traffic.ReturnPath) (fresh []string) {
	before := p.sampled()
	inKernel, _ := byMode(splits)
	next := before.with(func(next *sampling) {
		clear(next.refused)
		for _, split := range inKernel {
			had := next.ports[split.Name]
			if had == 0 && !before.toSample(split) {
				continue
			}
			port, err := p.openInlet(before.of(split), paths)
			switch {
			case err == nil:
				next.ports[split.Name] = port
				if port != had {
					fresh = append(fresh, split.Name)
				}
			case had == 0 && !errors.Is(err, splitter.ErrStopped):
				next.refused[split.Name] = err.Error()
				if before.refused[split.Name] != err.Error() {
					p.log.Warn("nothing of the split is sampled, all of its flows stay the kernel's", "split", split.Name, "error", err)
				}
			}
		}
	})
	p.sampling.Store(next)
	return fresh
}

func (p *planes) openInlet(split traffic.Split, paths []traffic.ReturnPath) (uint16, error) {
	for _, path := range paths {
		if slices.ContainsFunc(split.Primary.Addresses, func(a traffic.Address) bool { return a.IP == path.Via }) {
			return 0, fmt.Errorf("the primary %q is the router of return path %q, by which the kernel would send it what the relay is to get: let another host shadow it", split.Primary.Name, path.Name)
		}
	}
	return p.relay.OpenInlet(split)
}

// restate tells the inlets of splits what they have become.
func (p *planes) restate(inKernel []traffic.Split) {
	for _, split := range inKernel {
		if split.SamplePort != 0 {
			if _, err := p.relay.OpenInlet(split); err != nil && !errors.Is(err, splitter.ErrStopped) {
				p.log.Warn("tell the inlet of a split what it has become", "split", split.Name, "error", err)
			}
		}
	}
}

// closeInlets forgets the inlets of splits which the kernel hands nothing over to.
func (p *planes) closeInlets(names []string) {
	p.sampling.Store(p.sampled().with(func(next *sampling) {
		for _, name := range names {
			delete(next.ports, name)
		}
	}))
	for _, name := range names {
		p.relay.CloseInlet(name)
	}
}

// applyToKernel brings the kernel to the splits, sampled as they are to be. Where it
// refuses what has come to be sampled, it does without.
func (p *planes) applyToKernel(ctx context.Context, kernel Kernel, splits []traffic.Split, paths []traffic.ReturnPath) error {
	fresh := p.openInlets(splits, paths)
	_, err := kernel.Apply(ctx, p.forKernel(splits), paths)
	if err == nil || len(fresh) == 0 {
		return err
	}
	p.closeInlets(fresh)
	if _, again := kernel.Apply(ctx, p.forKernel(splits), paths); again != nil {
		return err
	}
	p.sampling.Store(p.sampled().with(func(next *sampling) {
		for _, name := range fresh {
			next.refused[name] = "the kernel refuses the rules for that: " + err.Error()
		}
	}))
	p.log.Warn("nothing of splits is sampled, all of their flows stay the kernel's: it refuses the rules for that", "splits", someOf(fresh), "error", err)
	return nil
}

// forKernel is all that the kernel plane has to do with.
func (p *planes) forKernel(splits []traffic.Split) []traffic.Split {
	inKernel, inProxy := p.byMode(splits)
	return append(ofKernel(inKernel, inProxy), p.sampled().remains(inKernel)...)
}
