package daemon

import (
	"context"

	"github.com/splitd/splitd/netfilter"
	"github.com/splitd/splitd/splitter"
	"github.com/splitd/splitd/traffic"
)

// A batch is open flows of a backend that one plane carries.
type batch interface {
	left() int
	shuffle(draw func() float64)
	// end ends the first n of them, and returns how many had not ended by
	// themselves. What it has tried is no longer left.
	end(ctx context.Context, n int) (ended int, err error)
}

// openFlows lists the open flows of a backend in both planes: of a split that has
// moved, the other one may have some from before. Where an error comes with flows,
// they are not all.
func (p *planes) openFlows(ctx context.Context, split traffic.Split, backend string) (batches, error) {
	var open batches
	if flows := p.relay.OpenFlows(traffic.BackendKey{Split: split.Name, Backend: backend}); len(flows) > 0 {
		open = append(open, &batchOf[splitter.OpenFlow]{flows: flows, plane: func(_ context.Context, some []splitter.OpenFlow) (int, error) {
			return p.relay.End(some), nil
		}})
	}
	kernel, there := p.inUse(), p.inConntrack([]traffic.Split{split})
	if kernel == nil || len(there) == 0 {
		return open, nil
	}
	flows, err := kernel.OpenFlows(ctx, netfilter.Which{Splits: there, Backend: backend, Elsewhere: true})
	if len(flows) > 0 {
		open = append(open, &batchOf[netfilter.OpenFlow]{flows: flows, plane: kernel.End})
	}
	return open, err
}

// free ends the attempts to reach backends, or only some addresses of them, and
// returns how many there were.
func (p *planes) free(ctx context.Context, splits []traffic.Split, from attempts) (freed int, err error) {
	freed = p.relay.Free(from)
	kernel, there := p.inUse(), p.inConntrack(splits)
	if kernel == nil || len(there) == 0 {
		return freed, nil
	}
	n, err := kernel.Free(ctx, there, from)
	return freed + n, err
}

// inConntrack are the definitions by which the kernel may have flows of the
// splits.
func (p *planes) inConntrack(splits []traffic.Split) []traffic.Split {
	inKernel, _ := byMode(splits)
	return append(inKernel, p.behind.of(splits)...)
}

// batchOf is a batch of one plane's flows.
type batchOf[F any] struct {
	flows []F
	plane func(context.Context, []F) (ended int, err error)
}

func (b *batchOf[F]) left() int { return len(b.flows) }

func (b *batchOf[F]) end(ctx context.Context, n int) (int, error) {
	now := b.flows[:n]
	b.flows = b.flows[n:]
	return b.plane(ctx, now)
}

// shuffle mixes the flows, because those of a client are listed together (Fisher
// and Yates).
func (b *batchOf[F]) shuffle(draw func() float64) {
	for i := len(b.flows) - 1; i > 0; i-- {
		j := int(draw() * float64(i+1))
		b.flows[i], b.flows[j] = b.flows[j], b.flows[i]
	}
}

// batches are the open flows of a backend, by plane.
type batches []batch

func (b batches) left() int {
	left := 0
	for _, one := range b {
		left += one.left()
	}
	return left
}

func (b batches) shuffle(draw func() float64) {
	for _, one := range b {
		one.shuffle(draw)
	}
}

// end implements batch; a plane that fails keeps no other from being asked.
func (b batches) end(ctx context.Context, n int) (ended int, err error) {
	for _, one := range b {
		now := min(n, one.left())
		if now == 0 {
			continue
		}
		some, failed := one.end(ctx, now)
		ended, n = ended+some, n-now
		if failed != nil {
			err = failed
		}
	}
	return ended, err
}
