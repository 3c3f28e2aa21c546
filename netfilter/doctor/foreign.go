package doctor

import (
	"errors"
	"fmt"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/splitd/splitd/netfilter"
)

// reach is how many chains of other programs are read.
type reach int

const (
	inTheWay   reach = iota // those that a split's packets pass
	allButHuge              // all of tables that have no more than chainsMax
	entire                  // all there are
)

// chainsMax bounds the chains of a table that are read before a start: each
// costs some 100 microseconds.
const chainsMax = 256

// foreignRules are what was read of other programs.
type foreignRules struct {
	tables []Table
	nat    bool // one of them translates addresses, which turns connection tracking on
}

// readRuleset reads other programs' tables as far as they matter to us, and
// what our own do to the host.
func (h *Host) readRuleset(reach reach, recall *Recall, others Others) error {
	conn, socket, err := netfilter.Dial()
	if err != nil {
		return err
	}
	defer func() { _ = socket.Close() }()
	tables, err := conn.ListTables()
	if err != nil {
		return fmt.Errorf("list tables: %w", err)
	}
	var foreign []*nftables.Table
	for _, t := range tables {
		if !strings.HasPrefix(t.Name, netfilter.TableSplits) {
			foreign = append(foreign, t)
			continue
		}
		if err := h.readOwn(conn, t, reach); err != nil {
			return err
		}
	}
	found, err := recall.foreign(others, func() (foreignRules, error) { return readForeign(conn, foreign, reach) })
	h.Tables, h.Tracking.On = found.tables, h.Tracking.On || found.nat
	return err
}

// readOwn takes in a table of ours. Its nat chains turn connection tracking on.
func (h *Host) readOwn(conn *nftables.Conn, table *nftables.Table, reach reach) error {
	h.Tracking.On = true
	if reach != entire {
		return nil
	}
	h.Own.note(table)
	_, err := conn.ListChain(table, netfilter.ChainClamp)
	if err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("read chain %q: %w", netfilter.ChainClamp, err)
	}
	h.Own.Clamps = h.Own.Clamps || err == nil
	return nil
}

// note takes in the flags of a table of ours.
func (o *Own) note(t *nftables.Table) {
	kept := t.Flags&(nftables.TableFlagOwner|nftables.TableFlagPersist) != 0
	o.Kept = o.Kept || kept
	o.Owned = o.Owned || t.Flags&nftables.TableFlagOwner != 0
	if t.Family == nftables.TableFamilyINet && netfilter.IsSplitTable(t.Name) && !kept {
		o.Open = append(o.Open, t.Name)
	}
}

// readForeign reads tables of other programs. The kernel lists the chains of a
// whole family, ours among them, so families that have only ours are not asked.
func readForeign(conn *nftables.Conn, tables []*nftables.Table, reach reach) (foreignRules, error) {
	r := foreignReader{conn: conn, reach: reach, index: map[tableKey]int{}}
	nat, asked := false, map[nftables.TableFamily]bool{}
	for _, t := range tables {
		if familyName(t.Family) == "" || asked[t.Family] {
			continue
		}
		asked[t.Family] = true
		chains, err := conn.ListChainsOfTableFamily(t.Family)
		if err != nil {
			return foreignRules{}, fmt.Errorf("list chains: %w", err)
		}
		for _, c := range chains {
			if !strings.HasPrefix(c.Table.Name, netfilter.TableSplits) {
				nat = nat || c.Type == nftables.ChainTypeNAT
				r.note(c)
			}
		}
	}
	err := r.read()
	return foreignRules{r.tables, nat}, err
}

type tableKey struct{ family, name string }

// foreignReader reads the tables of other programs.
type foreignReader struct {
	conn   *nftables.Conn
	chains []*nftables.Chain
	reach  reach
	index  map[tableKey]int
	tables []Table
	raw    []*nftables.Table
}

// note takes in a chain that a routed packet can pass.
func (r *foreignReader) note(c *nftables.Chain) {
	r.chains = append(r.chains, c)
	family := familyName(c.Table.Family)
	at := tableKey{family, c.Table.Name}
	i, known := r.index[at]
	if !known {
		i = len(r.tables)
		r.index[at] = i
		r.tables = append(r.tables, Table{family: family, name: c.Table.Name, rules: map[string][]*nftables.Rule{}, sets: map[string]namedSet{}})
		r.raw = append(r.raw, c.Table)
	}
	if base, matters := parseChain(c); matters {
		r.tables[i].chains = append(r.tables[i].chains, base)
	}
}

