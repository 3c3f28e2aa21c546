package netfilter

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"

	"github.com/ti-mo/conntrack"

	"github.com/splitd/splitd/traffic"
)

// legsRest is how long what legs need stays at least after the last split that
// wants it has gone: a listener that goes accepts for some seconds yet, and
// between two attempts to connect a flow has no leg.
const legsRest = 10 * time.Second

// legKeep keeps what legs need: what is wanted, and until their end what open
// legs need of former splits. Standing may be read by anybody, all else belongs
// to who holds Kernel.mu.
type legKeep struct {
	standing atomic.Pointer[legs]
	wanted   *legs
	known    bool      // standing has what a process before this one has left
	applied  bool      // base is known too
	since    time.Time // standing has had no reason to grow
	base     Returns   // what is wanted of ip rules and routes besides
	before   *legs     // what a process before this one has left
	supplied supplied  // by PrepareLegs
}

// supplied are ip rules and routes that were added.
type supplied struct {
	rules  []ipRule
	routes []ipRoute
}

// PrepareLegs puts in place what the own flows of transparent relays need,
// which Apply does too: to be called before a relay is given such splits. It
// takes nothing away.
func (k *Kernel) PrepareLegs(ctx context.Context, splits []traffic.Split) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if err := k.keepLegs(legsOf(splits, k.options.Settings)); err != nil {
		return fmt.Errorf("prepare for transparent relays: %w", err)
	}
	k.legs.since = k.options.Now() // until Apply comes, which wants it
	more := Returns{settings: k.options.Settings}.withLegs(k.legs.standing.Load())
	if k.legs.applied { // else nothing is followed yet
		k.returns = k.returns.withLegs(k.legs.standing.Load())
	}
	_, err := k.bringLegs(k.legs.standing.Load())
	if err == nil {
		err = more.supply(ctx, &k.legs.supplied)
	}
	if err != nil {
		return fmt.Errorf("prepare for transparent relays: %w", err)
	}
	return nil
}

// AbandonLegs takes away again what PrepareLegs has put in place, where no Apply has
// come since: the process that wanted it ends. What another one has left stays.
func (k *Kernel) AbandonLegs() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.legs.applied || !k.legs.known {
		return nil
	}
	err := k.legs.supplied.remove()
	if _, failed := k.bringLegs(k.legs.before); failed != nil {
		err = errors.Join(err, failed)
	}
	if err != nil {
		return fmt.Errorf("take away what transparent relays would have needed: %w: run `splitd cleanup`", err)
	}
	k.legs.standing.Store(k.legs.before)
	k.legs.supplied = supplied{}
	return nil
}

// remove removes them as the kernel has them.
func (s supplied) remove() error {
	has, err := readReturns()
	if err != nil {
		return err
	}
	var errs []error
	for _, rule := range has.rules {
		if slices.Contains(s.rules, rule.ipRule) {
			errs = append(errs, rule.remove())
		}
	}
	for _, route := range has.routes {
		if slices.Contains(s.routes, route.ipRoute) {
			errs = append(errs, route.remove())
		}
	}
	return errors.Join(errs...)
}

// wantLegs notes what is wanted from now on. k.mu is held.
func (k *Kernel) wantLegs(wanted *legs, base Returns) error {
	if err := k.keepLegs(wanted); err != nil {
		return err
	}
	if !k.legs.wanted.equal(wanted) {
		k.legs.since = k.options.Now()
	}
	k.legs.wanted, k.legs.base, k.legs.applied = wanted, base, true
	return nil
}

// keepLegs has that stand as well, for a while at least. k.mu is held.
func (k *Kernel) keepLegs(more *legs) error {
	standing := k.legs.standing.Load()
	if !k.legs.known {
		left, err := k.link.leftLegs(k.options.Settings)
		if err != nil {
			return err
		}
		standing, k.legs.before, k.legs.known = left, left, true
		k.legs.since = k.options.Now()
	}
	if grown := more.with(standing); !grown.equal(standing) {
		standing = grown
		k.legs.since = k.options.Now()
	}
	k.legs.standing.Store(standing)
	return nil
}

