package netfilter

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// returnState is what the kernel has of the receiving side.
type returnState struct {
	rules  []kernelRule
	routes []kernelRoute
}

// returnChanges are the steps from a returnState to a Returns, in the order in
// which they are taken. A reply never finds another way meanwhile: it finds
// the old one, the new one or, where they would be mixed up, none for a moment.
type returnChanges struct {
	// park are the ways of tables that get another path's way while rules of
	// the old path still look there: the blackhole behind answers meanwhile.
	park       []kernelRoute
	putRoutes  []routePut
	putRules   []ipRule
	dropRules  []kernelRule
	latePut    []routePut // in the place of park
	dropRoutes []kernelRoute
}

type routePut struct {
	ipRoute
	old *kernelRoute // ours, to be replaced
}

// changes is pure: the steps from what the kernel has to r.
func (r Returns) changes(has returnState) returnChanges {
	var c returnChanges
	for _, rule := range r.rules {
		if !slices.ContainsFunc(has.rules, func(k kernelRule) bool { return !k.odd && k.ipRule == rule }) {
			c.putRules = append(c.putRules, rule)
		}
	}
	for _, rule := range has.rules {
		if rule.odd || !slices.Contains(r.rules, rule.ipRule) {
			c.dropRules = append(c.dropRules, rule)
		}
	}
	// Blackholes first, to put in and in reverse to take out.
	for _, blackhole := range []bool{true, false} {
		for _, route := range r.routes {
			if route.blackhole == blackhole {
				c.put(route, has)
			}
		}
	}
	for _, blackhole := range []bool{false, true} {
		for _, route := range has.routes {
			if route.blackhole == blackhole && !slices.ContainsFunc(r.routes, route.sameKey) {
				c.dropRoutes = append(c.dropRoutes, route)
			}
		}
	}
	return c
}

func (c *returnChanges) put(route ipRoute, has returnState) {
	i := slices.IndexFunc(has.routes, func(k kernelRoute) bool { return k.sameKey(route) })
	switch {
	case i < 0:
		c.putRoutes = append(c.putRoutes, routePut{ipRoute: route})
	case !has.routes[i].odd && has.routes[i].ipRoute == route:
	case slices.ContainsFunc(c.dropRules, func(k kernelRule) bool { return k.table == route.table && k.family == route.family }):
		c.park = append(c.park, has.routes[i])
		c.latePut = append(c.latePut, routePut{ipRoute: route})
	default:
		c.putRoutes = append(c.putRoutes, routePut{ipRoute: route, old: &has.routes[i]})
	}
}

// sameKey says whether the kernel would take the one for the other.
func (r kernelRoute) sameKey(other ipRoute) bool {
	return r.dst.Bits() == 0 && r.table == other.table && r.family == other.family && r.metric == other.metric
}

// applyReturns brings the receiving side of this host to want. Applied again
// it changes nothing. Only rules and routes of protocol 83, also those of former
// settings, and the table splitd_return are touched. It goes on after a
// failing step. A path whose device is not there yet is no error: its replies
// are dropped until the follower finds the device.
func applyReturns(ctx context.Context, want Returns) (changed bool, err error) {
	b, err := bringReturns(ctx, want)
	return len(b.did)+len(b.followed) > 0, err
}

// brought is what bringReturns did, in the words of differencesReturns.
type brought struct {
	did      []string
	followed []string // link-layer addresses of routers that are others now
	// pending says which paths have no way back yet: it wraps errReturnPending
	// or is nil.
	pending error
}

// bringReturns is applyReturns, but it tells what it did.
func bringReturns(ctx context.Context, want Returns) (b brought, err error) {
	if err := ctx.Err(); err != nil {
		return b, fmt.Errorf("apply return paths: %w", err)
	}
	if want, err = want.possible().withTunnelGuards(); err != nil {
		return b, err
	}
	has, err := readReturns()
	if err != nil {
		return b, err
	}
	s := &steps{}
	c := want.changes(has)
	for _, route := range c.park {
		s.do(route.removal(), route.remove())
	}
	s.put(c.putRoutes)
	for _, rule := range c.putRules {
		s.do(rule.addition(), rule.add())
	}
	s.marks(ctx, want)
	for _, rule := range c.dropRules {
		s.do(rule.removal(), rule.remove())
	}
	s.put(c.latePut)
	for _, route := range c.dropRoutes {
		s.do(route.removal(), route.remove())
	}
	return brought{did: s.did, followed: s.followed, pending: errors.Join(s.pending...)}, errors.Join(s.faults...)
}

// steps keeps what was done and what was not.
type steps struct {
	did, followed   []string
	faults, pending []error
}

