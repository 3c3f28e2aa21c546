package netfilter

import (
	"context"
	"fmt"

	"github.com/splitd/splitd/traffic"
)

// Flows returns how many new flows each backend of the split has been given,
// by name: the counters alone, without the look at conntrack that Counts takes.
func (k *Kernel) Flows(ctx context.Context, split traffic.Split) (map[string]uint64, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	r, err := newReader()
	if err != nil {
		return nil, err
	}
	defer r.close()
	counters, err := r.counters()
	if err != nil {
		return nil, fmt.Errorf("count flows of split %q: %w", split.Name, err)
	}
	flows := map[string]uint64{}
	for _, b := range split.Backends() {
		flows[b.Name] = counters[counterName(split.Name, b.Name)]
	}
	return flows, nil
}
