package netfilter

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/splitd/splitd/traffic"
)

// tableMost is how many splits one table holds: what the kernel does for a
// transaction grows with what is in the table (a change of weights among 1,000
// splits takes 2 ms, among 10,000 in one table 45 ms).
const tableMost = 1000

// tableName is splitd for the first table of the splits, then splitd_1 and so
// on.
func tableName(i int) string {
	if i == 0 {
		return TableSplits
	}
	return fmt.Sprintf("%s_%d", TableSplits, i)
}

// tableNumber is i of tableName; false for the name of any other table.
func tableNumber(name string) (int, bool) {
	if name == TableSplits {
		return 0, true
	}
	text, ok := strings.CutPrefix(name, TableSplits+"_")
	i, err := strconv.Atoi(text)
	return i, ok && err == nil && i > 0 && tableName(i) == name
}

// IsSplitTable says whether a table of that name, of family inet, holds splits.
func IsSplitTable(name string) bool {
	_, holds := tableNumber(name)
	return holds
}

// placement is the splits of one table, in order of their names.
type placement struct {
	table  string
	splits []traffic.Split
}

// placed says which table each split is in: the one where it stands, else the
// first with room. A table that is empty now is among them, and the first one
// always is.
func placed(splits []traffic.Split, standing map[string]string) []placement {
	var all []placement
	table := func(i int) *placement {
		for len(all) <= i {
			all = append(all, placement{table: tableName(len(all))})
		}
		return &all[i]
	}
	table(0)
	var homeless []traffic.Split
	for _, s := range traffic.SortSplits(splits) {
		if i, ok := tableNumber(standing[s.Name]); ok {
			p := table(i)
			p.splits = append(p.splits, s)
		} else {
			homeless = append(homeless, s)
		}
	}
	i := 0
	for _, s := range homeless {
		for len(table(i).splits) >= tableMost {
			i++
		}
		all[i].splits = append(all[i].splits, s)
	}
	for i := range all {
		all[i].splits = traffic.SortSplits(all[i].splits)
	}
	return slices.DeleteFunc(all, func(p placement) bool { return len(p.splits) == 0 && p.table != TableSplits })
}