func (s *steps) do(what string, err error) {
	switch {
	case errors.Is(err, errReturnPending):
		s.pending = append(s.pending, err)
	case err != nil:
		s.faults = append(s.faults, err)
	default:
		s.did = append(s.did, what)
	}
}

// put makes routes; an old way that cannot be replaced is taken away, because
// it leads to another router than the one that is wanted.
func (s *steps) put(routes []routePut) {
	for _, p := range routes {
		err := p.put(p.old != nil)
		s.do(p.addition(), err)
		if err != nil && p.old != nil {
			s.do(p.old.removal(), p.old.remove())
		}
	}
}

func (s *steps) marks(ctx context.Context, want Returns) {
	conn, socket, err := Dial()
	if err != nil {
		s.faults = append(s.faults, err)
		return
	}
	defer func() { _ = socket.Close() }()
	known, err := findNeighbours(ctx, want, conn)
	if err != nil {
		s.faults = append(s.faults, err)
		again, anew, err := Dial() // answers of the first may still come
		if err != nil {
			s.faults = append(s.faults, err)
			return
		}
		defer func() { _ = anew.Close() }()
		conn = again
	}
	did, followed, err := want.applyMarks(conn, known)
	s.did, s.followed = append(s.did, did...), append(s.followed, followed...)
	if err != nil {
		s.faults = append(s.faults, err)
	}
}

func readReturns() (returnState, error) {
	var has returnState
	var err error
	if has.rules, err = readRules(); err != nil {
		return has, err
	}
	has.routes, err = readRoutes()
	return has, err
}

// possible leaves out the IPv6 half of paths of both families where the host
// or the device speaks no IPv6: nothing can come in by it.
func (r Returns) possible() Returns {
	silent := map[int]bool{}
	for _, route := range r.routes {
		if route.family == unix.AF_INET6 && !route.blackhole && !route.via.IsValid() && !speaksIPv6(route.device) {
			silent[route.table] = slices.ContainsFunc(r.routes, func(o ipRoute) bool {
				return o.table == route.table && o.family == unix.AF_INET
			})
		}
	}
	r.routes = slices.DeleteFunc(slices.Clone(r.routes), func(o ipRoute) bool { return o.family == unix.AF_INET6 && silent[o.table] })
	r.rules = slices.DeleteFunc(slices.Clone(r.rules), func(o ipRule) bool { return o.family == unix.AF_INET6 && silent[o.table] })
	return r
}

// withTunnelGuards adds a guard for the far end of every device that is a
// tunnel: its outer packets inherit the mark of the inner ones (kernel: vxlan,
// ipip, gre, sit), or have the address of the path for their source, and must
// not be routed into the tunnel again.
func (r Returns) withTunnelGuards() (Returns, error) {
	rules := slices.Clone(r.rules)
	for _, device := range r.devices() {
		link, err := netlink.LinkByName(device)
		if _, missing := errors.AsType[netlink.LinkNotFoundError](err); missing {
			continue
		}
		if err != nil {
			return r, fmt.Errorf("read device %q: %w", device, err)
		}
		if far := tunnelEnd(link); far.IsValid() {
			rules = append(rules, guard(r.settings, far))
		}
	}
	r.rules = sortedSet(rules, compareRules)
	return r, nil
}

// devices are those by which replies go back.
func (r Returns) devices() []string {
	var names []string
	for _, route := range r.routes {
		if !route.blackhole {
			names = append(names, route.device)
		}
	}
	return sortedSet(names, strings.Compare)
}

// differencesReturns says, a line each, what applyReturns would change.
func differencesReturns(ctx context.Context, want Returns, conn *nftables.Conn) ([]string, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("compare return paths: %w", err)
	}
	want, err := want.possible().withTunnelGuards()
	if err != nil {
		return nil, err
	}
	has, err := readReturns()
	if err != nil {
		return nil, err
	}
	lines := want.changes(has).lines()
	m, err := readMarks(conn)
	if err != nil {
		return nil, err
	}
	known, err := readNeighbours(want)
	if err != nil {
		return nil, err
	}
	differ, moved := want.markDifferences(m, known)
	return slices.Concat(lines, moved, differ), nil
}

func (c returnChanges) lines() []string {
	var lines []string
	for _, put := range append(slices.Clone(c.putRoutes), c.latePut...) {
		lines = append(lines, put.addition())
	}
	for _, rule := range c.putRules {
		lines = append(lines, rule.addition())
	}
	for _, rule := range c.dropRules {
		lines = append(lines, rule.removal())
	}
	for _, route := range c.dropRoutes {
		lines = append(lines, route.removal())
	}
	return lines
}

// cleanupReturns removes every rule, route and marking rule of ours but those of
// legs that are open.
func cleanupReturns(ctx context.Context, settings Settings, open *legs) error {
	_, err := applyReturns(ctx, Returns{settings: settings}.withLegs(open))
	return err
}
