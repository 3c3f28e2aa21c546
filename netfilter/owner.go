package netfilter

import (
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"
)

// An owned table can be changed through the socket alone that made it: `nft
// flush ruleset`, a restart of nftables.service and every firewall leave it
// alone (NFT_TABLE_F_OWNER, Linux 5.12). It persists when that socket closes,
// as anybody's table, until the next owner takes it over
// (NFT_TABLE_F_PERSIST, Linux 6.9). Without the second the first is of no use
// to us: the rules must outlive the daemon.
const ownedFlags = nftables.TableFlagOwner | nftables.TableFlagPersist

// tableProbe is the name of a table that is made and removed in one
// transaction, which nobody sees.
const tableProbe = TableSplits + "_probe"

// owner is what a link knows of its tables.
type owner struct {
	wanted bool // tables of the splits are to be owned
	// tenure is that of the socket that is open now over the tables that there
	// are; nil where nobody asks.
	tenure *tenure
}

// A tenure counts how often tables were taken over and given up: its number is
// odd while they are held. Between two of them they are anybody's, so what was
// read in an earlier one may be otherwise now. Its methods may be called from
// many goroutines, those that change it from one at a time.
type tenure struct{ number atomic.Uint64 }

func (t *tenure) now() uint64 {
	if t == nil {
		return 0
	}
	return t.number.Load()
}

func (t *tenure) held() bool { return t.now()%2 == 1 }

func (t *tenure) hold(yes bool) {
	if t != nil && t.held() != yes {
		t.number.Add(1)
	}
}

// canOwn asks the kernel whether it knows owned tables that persist.
func (l *link) canOwn() (bool, error) {
	if err := l.open(); err != nil {
		return false, err
	}
	probe := &nftables.Table{Name: tableProbe, Family: nftables.TableFamilyINet, Flags: ownedFlags}
	l.conn.AddTable(probe)
	l.conn.DelTable(probe)
	err := l.conn.Flush()
	if err == nil {
		return true, nil
	}
	l.close()
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EINVAL) {
		return false, nil
	}
	return false, fmt.Errorf("ask nf_tables for owned tables: %w", err)
}

// errOwned says that a table of ours has another owner.
var errOwned = errors.New("another process owns it: end that one first (`splitctl off --force` finds it)")

// own takes over the tables that an owner before us has left, if tables are to
// be owned. A table that never had an owner cannot be taken over; it stays as
// it is.
func (l *link) own() error {
	if !l.owner.wanted || l.owner.tenure.held() && l.conn != nil {
		return nil
	}
	tables, err := l.splitTables()
	if err != nil {
		return err
	}
	for _, t := range tables {
		if t.Flags&ownedFlags != nftables.TableFlagPersist {
			continue
		}
		l.conn.AddTable(&nftables.Table{Name: t.Name, Family: t.Family, Flags: ownedFlags | t.Flags})
		if err := l.conn.Flush(); err != nil {
			l.close()
			return fmt.Errorf("take over table %q: %w", t.Name, err)
		}
	}
	l.owner.tenure.hold(true)
	return nil
}

// flags are those of a table of that name when it is made.
func (o owner) flags(table string) nftables.TableFlags {
	if _, split := tableNumber(table); o.wanted && split {
		return ownedFlags
	}
	return 0
}

// keepOwned takes the tables over again should the socket have been closed
// after a failure: until then they are anybody's. k.mu is held.
func (k *Kernel) keepOwned() {
	if err := k.link.own(); err != nil {
		k.options.Log.Warn("tables are not owned; tried again in a second", "error", err)
	}
}

// ownership says which tables are this process's alone to change, so that no
// flush and no reload of a firewall can take them away.
type ownership struct {
	wanted bool
	open   map[string]bool // tables of splits that are anybody's all the same
}

// ownership asks the kernel.
func (k *Kernel) ownership() (ownership, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.link.ownership()
}

func (l *link) ownership() (ownership, error) {
	o := ownership{wanted: l.owner.wanted, open: map[string]bool{}}
	if !o.wanted {
		return o, nil
	}
	tables, err := l.splitTables()
	for _, t := range tables {
		if t.Flags&ownedFlags != ownedFlags {
			o.open[t.Name] = true
		}
	}
	return o, err
}

// of says whether the table is owned. One of splits that is not there yet
// counts: it is made so.
func (o ownership) of(table string) bool {
	_, split := tableNumber(table)
	return o.wanted && split && !o.open[table]
}

// whole says whether all tables of splits are owned.
func (o ownership) whole() bool { return o.wanted && len(o.open) == 0 }
