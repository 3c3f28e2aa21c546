package controltest

import (
	"time"

	"github.com/splitd/splitd/control/api"
	"github.com/splitd/splitd/control/items"
	"github.com/splitd/splitd/traffic"
)

// show is the state of one split as the API shows it.
func (o *Operator) show(s *split) api.Split {
	effective := traffic.Effective(s.definition, s.overrides)
	shown := api.Split{
		Name: s.definition.Name, Mode: string(s.definition.Mode), ModeConfigured: string(s.definition.Mode),
		Protocol: s.definition.Protocol,
		Service:  api.Service{Addresses: []string{}, Ports: []string{}}, Draw: items.Draw(effective),
		Generation: s.generation, WeightPPM: int(effective.CandidateWeight()),
		Origin: api.Origin{Layer: string(traffic.LayerFile)}, Pinned: s.definition.Pinned,
		Flows: api.Flows{Total: new(uint64(0)), AsOf: o.Now().UTC()}, Shadow: shadowOf(s.overrides[traffic.SampleKey], effective),
	}
	for _, ip := range s.definition.Service.Addresses {
		shown.Service.Addresses = append(shown.Service.Addresses, ip.String())
	}
	for _, port := range s.definition.Service.Ports {
		shown.Service.Ports = append(shown.Service.Ports, port.String())
	}
	if s.definition.Mode == traffic.ModeKernel {
		shown.Kernel = &api.Kernel{InSync: new(true)}
	}
	for i, b := range effective.Backends() {
		backend := api.Backend{
			Name: b.Name, Role: string(traffic.RoleCandidate), Addresses: b.AddressTexts(),
			WeightPPM: int(b.Weight), State: "up", FlowsTotal: new(uint64(0)),
		}
		if i == 0 {
			backend.Role = string(traffic.RolePrimary)
		} else if override, ok := s.overrides[b.Name]; ok && override.Holds(s.definition) {
			origin := originOf(override)
			if override.Drain {
				backend.Closed, backend.Drain = true, &api.Drain{Since: override.Since, RatePerSecond: override.Rate}
				if !override.KillAt.IsZero() {
					backend.Drain.KillAt = &override.KillAt
				}
			}
			backend.Origin, shown.Origin = &origin, origin
		}
		backend.Clients = items.Clients(b.Clients)
		shown.Backends = append(shown.Backends, backend)
	}
	if o.Decorate != nil {
		o.Decorate(&shown)
	}
	return shown
}

func shadowOf(override traffic.Override, effective traffic.Split) api.Shadow {
	shown := api.Shadow{SamplePPM: int(effective.Sample), State: api.ShadowOff}
	if effective.Sample > 0 {
		shown.State, shown.To = api.ShadowOn, effective.Shadow.To
		shown.Origin = &api.Origin{Layer: string(traffic.LayerFile)}
	}
	if !override.Since.IsZero() && override.Holds(effective) {
		shown.Origin = new(originOf(override))
	}
	return shown
}

func originOf(override traffic.Override) api.Origin {
	origin := api.Origin{Layer: string(traffic.LayerOperator), Actor: override.Actor, Reason: override.Reason, Since: timeOrNil(override.Since)}
	origin.Until = timeOrNil(override.Until)
	return origin
}

func timeOrNil(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}
