package netfilter

import (
	"reflect"
	"slices"
	"sync"

	"github.com/splitd/splitd/traffic"
)

// A comparison is the last one of what is wanted with what the kernel has. Of
// thousands of splits it takes half a second, and who looks again and again
// compares the same, or with one table changed. It may be used by many
// goroutines.
type comparison struct {
	mu     sync.Mutex
	have   sight // nil: none
	splits []traffic.Split
	exits  []chain
	tables map[string]comparedTable
	found  []string
}

// comparedTable is what was found of one table.
type comparedTable struct {
	have   observed
	splits []traffic.Split
	found  []string
}

// lines returns what differences finds, or has found of the same. Lines come
// table by table.
func (c *comparison) lines(have sight, splits []traffic.Split, settings Settings, about About) []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	// What the memory gives away is never modified: the same map, the same tables.
	if have != nil && reflect.ValueOf(have).Pointer() == reflect.ValueOf(c.have).Pointer() && reflect.DeepEqual(splits, c.splits) {
		return c.found
	}
	c.compare(have, splits, settings, about)
	c.have, c.splits = have, slices.Clone(splits)
	return c.found
}

func (c *comparison) compare(have sight, splits []traffic.Split, settings Settings, about About) {
	before, sameExits := c.tables, true
	c.tables, c.found = map[string]comparedTable{}, nil
	if len(splits) > 0 || len(have) > 0 {
		out := exits(splits, settings)
		sameExits = reflect.DeepEqual(out, c.exits)
		c.exits = out
	}
	for _, p := range tablesOf(have, splits) {
		now := comparedTable{have: have.table(p.table), splits: p.splits}
		if old, known := before[p.table]; known && old.same(now) && (sameExits || p.table != TableSplits) {
			now.found = old.found
		} else {
			now.found = differencesIn(p, have, splits, settings, about)
		}
		c.tables[p.table] = now
		c.found = append(c.found, now.found...)
	}
}

// same says whether both have the same splits and were read as the same: when a
// chain has changed, the memory has another map of chains.
func (t comparedTable) same(other comparedTable) bool {
	return t.have.exists && other.have.exists &&
		reflect.ValueOf(t.have.chains).Pointer() == reflect.ValueOf(other.have.chains).Pointer() && reflect.DeepEqual(t.splits, other.splits)
}

// tablesOf are the tables that are wanted, and then those that the kernel has
// besides, with their splits.
func tablesOf(have sight, splits []traffic.Split) []placement {
	if len(splits) == 0 && len(have) == 0 {
		return nil
	}
	all := placed(splits, have.standing())
	for _, name := range have.names() {
		if !slices.ContainsFunc(all, func(p placement) bool { return p.table == name }) {
			all = append(all, placement{table: name})
		}
	}
	return all
}

// differencesIn compares one table; splits are all that there are.
func differencesIn(p placement, have sight, splits []traffic.Split, settings Settings, about About) []string {
	alone := sight{}
	if o, ok := have[p.table]; ok {
		alone[p.table] = o
	}
	var want Ruleset
	if len(p.splits) > 0 || p.table == TableSplits {
		versions := chooseVersions(alone, p.splits, settings, nil)
		want = Ruleset{tables: []table{buildPlaced(p, splits, settings, versions)}}.WithAbout(about)
	}
	return differences(alone, want, p.splits)
}
