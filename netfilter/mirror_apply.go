package netfilter

import (
	"errors"
	"fmt"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"

	"github.com/splitd/splitd/traffic"
)

// observedMirror is one of the mirrors' tables as the kernel has it.
type observedMirror struct {
	exists bool
	odd    bool // there is something in it that we do not make
	copy   observedChain
	stands bool // the chain does
}

func (l *link) readMirror(t mirrorTable) (observedMirror, error) {
	var o observedMirror
	if err := l.open(); err != nil {
		return o, err
	}
	table, err := l.conn.ListTableOfFamily(TableMirror, t.family())
	if errors.Is(err, unix.ENOENT) {
		return o, nil
	}
	if err != nil {
		return o, fmt.Errorf("read %s: %w", t.title(), l.failed(err))
	}
	o.exists, o.odd = true, table.Flags&nftables.TableFlagDormant != 0
	chains, err := l.conn.ListChainsOfTableFamily(t.family())
	if err != nil {
		return o, fmt.Errorf("read %s: %w", t.title(), l.failed(err))
	}
	for _, c := range chains {
		switch {
		case c.Table == nil || c.Table.Name != TableMirror:
		case c.Name != chainCopy:
			o.odd = true
		default:
			o.stands = true
			if c.Hooknum != nil {
				o.copy.hook, o.copy.odd = parseHook(c)
			}
			r := l.readerOf(&nftables.Table{Name: TableMirror, Family: t.family()})
			if o.copy.rules, err = r.rules(chainCopy, nil); err != nil {
				return o, err
			}
		}
	}
	return o, nil
}

// as says whether the kernel has what is wanted.
func (o observedMirror) as(t mirrorTable) bool {
	if !t.wanted() {
		return !o.exists
	}
	return o.exists && o.stands && !o.odd && o.copy.hookedLike(t.chain()) && sameRules(o.copy.rules, t.rules)
}

func (o observedMirror) difference(t mirrorTable) string {
	switch {
	case o.as(t):
		return ""
	case !o.exists:
		return t.title() + " is missing"
	case !t.wanted():
		return t.title() + " is not wanted"
	}
	return t.title() + " has other rules than wanted"
}

// steps replace the table whole.
func (o observedMirror) steps(t mirrorTable) []step {
	var operations []operation
	if o.exists {
		operations = append(operations, removeTable{})
	}
	if t.wanted() {
		operations = append(operations, addTable{}, addChain{chain: t.chain()})
	}
	steps := on(TableMirror, operations...)
	for i := range steps {
		steps[i].family = t.family()
	}
	return steps
}

// applyMirrors brings both tables to the splits, each in one transaction.
func (l *link) applyMirrors(commit committer, splits []traffic.Split) (changed bool, err error) {
	for _, t := range mirrors(splits) {
		err := l.undisturbed(func() error {
			written, err := l.bringMirror(commit, t)
			changed = changed || written
			return err
		})
		if err != nil {
			return changed, err
		}
	}
	return changed, nil
}

// bringMirror reads, writes and reads back.
func (l *link) bringMirror(commit committer, t mirrorTable) (changed bool, err error) {
	o, err := l.readMirror(t)
	if err != nil || o.as(t) {
		return false, err
	}
	if err := commit(o.steps(t)); err != nil {
		return false, fmt.Errorf("change %s: %w: what was in force stays", t.title(), err)
	}
	if o, err = l.readMirror(t); err != nil {
		return true, fmt.Errorf("read back: %w", err)
	}
	if !o.as(t) {
		return true, fmt.Errorf("read back: %s: another program may be changing it", o.difference(t))
	}
	return true, nil
}

// differencesMirrors says, a line each, what applyMirrors would change.
func (l *link) differencesMirrors(splits []traffic.Split) ([]string, error) {
	var lines []string
	for _, t := range mirrors(splits) {
		o, err := l.readMirror(t)
		if err != nil {
			return nil, err
		}
		if line := o.difference(t); line != "" {
			lines = append(lines, line)
		}
	}
	return lines, nil
}