// leftLegs reads what the kernel has for legs.
func (l *link) leftLegs(settings Settings) (*legs, error) {
	stands, err := l.hasTable(TableLegs)
	if err != nil || !stands {
		return nil, err
	}
	rules, err := readRules()
	if err != nil {
		return nil, err
	}
	left := &legs{}
	for _, r := range rules {
		if !r.odd && r.sport != 0 && r.priority == settings.RulePriority+legPriority && r.table == settings.RouteTable+divertTable {
			left.rules = append(left.rules, r.ipRule)
		}
	}
	return left, nil
}

// bringLegs makes the table that these want, or takes it away. k.mu is held.
func (k *Kernel) bringLegs(l *legs) (changed bool, err error) {
	return k.link.applyWhole(k.commit, l.table(k.options.Settings))
}

// retireLegs takes away what no leg needs any more. k.mu is held.
func (k *Kernel) retireLegs(ctx context.Context) error {
	has, wanted := k.legs.standing.Load(), k.legs.wanted
	if !k.legs.applied || has.equal(wanted) || k.options.Now().Sub(k.legs.since) < legsRest {
		return nil
	}
	open, err := openLegs(k.options.Settings)
	if err != nil {
		return err
	}
	keep := wanted.with(has.of(open))
	if keep.equal(has) {
		return nil
	}
	returns := k.legs.base.withLegs(keep)
	if _, err := applyReturns(ctx, returns); err != nil {
		return err
	}
	if _, err := k.bringLegs(keep); err != nil {
		return err
	}
	k.legs.standing.Store(keep) // not before: what fails is tried again
	k.returns = returns
	return nil
}

// openLegs are the backends of the legs that are open, one for each.
func openLegs(settings Settings) ([]netip.AddrPort, error) {
	conn, err := openConntrack()
	if err != nil {
		return nil, err
	}
	defer func() { _ = conn.Close() }()
	flows, err := conn.DumpFilter(conntrack.NewFilter().Mark(settings.mark(classLeg)).MarkMask(settings.ClassMask()), nil)
	if err != nil {
		return nil, fmt.Errorf("list conntrack entries by mark: %w", err)
	}
	var open []netip.AddrPort
	for _, f := range flows {
		if live(f) {
			to := f.TupleOrig
			open = append(open, netip.AddrPortFrom(to.IP.DestinationAddress, to.Proto.DestinationPort))
		}
	}
	return open, nil
}

// supply adds what the kernel lacks of r, notes what it has added, and takes
// nothing away.
func (r Returns) supply(ctx context.Context, added *supplied) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	r = r.possible()
	has, err := readReturns()
	if err != nil {
		return err
	}
	for _, route := range r.routes {
		i := slices.IndexFunc(has.routes, func(k kernelRoute) bool { return k.sameKey(route) })
		if i >= 0 && !has.routes[i].odd && has.routes[i].ipRoute == route {
			continue
		}
		if err := route.put(i >= 0); err != nil {
			return err
		}
		if i < 0 {
			added.routes = append(added.routes, route)
		}
	}
	for _, rule := range r.rules {
		if slices.ContainsFunc(has.rules, func(k kernelRule) bool { return !k.odd && k.ipRule == rule }) {
			continue
		}
		if err := rule.add(); err != nil {
			return err
		}
		added.rules = append(added.rules, rule)
	}
	return nil
}

// cleanupLegs takes away what legs need, unless some are open and now is not
// set: their relay has ended, but what it has sent may still be on its way. It
// returns how many are open, and what of it stays.
func (l *link) cleanupLegs(settings Settings, now bool) (open int, left *legs, err error) {
	left, err = l.leftLegs(settings)
	if err != nil || left == nil {
		return 0, nil, err
	}
	flows, err := openLegs(settings)
	if err != nil {
		return 0, nil, err
	}
	if len(flows) > 0 && !now {
		return len(flows), left, nil
	}
	_, err = l.applyWhole(l.commit, (*legs)(nil).table(settings))
	return len(flows), nil, err
}
