package daemon

import (
	"context"
	"fmt"
	"net/netip"

	"github.com/splitd/splitd/control/api"
	"github.com/splitd/splitd/control/items"
	"github.com/splitd/splitd/health"
	"github.com/splitd/splitd/netfilter"
	"github.com/splitd/splitd/splitter"
	"github.com/splitd/splitd/traffic"
)

// clientFlowsMost bounds how many open flows of a client are listed, of all
// splits that were asked for together.
const clientFlowsMost = 1000

// Where tells the side of a client: where its new flows go, and which flows of
// it are open where.
func (d *Daemon) Where(ctx context.Context, name string, client netip.Addr) (api.WhereList, error) {
	v := d.view.Load()
	names := v.names()
	if name != "" {
		record, err := v.find(name)
		if err != nil {
			return api.WhereList{}, err
		}
		name = record.Name
		names = []string{name}
	}
	list := api.WhereList{Envelope: api.Of(api.KindWhere), Client: client.String(), Items: []api.Where{}}
	splits := make([]traffic.Split, 0, len(names))
	for _, n := range names {
		splits = append(splits, health.Withdraw(v.split(n), d.planes.found.Load().down))
	}
	inKernel, _ := byMode(splits)
	flows, known := map[string][]api.ClientFlow{}, d.planes.inUse() != nil
	if known && len(inKernel) > 0 {
		open, err := d.planes.inUse().OpenFlows(ctx, netfilter.Which{
			Splits: inKernel, Clients: netip.PrefixFrom(client, client.BitLen()), Most: clientFlowsMost + 1,
		})
		if err != nil {
			known = false
			list.Warnings = append(list.Warnings, "the client's open flows are not known: "+err.Error())
		}
		if len(open) > clientFlowsMost {
			open = open[:clientFlowsMost]
			list.Warnings = append(list.Warnings, fmt.Sprintf("the client has more open flows than the %d that are listed: `conntrack -L --orig-src %s` has all", clientFlowsMost, client))
		}
		for _, f := range open {
			flows[f.Split] = append(flows[f.Split], flowItem(f))
		}
	}
	relayed := d.planes.relay.FlowsOf(client, name, clientFlowsMost+1)
	if len(relayed) > clientFlowsMost {
		relayed = relayed[:clientFlowsMost]
		list.Warnings = append(list.Warnings, fmt.Sprintf("the client has more open flows in mode proxy than the %d that are listed: `ss -tn dst %s` has all of TCP", clientFlowsMost, client))
	}
	for _, f := range relayed {
		flows[f.Split] = append(flows[f.Split], relayedItem(f))
	}
	out := d.planes.relay.LeftOut()
	for _, s := range splits {
		for _, c := range s.Candidates {
			if warning := leftOutWarning(c, out[traffic.BackendKey{Split: s.Name, Backend: c.Name}], d.now()); warning != "" {
				list.Warnings = append(list.Warnings, s.Name+": "+warning)
			}
		}
		item := items.Where(s, s.Where(client))
		if item.Sampled != nil {
			item.Sampled.Paused = d.shadows.faring(s.Name).paused
		}
		if known || s.Mode == traffic.ModeProxy {
			item.Flows = append([]api.ClientFlow{}, flows[s.Name]...)
		}
		list.Items = append(list.Items, item)
	}
	return list, nil
}

func relayedItem(f splitter.ClientFlow) api.ClientFlow {
	item := api.ClientFlow{
		Backend: f.Backend, Generation: uint64(f.Generation), Transport: string(f.Transport),
		Client: f.Client.String(), Service: f.Service.String(), Server: f.Server.String(), HalfOpen: f.HalfOpen,
	}
	if f.Via.IsValid() {
		item.Via = f.Via.String()
	}
	return item
}

func flowItem(f netfilter.OpenFlow) api.ClientFlow {
	return api.ClientFlow{
		Backend: f.Backend, Generation: uint64(f.Generation), Transport: string(f.Transport),
		Client: f.Client.String(), Service: f.Service.String(), Server: f.Server.String(),
		HalfOpen: f.HalfOpen, BytesIn: f.BytesIn, BytesOut: f.BytesOut,
	}
}
