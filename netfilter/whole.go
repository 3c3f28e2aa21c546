package netfilter

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"
)

// A wholeTable is a small one that is replaced in one transaction, because no
// rule in it owns a set; one without chains is not wanted.
type wholeTable struct {
	name   string
	family nftables.TableFamily
	chains []chain
}

func (t wholeTable) wanted() bool { return len(t.chains) > 0 }

// title is what nft calls the table.
func (t wholeTable) title() string {
	family := map[nftables.TableFamily]string{
		nftables.TableFamilyINet: "inet", nftables.TableFamilyIPv4: "ip", nftables.TableFamilyIPv6: "ip6",
	}[t.family]
	return "table " + family + " " + t.name
}

// text is the table as nft 1.0.6 lists it; "" when it is not wanted.
func (t wholeTable) text() string {
	if !t.wanted() {
		return ""
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s {\n", t.title())
	for i, c := range t.chains {
		if i > 0 {
			b.WriteByte('\n')
		}
		c.write(&b)
	}
	b.WriteString("}\n")
	return b.String()
}

// observedWhole is such a table as the kernel has it.
type observedWhole struct {
	exists bool
	odd    bool // there is something in it that we do not make
	chains map[string]observedChain
}

func (l *link) readWhole(t wholeTable) (observedWhole, error) {
	o := observedWhole{chains: map[string]observedChain{}}
	if err := l.open(); err != nil {
		return o, err
	}
	table, err := l.conn.ListTableOfFamily(t.name, t.family)
	if errors.Is(err, unix.ENOENT) {
		return o, nil
	}
	if err != nil {
		return o, fmt.Errorf("read %s: %w", t.title(), l.failed(err))
	}
	o.exists, o.odd = true, table.Flags&nftables.TableFlagDormant != 0
	chains, err := l.conn.ListChainsOfTableFamily(t.family)
	if err != nil {
		return o, fmt.Errorf("read %s: %w", t.title(), l.failed(err))
	}
	for _, c := range chains {
		if c.Table == nil || c.Table.Name != t.name {
			continue
		}
		var has observedChain
		if c.Hooknum != nil {
			has.hook, has.odd = parseHook(c)
		}
		r := l.readerOf(&nftables.Table{Name: t.name, Family: t.family})
		if has.rules, err = r.rules(c.Name, nil); err != nil {
			return o, err
		}
		o.chains[c.Name] = has
	}
	return o, nil
}

// as says whether the kernel has what is wanted.
func (o observedWhole) as(t wholeTable) bool {
	if !t.wanted() {
		return !o.exists
	}
	if !o.exists || o.odd || len(o.chains) != len(t.chains) {
		return false
	}
	return !slices.ContainsFunc(t.chains, func(c chain) bool {
		has, stands := o.chains[c.name]
		return !stands || !has.hookedLike(c) || !sameRules(has.rules, c.rules)
	})
}

func (o observedWhole) difference(t wholeTable) string {
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

// steps replace the table.
func (o observedWhole) steps(t wholeTable) []step {
	var operations []operation
	if o.exists {
		operations = append(operations, removeTable{})
	}
	if t.wanted() {
		operations = append(operations, addTable{})
		for _, c := range t.chains {
			operations = append(operations, addChain{chain: c})
		}
	}
	steps := on(t.name, operations...)
	for i := range steps {
		steps[i].family = t.family
	}
	return steps
}

// applyWhole brings the tables to what is wanted, each in one transaction.
func (l *link) applyWhole(commit committer, tables ...wholeTable) (changed bool, err error) {
	for _, t := range tables {
		err := l.undisturbed(func() error {
			written, err := l.bringWhole(commit, t)
			changed = changed || written
			return err
		})
		if err != nil {
			return changed, err
		}
	}
	return changed, nil
}

// bringWhole reads, writes and reads back.
func (l *link) bringWhole(commit committer, t wholeTable) (changed bool, err error) {
	o, err := l.readWhole(t)
	if err != nil || o.as(t) {
		return false, err
	}
	if err := commit(o.steps(t)); err != nil {
		return false, fmt.Errorf("change %s: %w: what was in force stays", t.title(), err)
	}
	if o, err = l.readWhole(t); err != nil {
		return true, fmt.Errorf("read back: %w", err)
	}
	if !o.as(t) {
		return true, fmt.Errorf("read back: %s: another program may be changing it", o.difference(t))
	}
	return true, nil
}

// differencesWhole says, a line each, what applyWhole would change.
func (l *link) differencesWhole(tables ...wholeTable) ([]string, error) {
	var lines []string
	for _, t := range tables {
		o, err := l.readWhole(t)
		if err != nil {
			return nil, err
		}
		if line := o.difference(t); line != "" {
			lines = append(lines, line)
		}
	}
	return lines, nil
}