func (r *foreignReader) read() error {
	for i := range r.tables {
		t := &r.tables[i]
		if err := t.read(r.conn, r.raw[i], r.chains, r.reach); err != nil {
			return fmt.Errorf("read table %s %s: %w", t.family, t.name, err)
		}
	}
	return nil
}

// parseChain says whether the chain can stand in our way, and how it is hooked.
func parseChain(c *nftables.Chain) (baseChain, bool) {
	if c.Hooknum == nil || c.Priority == nil {
		return baseChain{}, false
	}
	base := baseChain{name: c.Name, kind: string(c.Type), priority: int(*c.Priority)}
	base.drops = c.Policy != nil && *c.Policy == nftables.ChainPolicyDrop
	switch *c.Hooknum {
	case *nftables.ChainHookPrerouting:
		base.hook = hookPrerouting
		return base, base.kind == kindNAT && base.priority <= netfilter.PrioritySplit
	case *nftables.ChainHookOutput:
		base.hook = hookOutput
		return base, base.kind == kindNAT && base.priority <= netfilter.PrioritySplit
	case *nftables.ChainHookForward:
		base.hook = hookForward
		return base, base.kind == kindFilter
	case *nftables.ChainHookInput:
		base.hook = hookInput
		return base, base.kind == kindFilter
	}
	return base, false
}

func familyName(f nftables.TableFamily) string {
	switch f { //nolint:exhaustive // no routed packet passes the others
	case nftables.TableFamilyIPv4:
		return "ip"
	case nftables.TableFamilyIPv6:
		return "ip6"
	case nftables.TableFamilyINet:
		return "inet"
	}
	return ""
}

// read fetches the table's base chains and what they lead to, and all other
// chains for what they do to marks.
func (t *Table) read(conn *nftables.Conn, table *nftables.Table, chains []*nftables.Chain, reach reach) error {
	var todo, rest []string
	for _, c := range t.chains {
		todo = append(todo, c.name)
	}
	for _, c := range chains {
		if c.Table.Name != t.name || c.Table.Family != table.Family {
			continue
		}
		rest = append(rest, c.Name)
		if c.Name == "DOCKER-USER" { // part of the cure, used or not
			todo = append(todo, c.Name)
		}
	}
	for len(todo) > 0 {
		more, err := t.readChain(conn, table, todo[0])
		if err != nil {
			return err
		}
		todo = append(todo[1:], more...)
	}
	if reach == inTheWay || reach == allButHuge && len(rest) > chainsMax {
		return nil
	}
	for _, name := range rest {
		if _, err := t.readChain(conn, table, name); err != nil {
			return err
		}
	}
	return nil
}

// readChain reads a chain that was not read yet and returns the chains that it
// leads to.
func (t *Table) readChain(conn *nftables.Conn, table *nftables.Table, name string) ([]string, error) {
	if _, done := t.rules[name]; done {
		return nil, nil
	}
	rules, err := conn.GetRules(table, &nftables.Chain{Name: name, Table: table})
	if err != nil && !errors.Is(err, unix.ENOENT) { // gone meanwhile
		return nil, fmt.Errorf("read chain %q: %w", name, err)
	}
	t.rules[name] = rules
	var leads []string
	for _, rule := range rules {
		more, err := t.follow(conn, table, rule.Exprs)
		if err != nil {
			return nil, err
		}
		leads = append(leads, more...)
	}
	return leads, nil
}

// follow reads the sets that a rule uses and returns the chains it leads to.
func (t *Table) follow(conn *nftables.Conn, table *nftables.Table, exprs []expr.Any) ([]string, error) {
	var chains []string
	add := func(v *expr.Verdict) {
		if v != nil && v.Chain != "" {
			chains = append(chains, v.Chain)
		}
	}
	for _, e := range exprs {
		switch e := e.(type) {
		case *expr.Verdict:
			add(e)
		case *expr.Lookup:
			if _, done := t.sets[e.SetName]; done {
				continue
			}
			set, err := conn.GetSetByName(table, e.SetName)
			if errors.Is(err, unix.ENOENT) {
				continue // gone meanwhile
			}
			if err != nil {
				return nil, fmt.Errorf("read set %q: %w", e.SetName, err)
			}
			set.Table = table
			elements, err := conn.GetSetElements(set)
			if err != nil {
				return nil, fmt.Errorf("read elements of %q: %w", e.SetName, err)
			}
			t.sets[e.SetName] = namedSet{interval: set.Interval, concat: set.Concatenation, elements: elements}
			for i := range elements {
				add(elements[i].VerdictData)
			}
		}
	}
	return chains, nil
}
