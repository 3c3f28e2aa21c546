package netfilter

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"golang.org/x/sys/unix"
)

// markState is the marking table as the kernel has it.
type markState struct {
	table  *nftables.Table // nil: there is none
	chains map[string]*nftables.Chain
	rules  map[string][]*nftables.Rule
	sets   map[string][]neighbour
	odd    []string // sets that are not of our kind: the table is made anew
}

// neighbour is an element of a neighbourSet; its comment is the router whose
// link-layer address it is.
type neighbour struct {
	address string // 6 bytes
	router  string
}

// neighbours are the known link-layer addresses of the routers, by set name.
type neighbours map[string]net.HardwareAddr

// want is what the set should hold, given what it holds: while the router's
// address is unknown the last known one stays.
func (n neighbours) want(set neighbourSet, has []neighbour) []neighbour {
	router := set.path.via.String()
	if address, known := n[set.name]; known {
		return []neighbour{{address: string(address), router: router}}
	}
	return slices.DeleteFunc(slices.Clone(has), func(e neighbour) bool { return e.router != router })
}

func markTable() *nftables.Table {
	return &nftables.Table{Family: nftables.TableFamilyINet, Name: TableReturn}
}

func nftSet(table *nftables.Table, name string) *nftables.Set {
	return &nftables.Set{Table: table, Name: name, KeyType: nftables.TypeEtherAddr, KeyByteOrder: binaryutil.BigEndian}
}

// readMarks reads the marking table.
func readMarks(conn *nftables.Conn) (markState, error) {
	var m markState
	table, err := conn.ListTableOfFamily(TableReturn, nftables.TableFamilyINet)
	if errors.Is(err, unix.ENOENT) {
		return m, nil
	}
	if err != nil {
		return m, fmt.Errorf("read table %q: %w", TableReturn, err)
	}
	m = markState{table: table, chains: map[string]*nftables.Chain{}, rules: map[string][]*nftables.Rule{}, sets: map[string][]neighbour{}}
	chains, err := conn.ListChainsOfTableFamily(nftables.TableFamilyINet)
	if err != nil {
		return m, fmt.Errorf("read chains of %q: %w", TableReturn, err)
	}
	for _, chain := range chains {
		if chain.Table.Name != TableReturn {
			continue
		}
		m.chains[chain.Name] = chain
		if m.rules[chain.Name], err = conn.GetRules(table, chain); err != nil {
			return m, fmt.Errorf("read rules of %q: %w", chain.Name, err)
		}
	}
	return m, m.readSets(conn)
}

func (m *markState) readSets(conn *nftables.Conn) error {
	sets, err := conn.GetSets(m.table)
	if err != nil {
		return fmt.Errorf("read sets of %q: %w", TableReturn, err)
	}
	for _, set := range sets {
		if set.KeyType.Name != nftables.TypeEtherAddr.Name || set.IsMap || set.Anonymous || set.Interval || set.HasTimeout {
			m.odd = append(m.odd, set.Name)
			continue
		}
		elements, err := conn.GetSetElements(set)
		if err != nil {
			return fmt.Errorf("read set %q: %w", set.Name, err)
		}
		m.sets[set.Name] = []neighbour{}
		for _, e := range elements {
			m.sets[set.Name] = append(m.sets[set.Name], neighbour{address: string(e.Key), router: e.Comment})
		}
	}
	return nil
}

// fits says whether the kernel's chain is of the kind that we make.
func (c markChain) fits(has *nftables.Chain) bool {
	want := c.inKernel(has.Table)
	if want.Hooknum == nil || has.Hooknum == nil {
		return want.Hooknum == nil && has.Hooknum == nil
	}
	return want.Type == has.Type && *want.Hooknum == *has.Hooknum && has.Priority != nil && *want.Priority == *has.Priority &&
		has.Policy != nil && *has.Policy == *want.Policy
}

// holds says whether the kernel's chain has exactly these rules.
func (c markChain) holds(has []*nftables.Rule) bool {
	return slices.EqualFunc(c.rules, has, func(want rule, has *nftables.Rule) bool {
		return want.identity() == identity(has.Exprs, nil, commentOf(has.UserData))
	})
}

// markDifferences says in words what has to be done to the marking table, and
// which routers have another link-layer address than it holds.
func (r Returns) markDifferences(m markState, known neighbours) (lines, moved []string) {
	chains, sets := r.chains(), r.sets()
	switch {
	case len(chains) == 0 && m.table == nil:
		return nil, nil
	case len(chains) == 0:
		return []string{"table inet " + TableReturn + ": to be removed"}, nil
	case m.table == nil:
		return []string{"table inet " + TableReturn + ": missing"}, nil
	}
	for _, set := range sets {
		has, there := m.sets[set.name]
		if !there {
			lines = append(lines, set.missing())
		} else if !sameElements(known.want(set, has), has) {
			moved = append(moved, set.outdated())
		}
	}
	for _, chain := range chains {
		has, there := m.chains[chain.name]
		switch {
		case !there:
			lines = append(lines, fmt.Sprintf("chain %s: missing", chain.name))
		case !chain.fits(has) || !chain.holds(m.rules[chain.name]):
			lines = append(lines, fmt.Sprintf("chain %s: differs", chain.name))
		}
	}
	for _, name := range r.strayNames(m) {
		lines = append(lines, name+": to be removed")
	}
	return lines, moved
}

func (s neighbourSet) missing() string { return fmt.Sprintf("set %s: missing", s.name) }

