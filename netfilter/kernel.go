package netfilter

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/splitd/splitd/traffic"
)

// Options are what Open needs.
type Options struct {
	Settings Settings
	// About is written into the kernel for ReadAbout; "" is left out.
	About About
	Log   *slog.Logger
	// Now is the clock; nil means time.Now.
	Now func() time.Time
}

// Kernel programs the network namespace that the thread which calls Open is
// in, which all its callers must be in too. Its methods may be called from
// many goroutines. Those that change something take turns; those that read wait
// for nobody.
type Kernel struct {
	options Options
	turn    *turn

	readers    *pool[*link]
	conntracks *pool[*conntrackSocket]
	dial       func() (*conntrackSocket, error) // to conntrack
	lookup     atomic.Pointer[lookup]
	tracker    *tracker
	lookAgain  chan struct{} // makes Follow look at once
	left       left
	moved      chan struct{} // of Moved; holds one
	versions   versions
	places     atomic.Pointer[map[string]string] // the table of each split, for who reads
	memory     memory
	writes     writes
	compared   comparison
	newsBuffer int           // bytes that Watch may be behind
	mended     atomic.Uint64 // how often Run has put return paths back

	mu     sync.Mutex // protects the following and every change of the kernel
	link   link
	commit committer
	// versionsKnown says that versions and standing know what other processes
	// have made.
	versionsKnown bool
	// standing says which table each split is in.
	standing map[string]string
	// leftovers are what nothing leads to any more since then.
	leftovers map[leftover]time.Time
	returns   Returns
	legs      legKeep
}

// A committer carries out a transaction: all of it or nothing.
type committer func(all []step) error

// retireAfter is how long a chain stays after the last packet can have entered
// it. A packet passes in microseconds.
const retireAfter = time.Second

// Open checks that this process may program the kernel, and that no other one
// does so in this network namespace until Close: the error is then
// ErrAnotherSplitd. It changes nothing in the kernel's rules.
func Open(o Options) (*Kernel, error) {
	if o.Now == nil {
		o.Now = time.Now
	}
	k := &Kernel{
		options: o, leftovers: map[leftover]time.Time{},
		readers: newLinks(), conntracks: newConntracks(), newsBuffer: readBuffer,
		dial: openConntrackSocket, tracker: newTracker(), lookAgain: make(chan struct{}, 1), moved: make(chan struct{}, 1),
	}
	k.commit, k.link.owner.tenure = k.change, &k.memory.tenure
	if _, err := k.link.hasTable(TableSplits); err != nil {
		k.link.close()
		return nil, openError(err)
	}
	var err error
	if k.turn, err = takeTurn(); err != nil {
		k.link.close()
		return nil, fmt.Errorf("open kernel plane: %w", err)
	}
	if err := k.decideOwner(); err != nil {
		_ = k.Close()
		return nil, err
	}
	if k.turn.squatter != "" {
		o.Log.Warn("a program that may not program the kernel holds the name by which splitd keeps a second one away: end it", "name", turnName, "holder", k.turn.squatter)
	}
	return k, nil
}

// decideOwner says whether tables are to be owned.
func (k *Kernel) decideOwner() error {
	if k.options.Settings.Owner != OwnerAuto {
		return k.warnOfFlags()
	}
	can, err := k.link.canOwn()
	if err != nil {
		return err
	}
	k.link.owner.wanted = can
	if !can {
		k.options.Log.Info("this kernel knows no owned tables that persist (Linux 6.9): other programs can flush ours, and they are put back then")
	}
	return nil
}

// warnOfFlags tells of tables that an owner has left: Linux refuses to take the
// flag away, and nft before 1.1 cannot load a listing of such a table.
func (k *Kernel) warnOfFlags() error {
	tables, err := k.link.splitTables()
	if err != nil {
		return err
	}
	for _, t := range tables {
		if t.Flags&ownedFlags != 0 {
			k.options.Log.Warn("cleanup needed: tables keep the flag of the owner that they had before netfilter.owner was set to never; "+
				"stop splitd, run `splitd cleanup`, start it", "table", t.Name)
			break
		}
	}
	return nil
}

