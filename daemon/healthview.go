package daemon

import (
	"fmt"
	"strings"

	"github.com/splitd/splitd/control/api"
	"github.com/splitd/splitd/health"
	"github.com/splitd/splitd/metrics"
	"github.com/splitd/splitd/traffic"
)

// unchecked is the state of a backend that nothing checks: not known to be up.
const unchecked = "unchecked"

// warnOfDown says which of the candidates that get more are down.
func (d *Daemon) warnOfDown(s traffic.Split, before map[string]traffic.Weight) []string {
	var warnings []string
	by := statusesBy(d.health.Of(s.Name))
	for _, c := range s.Candidates {
		state, reason := health.Sum(by[c.Name])
		if c.Weight <= before[c.Name] || state != health.Down {
			continue
		}
		warnings = append(warnings, fmt.Sprintf("candidate %q is %s; %s", c.Name, down(reason), consequence(s)))
	}
	return warnings
}

// down says that a backend is down, and why: the reason of one with several
// addresses begins with an address, that of others with the state.
func down(reason string) string {
	return "down: " + strings.TrimPrefix(strings.TrimPrefix(reason, "down: "), "down, ")
}

// consequence says what becomes of the flows of a candidate that is down.
func consequence(s traffic.Split) string {
	switch {
	case s.WhenDown != traffic.WhenDownKeep:
		return "its share goes to the primary until it is up"
	case s.Mode == traffic.ModeProxy && s.Proxy.Fallback == traffic.FallbackPrimary:
		return "its flows fall back to the primary"
	}
	return "its flows fail"
}

// statusesBy sorts statuses by their backends.
func statusesBy(statuses []health.Status) map[string][]health.Status {
	by := map[string][]health.Status{}
	for _, s := range statuses {
		by[s.Backend] = append(by[s.Backend], s)
	}
	return by
}

// healthItem says how the backends are checked; nil where nothing does.
func healthItem(s traffic.Split) *api.Health {
	h := s.Health
	if h.Check == traffic.CheckNone {
		return nil
	}
	return &api.Health{
		Check: string(h.Check), IntervalSeconds: h.Interval.Seconds(), TimeoutSeconds: h.Timeout.Seconds(),
		Fall: h.Fall, Rise: h.Rise, WhenDown: string(s.WhenDown),
	}
}

// describeHealth says how a backend is, by what its checks say.
func describeHealth(item *api.Backend, statuses []health.Status) {
	if len(statuses) == 0 {
		item.State = unchecked
		return
	}
	state, reason := health.Sum(statuses)
	item.State, item.StateReason = string(state), reason
	for _, s := range statuses {
		check := api.Check{
			Address: s.Address.String(), Port: s.Port, State: string(s.State), Since: s.Since, Reason: s.Reason, Trouble: s.Trouble,
		}
		if !s.Checked.IsZero() {
			check.Checked = &s.Checked
		}
		item.Checks = append(item.Checks, check)
	}
}

// downWarning is what an operator should know of a backend that is down.
func downWarning(s traffic.Split, b api.Backend) string {
	if b.Role == string(traffic.RolePrimary) {
		return fmt.Sprintf("primary %q is %s; it keeps its share", b.Name, down(b.StateReason))
	}
	return fmt.Sprintf("candidate %q is %s; %s", b.Name, down(b.StateReason), consequence(s))
}

// healthSamples are the metrics of the backends of which something is known.
func healthSamples(statuses []health.Status) map[string]metrics.Health {
	samples := map[string]metrics.Health{}
	for backend, all := range statusesBy(statuses) {
		state, _ := health.Sum(all)
		if state == health.Checking {
			continue
		}
		sample := metrics.Health{Up: state == health.Up}
		for _, s := range all {
			if s.State == health.Down {
				sample.AddressesDown++
			}
		}
		samples[backend] = sample
	}
	return samples
}