func (s neighbourSet) outdated() string {
	return fmt.Sprintf("set %s: does not hold the address of %s", s.name, s.path.via)
}

// strayNames lists what is in the table and should not be.
func (r Returns) strayNames(m markState) []string {
	var stray []string
	for _, name := range slices.Sorted(maps.Keys(m.chains)) {
		if !slices.ContainsFunc(r.chains(), func(c markChain) bool { return c.name == name }) {
			stray = append(stray, "chain "+name)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(m.sets)) {
		if !slices.ContainsFunc(r.sets(), func(s neighbourSet) bool { return s.name == name }) {
			stray = append(stray, "set "+name)
		}
	}
	for _, name := range m.odd {
		stray = append(stray, "set "+name)
	}
	return stray
}

func sameElements(a, b []neighbour) bool {
	return len(a) == len(b) && !slices.ContainsFunc(a, func(e neighbour) bool { return !slices.Contains(b, e) })
}

// applyMarks brings the marking table to r, in an order in which no packet
// finds a rule whose set is not filled yet: sets and chains first, then all
// rules at once, then what is left over. It returns the differences there were.
func (r Returns) applyMarks(conn *nftables.Conn, known neighbours) (did, followed []string, err error) {
	var b basis
	err = b.undisturbed(func() (uint32, error) { return generation(conn) }, func() error {
		did, followed, err = r.bringMarks(conn, &b, known)
		return err
	})
	return did, followed, err
}

// bringMarks reads, plans and writes.
func (r Returns) bringMarks(conn *nftables.Conn, b *basis, known neighbours) (did, followed []string, err error) {
	m, err := readMarks(conn)
	if err != nil {
		return nil, nil, err
	}
	did, followed = r.markDifferences(m, known)
	if len(did)+len(followed) == 0 {
		return nil, nil, nil
	}
	if len(r.marks) == 0 {
		conn.DelTable(markTable())
		return did, followed, b.flushMarks(conn)
	}
	foul := len(m.odd) > 0 || slices.ContainsFunc(r.chains(), func(c markChain) bool {
		has, there := m.chains[c.name]
		return there && !c.fits(has)
	})
	if foul {
		conn.DelTable(markTable())
		m = markState{}
	}
	table := conn.AddTable(markTable())
	prepared, err := r.prepareMarks(conn, table, m, known)
	if err != nil {
		return nil, nil, err
	}
	if m.table == nil { // one transaction suffices where nothing was
		r.addMarkRules(conn, table, m)
		return did, followed, b.flushMarks(conn)
	}
	if prepared { // a transaction that changes nothing makes no generation, which the basis expects
		if err := b.flushMarks(conn); err != nil {
			return nil, nil, err
		}
	}
	r.addMarkRules(conn, table, m)
	r.removeStray(conn, table, m)
	return did, followed, b.flushMarks(conn)
}

func (b *basis) flushMarks(conn *nftables.Conn) error {
	if err := b.flush(conn); err != nil {
		return fmt.Errorf("change table %q: %w", TableReturn, err)
	}
	return nil
}

// prepareMarks writes what no packet finds yet, and says whether that changes
// anything.
func (r Returns) prepareMarks(conn *nftables.Conn, table *nftables.Table, m markState, known neighbours) (writes bool, err error) {
	for _, wanted := range r.sets() {
		set := nftSet(table, wanted.name)
		has, there := m.sets[wanted.name]
		want := known.want(wanted, has)
		if !there {
			if err := conn.AddSet(set, ofNeighbours(want)); err != nil {
				return false, fmt.Errorf("add set %q: %w", wanted.name, err)
			}
			writes = true
			continue
		}
		if sameElements(want, has) {
			continue
		}
		conn.FlushSet(set)
		if err := conn.SetAddElements(set, ofNeighbours(want)); err != nil {
			return false, fmt.Errorf("fill set %q: %w", wanted.name, err)
		}
		writes = true
	}
	for _, chain := range r.chains() {
		if _, there := m.chains[chain.name]; !there {
			conn.AddChain(chain.inKernel(table))
			writes = true
		}
	}
	return writes, nil
}

func ofNeighbours(list []neighbour) []nftables.SetElement {
	var es []nftables.SetElement
	for _, e := range list {
		es = append(es, nftables.SetElement{Key: []byte(e.address), Comment: e.router})
	}
	return es
}

func (r Returns) addMarkRules(conn *nftables.Conn, table *nftables.Table, m markState) {
	for _, chain := range r.chains() {
		if has, there := m.rules[chain.name]; there {
			if chain.holds(has) {
				continue
			}
			conn.FlushChain(&nftables.Chain{Name: chain.name, Table: table})
		}
		for _, rule := range chain.rules {
			conn.AddRule(&nftables.Rule{
				Table: table, Chain: &nftables.Chain{Name: chain.name, Table: table},
				Exprs: rule.expressions(), UserData: rule.userData(),
			})
		}
	}
}

func (r Returns) removeStray(conn *nftables.Conn, table *nftables.Table, m markState) {
	for name := range m.chains {
		if !slices.ContainsFunc(r.chains(), func(c markChain) bool { return c.name == name }) {
			chain := &nftables.Chain{Name: name, Table: table}
			conn.FlushChain(chain)
			conn.DelChain(chain)
		}
	}
	for name := range m.sets {
		if !slices.ContainsFunc(r.sets(), func(s neighbourSet) bool { return s.name == name }) {
			conn.DelSet(nftSet(table, name))
		}
	}
}
