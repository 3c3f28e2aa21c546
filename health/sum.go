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
	case s.Reason == "": // checks pass again, not yet often enough
		return strings.TrimSuffix("down, checks pass again; "+reason, "; ")
	}
	return "down: " + reason
}

// Withdraw returns the split with what is down marked for the data plane: a
// candidate's addresses, all of them where its share goes to the primary, else
// only those that have a living one of their family beside them. The primary
// takes what nobody else does, so it is left as it is.
func Withdraw(s traffic.Split, down func(Key) bool) traffic.Split {
	s.Candidates = slices.Clone(s.Candidates)
	for i, c := range s.Candidates {
		s.Candidates[i].Down = dead(s, c, down)
	}
	return s
}

func dead(s traffic.Split, b traffic.Backend, down func(Key) bool) []netip.Addr {
	var all []netip.Addr
	for _, a := range b.Addresses {
		if down(Key{s.Name, b.Name, a.IP}) && !slices.Contains(all, a.IP) {
			all = append(all, a.IP)
		}
	}
	if s.WhenDown != traffic.WhenDownKeep {
		return all
	}
	lives := func(family bool) bool {
		return slices.ContainsFunc(b.Addresses, func(a traffic.Address) bool {
			return a.IP.Is4() == family && !slices.Contains(all, a.IP)
		})
	}
	var left []netip.Addr
	for _, ip := range all {
		if lives(ip.Is4()) {
			left = append(left, ip)
		}
	}
	return left
}
