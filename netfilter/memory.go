package netfilter

import (
	"fmt"
	"maps"
	"strings"
	"sync"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
)

// memory is what was read of the tables last. Reading thousands of splits takes
// seconds, so nothing is read again that cannot have changed: while the tables
// are ours alone, what we did not change; else, as long as the generation of
// the ruleset is the one that our own changes led to.
//
// It may be used by many goroutines. What it gives away is never modified.
type memory struct {
	mu    sync.Mutex
	known sight  // nil: nothing
	gen   uint32 // of the ruleset when it was known
	owned bool   // all of its tables are ours alone,
	held  uint64 // in this tenure
	// stale are the chains, by table, whose rules may be others by now, and
	// whether they still stand: the kernel lists a chain that is gone as empty.
	stale map[string]map[string]bool
	wrote uint64 // +1 for each change of ours

	tenure tenure // of the socket that owns the tables
}

// staleMost is how many chains are read again one by one; from more on all is
// read anew.
const staleMost = 200

func (m *memory) forget() { m.known, m.stale = nil, nil }

// changed takes in a transaction of ours, which led from one generation of the
// ruleset to another.
func (m *memory) changed(all []step, before, after uint32, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.wrote++
	if m.known == nil {
		return
	}
	if err != nil || !m.ours() && (m.gen != before || after != before+1) {
		m.forget()
		return
	}
	m.gen = after
	for _, s := range all {
		chain, stands, ok := changedChain(s.operation)
		if !ok {
			m.forget()
			return
		}
		if m.stale[s.table] == nil {
			m.stale[s.table] = map[string]bool{}
		}
		m.stale[s.table][chain] = stands
	}
}

// changedChain is the chain that an operation changes, if it changes nothing
// else.
func changedChain(o operation) (chain string, stands, ok bool) {
	switch o := o.(type) {
	case addChain:
		return o.chain.name, true, o.chain.hook == nil
	case replaceRule:
		return o.chain, true, true
	case replaceRules:
		return o.chain.name, true, true
	case removeRule:
		return o.chain, true, true
	case removeChain:
		return o.name, false, true
	default:
		return "", false, false
	}
}

// see returns the tables as they are, reading no more of them than it must.
func (m *memory) see(l *link) (sight, error) {
	known, err := m.recall(l)
	if known != nil || err != nil {
		return known, err
	}
	m.mu.Lock()
	wrote, held := m.wrote, m.tenure.now()
	m.mu.Unlock()
	s, gen, err := l.observeAt(everything)
	if err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.wrote == wrote {
		m.known, m.gen, m.owned, m.held = s, gen, s.owned(), held
		m.stale = map[string]map[string]bool{}
	}
	return s, nil
}

// recall brings what is known up to date; nil when that does not do.
func (m *memory) recall(l *link) (sight, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	stale := 0
	for _, chains := range m.stale {
		stale += len(chains)
	}
	if m.known == nil || stale > staleMost {
		return nil, nil
	}
	if current, err := m.current(l); err != nil || !current {
		return nil, err
	}
	if err := m.refresh(l); err != nil {
		m.forget()
		return nil, nil // a chain may have gone while it was read; reading all tells
	}
	if current, err := m.current(l); err != nil || !current {
		return nil, err
	}
	return m.known, nil
}

// ours says whether what is known has been ours alone to change ever since.
func (m *memory) ours() bool { return m.owned && m.tenure.held() && m.held == m.tenure.now() }

// alone is ours for who does not hold the lock.
func (m *memory) alone() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.ours()
}

// current says whether nobody else can have changed what is known.
func (m *memory) current(l *link) (bool, error) {
	if m.ours() {
		return true, nil
	}
	gen, err := l.generation()
	return gen == m.gen, err
}

// refresh reads the stale chains.
func (m *memory) refresh(l *link) error {
	for table, chains := range m.stale {
		o, ok := m.known[table]
		if !ok {
			m.forget()
			return nil
		}
		r, err := l.reader(table)
		if err != nil {
			return err
		}
		if o.chains, err = r.again(o.chains, chains); err != nil {
			return err
		}
		m.known = maps.Clone(m.known)
		m.known[table] = o
		delete(m.stale, table)
	}
	return nil
}

// again returns the chains with those that are named read anew.
func (r reader) again(known map[string]observedChain, names map[string]bool) (map[string]observedChain, error) {
	chains := maps.Clone(known)
	for name, stands := range names {
		if !stands {
			delete(chains, name)
			continue
		}
		rules, err := r.rulesOf(name)
		if err != nil {
			return nil, err
		}
		c := chains[name]
		c.rules = rules
		chains[name] = c
	}
	return chains, nil
}

// rulesOf reads a chain and the maps of its draws.
func (r reader) rulesOf(chain string) ([]observedRule, error) {
	raw, err := r.raw(chain)
	if err != nil {
		return nil, err
	}
	draws := map[string]*nftables.Set{}
	for _, rule := range raw {
		for _, name := range anonymousMaps(rule.Exprs) {
			if draws[name], err = r.conn.GetSetByName(r.table, name); err != nil {
				return nil, fmt.Errorf("read map %q: %w", name, r.link.failed(err))
			}
		}
	}
	return r.parse(raw, draws)
}

// anonymousMaps are the maps that the kernel has named for a rule.
func anonymousMaps(expressions []expr.Any) []string {
	var names []string
	for _, e := range expressions {
		if l, ok := e.(*expr.Lookup); ok && strings.HasPrefix(l.SetName, "__map") {
			names = append(names, l.SetName)
		}
	}
	return names
}

// owned says whether every table is its owner's alone.
func (s sight) owned() bool {
	for _, o := range s {
		if !o.owned {
			return false
		}
	}
	return len(s) > 0
}
