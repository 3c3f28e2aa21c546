package daemon

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"

	"github.com/splitd/splitd/traffic"
)

// ofKernel are the splits that the kernel plane has to do with: its own, and
// those of the relay that are transparent.
func ofKernel(inKernel, inProxy []traffic.Split) []traffic.Split {
	if !slices.ContainsFunc(inProxy, traffic.Split.Transparent) {
		return inKernel
	}
	return slices.Concat(inKernel, transparent(inProxy))
}

func transparent(splits []traffic.Split) []traffic.Split {
	return slices.DeleteFunc(slices.Clone(splits), func(s traffic.Split) bool { return !s.Transparent() })
}

// prepare has the kernel lead the replies to the relay's own flows back to it,
// before any begins.
func (p *planes) prepare(ctx context.Context, inProxy []traffic.Split) error {
	relayed := transparent(inProxy)
	if len(relayed) == 0 {
		return nil
	}
	kernel, err := p.needKernel()
	if err != nil {
		return explainKernel(err, relayed, nil)
	}
	return kernel.PrepareLegs(ctx, relayed)
}

// abandon takes away what prepare has put in place, for a start that fails.
func (p *planes) abandon() error {
	if kernel := p.inUse(); kernel != nil {
		return kernel.AbandonLegs()
	}
	return nil
}

// explainKernel says why the kernel plane is needed that cannot be had, where
// that is not for splits of its own.
func explainKernel(err error, splits []traffic.Split, paths []traffic.ReturnPath) error {
	if len(paths) > 0 || slices.ContainsFunc(splits, func(s traffic.Split) bool { return !s.Transparent() }) {
		return err
	}
	if errors.Is(err, fs.ErrPermission) {
		return fmt.Errorf("split %q: proxy.transparent needs CAP_NET_ADMIN: run splitd as root, grant the capability, or set transparent: false: %w", splits[0].Name, fs.ErrPermission)
	}
	return fmt.Errorf("split %q with proxy.transparent: %w", splits[0].Name, err)
}