func openError(err error) error {
	switch {
	case errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES):
		return fmt.Errorf("kernel mode needs CAP_NET_ADMIN: run splitd as root, grant the capability, or set mode: proxy: %w", err)
	case errors.Is(err, unix.EPROTONOSUPPORT) || errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EINVAL):
		return fmt.Errorf("kernel mode needs nf_tables in the kernel: run `modprobe nf_tables nft_numgen nft_nat`, or set mode: proxy: %w", err)
	}
	return fmt.Errorf("open nf_tables: %w", err)
}

// Apply brings the kernel to the splits, given with the weights in force, and
// the return paths. Of splits in mode proxy those that are transparent get what
// their relay's own flows need, and keep it until those have ended; all others are
// passed over. New flows never fall through meanwhile and established
// ones stay where they are. What is equal already is left alone: changed is
// then false and there was no transaction. The result has been read back from
// the kernel. Return paths come first: an error about one leaves the splits as
// they were. On an error the rules before stay in force unless it says
// otherwise; calling Apply again is always safe.
func (k *Kernel) Apply(ctx context.Context, splits []traffic.Split, paths []traffic.ReturnPath) (changed bool, err error) {
	relayed := legsOf(splits, k.options.Settings)
	splits = kernelSplits(splits)
	base, err := buildRouting(splits, paths, k.options.Settings)
	if err != nil {
		return false, err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if err := k.wantLegs(relayed, base); err != nil {
		return false, fmt.Errorf("apply transparent relays to the kernel: %w", err)
	}
	returns := base.withLegs(k.legs.standing.Load())
	changed, err = applyReturns(ctx, returns)
	if err != nil {
		return changed, fmt.Errorf("apply return paths to the kernel: %w", err)
	}
	k.returns = returns
	changedSplits, err := k.applySplits(ctx, splits)
	if err != nil {
		return changed || changedSplits, fmt.Errorf("apply splits to the kernel: %w", err)
	}
	small := append(mirrors(splits), k.legs.standing.Load().table(k.options.Settings))
	changedSmall, err := k.link.applyWhole(k.commit, small...)
	if err != nil {
		err = fmt.Errorf("apply mirrors and transparent relays to the kernel: %w", err)
	}
	return changed || changedSplits || changedSmall, err
}

func (k *Kernel) applySplits(ctx context.Context, splits []traffic.Split) (changed bool, err error) {
	if err := k.link.own(); err != nil {
		return false, err
	}
	k.retire()
	err = k.undisturbed(func() error {
		again, err := k.bringSplits(ctx, splits)
		changed = changed || again
		return err
	})
	return changed, err
}

// bringSplits reads, plans, writes and reads back.
func (k *Kernel) bringSplits(ctx context.Context, splits []traffic.Split) (changed bool, err error) {
	have, err := k.memory.see(&k.link)
	if err != nil {
		return false, err
	}
	p, want := makePlan(have, splits, k.options.Settings, k.options.About, k.versions.all())
	k.remember(have, want, p)
	if p.empty() {
		return false, k.dropKeeper(len(have) > 0)
	}
	if landed, err := k.carryOut(ctx, p); err != nil {
		return landed > 0 && errors.Is(err, errOvertaken), err
	}
	have, err = k.memory.see(&k.link)
	if err != nil {
		return true, fmt.Errorf("read back: %w", err)
	}
	if p, want = makePlan(have, splits, k.options.Settings, k.options.About, k.versions.all()); !p.empty() {
		return true, fmt.Errorf("read back: the kernel differs from what was written, another program may be changing table %q: %s", TableSplits, first(differences(have, want, splits)))
	}
	k.remember(have, want, p)
	return true, k.dropKeeper(true)
}

// change commits the steps and remembers what they change. k.mu is held.
func (k *Kernel) change(all []step) error {
	k.writes.begun.Add(1)
	defer k.writes.ended.Add(1)
	before, unread := k.generation()
	err := k.link.commit(all)
	if err == nil {
		k.writes.landed.Add(1)
	}
	after := before
	if err == nil && unread == nil {
		after, unread = k.generation()
	}
	k.memory.changed(all, before, after, cmp.Or(err, unread)) // which keeps nobody from changing
	return err
}

// carryOut runs the transactions of a plan. It says how many of them landed.
func (k *Kernel) carryOut(ctx context.Context, p plan) (landed int, err error) {
	if len(p.rebuild) > 0 {
		// Live flows need a nat chain at every moment.
		removal := keeper()
		for _, name := range p.rebuild {
			removal = append(removal, on(name, removeTable{})...)
		}
		if err := k.commit(removal); err != nil {
			return 0, fmt.Errorf("remove the table for rebuilding: %w: the rules before stay in force", err)
		}
		landed++
	}
	all, unseen := p.transactions(k.link.room)
	for i, t := range all {
		err := ctx.Err()
		if err == nil {
			err = k.commit(t)
		}
		if err == nil {
			landed++
			continue
		}
		force := "the rules before stay in force"
		switch {
		case len(p.rebuild) > 0:
			force = "the table was of a shape that had to be rebuilt and nothing is split until an apply succeeds"
		case i > unseen:
			force = "the transactions before it are in force, apply again"
		}
		return landed, fmt.Errorf("transaction %d of %d: %w: %s", i+1, len(all), err, force)
	}
	return landed, nil
}

// remember notes which versions exist and what is left to retire.
func (k *Kernel) remember(have sight, want Ruleset, p plan) {
	k.versionsKnown = true
	k.stand(have.standing())
	for _, o := range have {
		for name := range o.chains {
			k.versions.note(name)
		}
	}
	for _, t := range want.tables {
		k.wantAgain(t)
	}
	for _, l := range p.leftovers {
		k.abandon(l)
	}
}

// stand notes which table each split is in. The map is not modified any more.
func (k *Kernel) stand(places map[string]string) {
	k.standing = places
	k.places.Store(&places)
}

// wantAgain takes what a table is to have from the leftovers.
func (k *Kernel) wantAgain(t table) {
	delete(k.leftovers, leftover{kind: leftTable, table: t.name})
	for _, c := range t.chains {
		k.versions.note(c.name)
		delete(k.leftovers, leftChain(t.name, c.name))
	}
	for _, name := range t.counters {
		delete(k.leftovers, leftover{kind: leftCounter, table: t.name, name: name})
	}
	for _, o := range t.timeouts {
		delete(k.leftovers, leftover{kind: leftTimeout, table: t.name, name: o.name()})
	}
	for _, g := range t.groups {
		for _, set := range g.sets() {
			delete(k.leftovers, leftover{kind: leftGroup, table: t.name, name: set})
		}
	}
}

// abandon notes that nothing leads to l since now.
func (k *Kernel) abandon(l leftover) {
	if _, known := k.leftovers[l]; !known {
		k.leftovers[l] = k.options.Now()
	}
}

// Run keeps house until ctx ends, then returns nil: it retires what old
// weights left behind, follows the neighbours of return paths, and puts back
// what other programs and devices that went down took of their rules and
// routes. The rules stay in the kernel.
func (k *Kernel) Run(ctx context.Context) error {
	group, inner := errgroup.WithContext(ctx)
	group.Go(func() error { return k.retireLoop(inner) })
	group.Go(func() error { return k.follower().run(inner) })
	if err := group.Wait(); err != nil && ctx.Err() == nil {
		return fmt.Errorf("keep the kernel rules: %w", err)
	}
	return nil
}

// Mended is how often Run has put back what was missing of the return paths.
func (k *Kernel) Mended() uint64 { return k.mended.Load() }

// Moved tells each time that Run has followed routers of return paths to other
// link-layer addresses, which the text of Include has. It is for one receiver,
// who may be told once of many.
func (k *Kernel) Moved() <-chan struct{} { return k.moved }

func (k *Kernel) follower() *follower {
	return &follower{want: k.wantedReturns, mended: &k.mended, moved: k.moved, log: k.options.Log, buffer: followBuffer}
}

func (k *Kernel) wantedReturns() Returns {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.returns
}

// Close gives the Kernel up; its rules stay. It may be called again.
func (k *Kernel) Close() error {
	k.readers.end()
	k.conntracks.end()
	k.mu.Lock()
	defer k.mu.Unlock()
	k.link.close()
	k.turn.end()
	return nil
}

func first(lines []string) string {
	if len(lines) == 0 {
		return "nothing that can be named"
	}
	return lines[0]
}
