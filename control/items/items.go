// Package items turns the vocabulary's values into what the API shows of them,
// for everyone who shows them: the daemon, and splitctl where no daemon is asked.
package items

import (
	"cmp"
	"time"

	"github.com/splitd/splitd/control/api"
	"github.com/splitd/splitd/traffic"
)

// Draw is whom a split draws and how, as the API shows it.
func Draw(s traffic.Split) api.Draw {
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

// Clients counts the groups of a backend; nil where it has none.
func Clients(c traffic.Clients) *api.Clients {
	if c.IsZero() {
		return nil
	}
	return &api.Clients{Always: len(c.Always), Never: len(c.Never)}
}

// Where is a client's side as the API shows it, without its open flows.
func Where(s traffic.Split, side traffic.Side) api.Where {
	item := api.Where{
		Split: s.Name, Mode: string(s.Mode), Network: side.Client.String(), Why: string(side.Why),
		Backend: side.Backend, Meant: side.Meant, But: string(side.But),
	}
	if side.Address.IsValid() {
		item.Address = side.Address.String()
	}
	if side.Why == traffic.WhyAffinity {
		item.NumberPPM = new(int(side.Number))
	}
	for _, o := range side.Odds {
		item.Odds = append(item.Odds, api.Odds{Backend: o.Backend, WeightPPM: int(o.Weight)})
	}
	item.Sampled = sampled(s, side)
	return item
}

// sampled is what of the client's flows is shadowed; nil where none can be.
func sampled(s traffic.Split, side traffic.Side) *api.Sampled {
	drawn := side.Why == traffic.WhyAffinity && s.Sample > 0 && s.Layout().Of(side.Number) == ""
	switch {
	case drawn:
		return &api.Sampled{SharePPM: int(side.Sample), NumberPPM: new(int(side.SampleNumber))}
	case side.Sample > 0:
		return &api.Sampled{SharePPM: int(side.Sample)}
	}
	return nil
}

// Evidence is evidence as the API shows it.
func Evidence(e traffic.Evidence) api.Evidence {
	item := api.Evidence{
		Backend: e.Backend, Generation: uint64(e.Generation), Since: e.Since.UTC(), Until: e.Until.UTC(),
		Flows: e.Flows, Active: e.Active, HalfOpen: e.HalfOpen, Ended: e.Ended,
		Unanswered: e.Unanswered, Overdue: e.Overdue, Refused: e.Refused, Resets: e.Resets,
		BytesIn: e.BytesIn, BytesOut: e.BytesOut, Lost: e.Lost,
	}
	if known := e.Lifetimes.Total(); known > 0 {
		item.Lifetime = &api.Lifetimes{Known: known, P50: quantile(e, 0.5), P95: quantile(e, 0.95), P99: quantile(e, 0.99)}
	}
	return item
}

func quantile(e traffic.Evidence, q float64) *float64 {
	bound, known := e.Lifetimes.Quantile(q)
	if !known {
		return nil
	}
	return new(bound.Seconds())
}
