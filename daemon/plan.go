package daemon

import (
	"context"
	"slices"

	"github.com/splitd/splitd/control/api"
	"github.com/splitd/splitd/netfilter"
	"github.com/splitd/splitd/shadow/play"
)

// Plan is what splitd wants in the kernel, as text, and what differs from it.
func (d *Daemon) Plan(ctx context.Context) (api.Plan, error) {
	r := d.read(ctx)
	if r.driftErr != nil {
		return api.Plan{}, r.driftErr
	}
	wanted, err := d.planes.describe(ctx, r.view.splits(), r.view.paths, netfilter.Settings(d.options.Config.Netfilter))
	if err != nil {
		return api.Plan{}, err
	}
	warnings, notes := sorted(r.host)
	return api.Plan{
		Envelope: api.Of(api.KindPlan), Nft: wanted.Nft, Rules: wanted.Rules, Routes: wanted.Routes,
		Notes:       slices.Concat(r.view.notes, r.view.auto, play.Notes(r.view.splits()), warnings, notes),
		Differences: append([]string{}, r.drift...),
	}, nil
}
