package health

import (
	"net/netip"
	"slices"

	"github.com/splitd/splitd/traffic"
)

// Key names what is checked: one address of one backend.
type Key struct {
	Split, Backend string
	Address        netip.Addr
}

// Target is one address and how it is checked.
type Target struct {
	Key
	Health    traffic.Health
	Transport traffic.Transport
	Port      uint16
	// SendProxy is the PROXY header that the target expects; "": none.
	SendProxy traffic.SendProxy
	// Mark is the packet mark of the check, 0 for none: that of the split's
	// flows, so that the rules for them hold for their checks.
	Mark uint32
}

// steadyIntervals is how many intervals a target must stay up for its falls to
// be forgotten.
const steadyIntervals = 30

func (t Target) rules() Rules {
	return Rules{Fall: t.Health.Fall, Rise: t.Health.Rise, Steady: steadyIntervals * t.Health.Interval}
}

// Endpoint is where the check connects to.
func (t Target) Endpoint() netip.AddrPort { return netip.AddrPortFrom(t.Address, t.Port) }

// Targets lists what of a split is checked: every address of every backend, of
// the families that the service has, at the port that flows get there. The
// mode must be resolved.
func Targets(s traffic.Split, mark uint32) []Target {
	if s.Health.Check == traffic.CheckNone || s.Health.Interval <= 0 {
		return nil
	}
	var targets []Target
	for _, b := range s.Backends() {
		for _, a := range addresses(s, b) {
			port, ok := s.CheckPort(a)
			key := Key{s.Name, b.Name, a.IP}
			known := func(t Target) bool { return t.Key == key }
			if !ok || slices.ContainsFunc(targets, known) {
				continue
			}
			targets = append(targets, Target{
				Key: key, Health: s.Health, Transport: s.Health.Check.Transport(s.Service), Port: port, SendProxy: sendProxy(s), Mark: mark,
			})
		}
	}
	return targets
}

// sendProxy is the header that a check begins with: that of the flows, where it
// goes to their port. A port for checks alone expects none, as HAProxy has it
// (check-send-proxy in its configuration manual, section 5.2).
func sendProxy(s traffic.Split) traffic.SendProxy {
	if s.Mode != traffic.ModeProxy || s.Health.Port != 0 {
		return ""
	}
	return s.Proxy.SendProxy
}

// addresses are where flows to the backend end. This host itself is reached by
// the service's first address of each family, in mode proxy by a loopback
// address.
func addresses(s traffic.Split, b traffic.Backend) []traffic.Address {
	var found []traffic.Address
	families := map[bool]bool{}
	for _, ip := range s.Service.Addresses {
		if families[ip.Is4()] {
			continue
		}
		families[ip.Is4()] = true
		switch {
		case !b.Local:
			for _, a := range b.Addresses {
				if a.IP.Is4() == ip.Is4() {
					found = append(found, a)
				}
			}
		case s.Mode != traffic.ModeProxy:
			found = append(found, traffic.Address{IP: ip})
		case ip.Is4():
			found = append(found, traffic.Address{IP: netip.AddrFrom4([4]byte{127, 0, 0, 1})})
		default:
			found = append(found, traffic.Address{IP: netip.IPv6Loopback()})
		}
	}
	return found
}
