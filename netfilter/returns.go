package netfilter

import (
	"cmp"
	"errors"
	"fmt"
	"math/bits"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/splitd/splitd/traffic"
)

// metricBlackhole puts the blackhole route behind the way back: what finds no
// way back is dropped and never leaves by another (fail closed).
const metricBlackhole = 4000

// metricIPv6 is what the kernel gives an IPv6 route that names no metric
// (IP6_RT_PRIO_USER, include/uapi/linux/ipv6_route.h).
const metricIPv6 = 1024

// Returns is the receiving side of a split, on the new host: the ip rules,
// routes and marking rules that send the replies of flows which came through a
// router back through that router. It is a value; the zero value means none.
type Returns struct {
	settings Settings
	rules    []ipRule
	routes   []ipRoute
	marks    []markPath
}

// ipRule is a routing policy rule (ip-rule(8)). Exactly one of from, to and
// mark selects; sport belongs to from.
type ipRule struct {
	priority int
	family   int // unix.AF_INET or unix.AF_INET6
	from, to netip.Addr
	sport    uint16 // 0: any (Linux 4.17)
	mark     uint32
	mask     uint32
	table    int
}

// ipRoute is a default route in a table of ours.
type ipRoute struct {
	table     int
	family    int
	metric    int
	blackhole bool
	local     bool       // this host takes the packet, whoever it is for; device is lo
	via       netip.Addr // invalid: the device has no neighbours
	device    string
}

// markPath is a return path that matches by mark.
type markPath struct {
	name   string
	device string
	via    netip.Addr
	ports  []traffic.Port
	mark   uint32
}

// BuildReturns makes the receiving side of the return paths. The place of a
// path in the list is its route table and mark class: path i has table
// RouteTable+i, rule priority RulePriority+1+i and class 16+i. A path whose
// router (or address) is of one family handles that family; one without both
// (a tunnel, matched by mark) handles IPv4 and IPv6. All that is wrong is
// reported at once.
func BuildReturns(paths []traffic.ReturnPath, settings Settings) (Returns, error) {
	if len(paths) > ReturnsMax {
		return Returns{}, fmt.Errorf("return_paths: %d is over %d, the number of route tables for them", len(paths), ReturnsMax)
	}
	var faults []error
	r := Returns{settings: settings}
	for i, p := range paths {
		if err := r.check(p, paths[:i]); err != nil {
			faults = append(faults, fmt.Errorf("return_paths[%d] %q: %w", i, p.Name, err))
			continue
		}
		r.add(i, p)
	}
	if err := errors.Join(faults...); err != nil {
		return Returns{}, err
	}
	r.rules = sortedSet(r.rules, compareRules)
	r.routes = sortedSet(r.routes, compareRoutes)
	return r, nil
}

func (r *Returns) check(p traffic.ReturnPath, before []traffic.ReturnPath) error {
	switch {
	case p.Device == "":
		return errors.New("device is missing")
	case p.Via.Zone() != "" || p.Address.Zone() != "":
		return errors.New("an address here has no zone: the device is named by its own key")
	}
	switch p.Match {
	case traffic.MatchAddress:
		if !p.Address.IsValid() {
			return errors.New("address is missing: match: address needs the source address of the replies")
		}
		if p.Via.IsValid() && p.Via.Is4() != p.Address.Is4() {
			return fmt.Errorf("via %s and address %s are of different families", p.Via, p.Address)
		}
	case traffic.MatchMark:
		if n := bits.OnesCount32(r.settings.MarkMask); n < classBits {
			return fmt.Errorf("mark_mask %#x has %d bits: match: mark needs at least %d", r.settings.MarkMask, n, classBits)
		}
	default:
		return fmt.Errorf("match %q is unknown: write address or mark", p.Match)
	}
	for _, b := range before {
		if shadows(b, p) {
			return fmt.Errorf("no flow is left for it: %q takes them", b.Name)
		}
	}
	return nil
}

// shadows says whether the earlier path takes every flow of the later one.
func shadows(earlier, later traffic.ReturnPath) bool {
	if earlier.Match != later.Match {
		return false
	}
	if earlier.Match == traffic.MatchAddress {
		return earlier.Address == later.Address
	}
	if earlier.Device != later.Device || earlier.Via != later.Via {
		return false
	}
	return len(earlier.Ports) == 0 || len(later.Ports) > 0 &&
		!slices.ContainsFunc(later.Ports, func(p traffic.Port) bool { return !slices.Contains(earlier.Ports, p) })
}

func (r *Returns) add(i int, p traffic.ReturnPath) {
	table, priority := r.settings.RouteTable+i, r.settings.RulePriority+1+i
	for _, family := range families(p) {
		r.routes = append(r.routes,
			ipRoute{table: table, family: family, metric: metric(family), via: p.Via, device: p.Device},
			ipRoute{table: table, family: family, metric: metricBlackhole, blackhole: true})
		rule := ipRule{priority: priority, family: family, table: table}
		if p.Match == traffic.MatchAddress {
			rule.from = p.Address
		} else {
			rule.mark, rule.mask = r.settings.mark(returnClass(i)), r.settings.ClassMask()
		}
		r.rules = append(r.rules, rule)
	}
	if p.Via.IsValid() {
		r.rules = append(r.rules, guard(r.settings, p.Via))
	}
	if p.Match == traffic.MatchMark {
		r.marks = append(r.marks, markPath{
			name: p.Name, device: p.Device, via: p.Via, ports: p.Ports,
			mark: r.settings.mark(returnClass(i)),
		})
	}
}

// guard is the rule that keeps packets to the router itself, or to the far end
// of a tunnel, out of the tables of ours: a tunnel's outer packets keep the
// mark of the inner ones and would go round for ever.
func guard(settings Settings, to netip.Addr) ipRule {
	return ipRule{priority: settings.RulePriority, family: family(to), to: to, table: unix.RT_TABLE_MAIN}
}

func families(p traffic.ReturnPath) []int {
	switch {
	case p.Via.IsValid():
		return []int{family(p.Via)}
	case p.Match == traffic.MatchAddress:
		return []int{family(p.Address)}
	default:
		return []int{unix.AF_INET, unix.AF_INET6}
	}
}

func family(a netip.Addr) int {
	if a.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

func metric(family int) int {
	if family == unix.AF_INET6 {
		return metricIPv6
	}
	return 0
}

func (r Returns) equal(other Returns) bool {
	return r.settings == other.settings && slices.Equal(r.rules, other.rules) && slices.Equal(r.routes, other.routes) &&
		slices.EqualFunc(r.marks, other.marks, func(a, b markPath) bool {
			return a.name == b.name && a.device == b.device && a.via == b.via && a.mark == b.mark && slices.Equal(a.ports, b.ports)
		})
}

func compareRules(a, b ipRule) int {
	return cmp.Or(cmp.Compare(a.priority, b.priority), cmp.Compare(a.family, b.family), cmp.Compare(a.table, b.table),
		cmp.Compare(a.mark, b.mark), cmp.Compare(a.mask, b.mask), a.from.Compare(b.from), a.to.Compare(b.to),
		cmp.Compare(a.sport, b.sport))
}

func compareRoutes(a, b ipRoute) int {
	return cmp.Or(cmp.Compare(a.table, b.table), cmp.Compare(a.family, b.family), cmp.Compare(a.metric, b.metric),
		a.via.Compare(b.via), cmp.Compare(a.device, b.device))
}

func sortedSet[T comparable](values []T, compare func(a, b T) int) []T {
	slices.SortFunc(values, compare)
	return slices.Compact(values)
}
