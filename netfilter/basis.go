package netfilter

import (
	"errors"
	"fmt"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"
)

// A basis is the generation of the ruleset that the next transaction was
// planned on. When anybody has changed anything in nftables since, the kernel
// refuses that transaction whole (NFNL_BATCH_GENID in nfnetlink.h), and what was
// read is to be read again. The zero basis is never refused. It is for one
// goroutine at a time.
type basis struct{ generation uint32 }

// errOvertaken says that another program's transaction came between reading
// and writing. Nothing of ours was done.
var errOvertaken = errors.New("another program changed the ruleset meanwhile")

// overtakenMost is how often a plan is made anew because of others. Who
// changes the ruleset faster than that must not keep a weight from changing.
const overtakenMost = 3

// undisturbed has attempt read, plan and write with nobody's transaction in
// between: it is called again while others come first, and in the end without a
// basis. So attempt may be called after some of its transactions have landed,
// and must go on from what it finds. It must not ask for a basis itself.
func (b *basis) undisturbed(generation func() (uint32, error), attempt func() error) error {
	defer func() { *b = basis{} }()
	for range overtakenMost {
		now, err := generation()
		if err != nil {
			return err
		}
		*b = basis{now}
		if err := attempt(); !errors.Is(err, errOvertaken) {
			return err
		}
	}
	*b = basis{}
	return attempt()
}

// flush commits what was written to conn, which must change something: the next
// transaction is expected to find the generation that this one makes, and the
// kernel makes none of what is there already.
func (b *basis) flush(conn *nftables.Conn) error {
	err := conn.FlushWithGenID(b.generation)
	switch {
	case errors.Is(err, unix.ERESTART):
		return fmt.Errorf("%w (%w)", errOvertaken, err)
	case err == nil && b.generation != 0:
		b.generation = following(b.generation)
	}
	return err
}

// following is the generation that a transaction makes of this one: the kernel
// leaves 0 out (nf_tables_commit in nf_tables_api.c).
func following(generation uint32) uint32 {
	if generation++; generation == 0 {
		generation++
	}
	return generation
}

// undisturbed is that of the link's basis.
func (l *link) undisturbed(attempt func() error) error {
	return l.basis.undisturbed(l.generation, attempt)
}

// undisturbed is that of the writing link, unless the tables are this process's
// alone: others then change nothing that was read, and a host whose firewall is
// busy would have us plan again for nothing. k.mu is held.
func (k *Kernel) undisturbed(attempt func() error) error {
	alone, err := k.alone()
	if err != nil {
		return err
	}
	if alone {
		return attempt()
	}
	return k.link.undisturbed(attempt)
}

// alone says whether no other program can change a table of the splits.
func (k *Kernel) alone() (bool, error) {
	if k.memory.alone() {
		return true, nil
	}
	if err := k.link.own(); err != nil {
		return false, err
	}
	o, err := k.link.ownership()
	return err == nil && o.whole(), err
}

// generation is that of the ruleset as far as anybody will ask for it: behind
// a transaction with a basis it is known, and of tables that are ours alone
// nobody does. k.mu is held.
func (k *Kernel) generation() (uint32, error) {
	switch {
	case k.memory.alone():
		return 0, nil
	case k.link.basis.generation != 0:
		return k.link.basis.generation, nil
	}
	return k.link.generation()
}

// generation asks for the number of the ruleset.
func (l *link) generation() (uint32, error) {
	if err := l.open(); err != nil {
		return 0, err
	}
	now, err := generation(l.conn)
	if err != nil {
		return 0, l.failed(err)
	}
	return now, nil
}

func generation(conn *nftables.Conn) (uint32, error) {
	now, err := conn.GetGen()
	if err != nil {
		return 0, fmt.Errorf("read the generation of the ruleset: %w", err)
	}
	return now.ID, nil
}
