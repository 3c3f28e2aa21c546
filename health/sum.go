package health

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/splitd/splitd/traffic"
)

// Status is the standing of one target.
type Status struct {
	Key
	Standing
	Port uint16 // at which it is checked
}

// Sum is how a backend is by its addresses: down when all of them are, up when
// one is. The reason names each address that is down, or could not be checked.
func Sum(statuses []Status) (State, string) {
	state := Down
	var reasons []string
	for _, s := range statuses {
		switch {
		case s.State == Up, s.State == Checking && state == Down:
			state = s.State
		}
		if why := s.why(); why != "" {
			if len(statuses) > 1 {
				why = s.Address.String() + " " + why
			}
			reasons = append(reasons, why)
		}
	}
	if len(statuses) == 0 {
		state = Checking
	}
	return state, strings.Join(reasons, "; ")
}

// why says what is wrong with a target, if anything is.
func (s Status) why() string {
	reason := s.Reason
	if s.Trouble != "" {
		reason = strings.TrimPrefix(s.Reason+"; cannot be checked: "+s.Trouble, "; ")
	}
	switch {
	case reason == "" && s.State != Down:
		return ""
	case s.State != Down:
		return reason
	case s.Reason == "":
		return strings.TrimSuffix("down, checks pass again, but not yet often enough; "+reason, "; ")
	}
	return "down: " + reason
}

// Withdraw returns the split with what is down marked for the data plane: the
// addresses that have a living one of their family beside them, and where a
// candidate's share goes to the primary also those that have none. The primary
// keeps its share whatever happens: nobody else would take it.
func Withdraw(s traffic.Split, down func(Key) bool) traffic.Split {
	s.Primary.Down = beside(s, s.Primary, dead(s, s.Primary, down))
	s.Candidates = slices.Clone(s.Candidates)
	for i, c := range s.Candidates {
		all := dead(s, c, down)
		if s.WhenDown == traffic.WhenDownKeep {
			all = beside(s, c, all)
		}
		s.Candidates[i].Down = all
	}
	return s
}

// dead are the addresses of the backend that are down.
func dead(s traffic.Split, b traffic.Backend, down func(Key) bool) []netip.Addr {
	if s.Health.Check == traffic.CheckNone {
		return nil // what was found before nobody looks at any more
	}
	var all []netip.Addr
	for _, a := range addresses(s, b) {
		if down(Key{s.Name, b.Name, a.IP}) && !slices.Contains(all, a.IP) {
			all = append(all, a.IP)
		}
	}
	return all
}

// beside are those of the dead that have a living address of their family
// beside them.
func beside(s traffic.Split, b traffic.Backend, dead []netip.Addr) []netip.Addr {
	var left []netip.Addr
	for _, ip := range dead {
		lives := func(a traffic.Address) bool { return a.IP.Is4() == ip.Is4() && !slices.Contains(dead, a.IP) }
		if slices.ContainsFunc(addresses(s, b), lives) {
			left = append(left, ip)
		}
	}
	return left
}
