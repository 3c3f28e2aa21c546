package control

import (
	"cmp"
	"time"

	"github.com/splitd/splitd/control/api"
	"github.com/splitd/splitd/traffic"
)

// DrawItem is whom a split draws and how, as the API shows it.
func DrawItem(s traffic.Split) api.Draw {
	item := api.Draw{
		Affinity: string(cmp.Or(s.Affinity, traffic.AffinityNone)), LocalClients: s.LocalClients, UDPTimeoutSeconds: int(s.UDPTimeout / time.Second),
	}
	if s.Affinity == traffic.AffinitySource {
		item.AffinityPrefix = &api.AffinityPrefix{IPv4: s.AffinityPrefix.IPv4, IPv6: s.AffinityPrefix.IPv6}
		item.AffinitySeed = s.AffinitySeed
	}
	if s.Mirror.To.IsValid() {
		item.Mirror = &api.Mirror{To: s.Mirror.To.String(), SamplePPM: int(s.Mirror.Sample)}
	}
	for _, slot := range s.Slots {
		item.Slots = append(item.Slots, api.Slot{First: int(slot.First), Last: int(slot.Last), Candidate: slot.Candidate})
	}
	return item
}

// ClientsItem counts the groups of a backend; nil where it has none.
func ClientsItem(c traffic.Clients) *api.Clients {
	if c.IsZero() {
		return nil
	}
	return &api.Clients{Always: len(c.Always), Never: len(c.Never)}
}
