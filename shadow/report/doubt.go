package report

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/splitd/splitd/shadow"
	"github.com/splitd/splitd/shadow/tally"
)

// sameWithin is the share of exchanges below which what differs has to be, with 95 %
// certainty, for the verdict that nothing does: ten times what would be reported,
// and 1 % at least.
func sameWithin(effect float64) float64 { return max(0.01, 10*effect) }

// leastCompared is how many exchanges without a difference bound the share of those
// that differ by within: Wilson's upper bound of 0 of n is z²/(n+z²). It is 381 for
// 1 %.
func leastCompared(within float64) int64 {
	n := int64(1)
	for step := int64(1 << 40); step > 0; step /= 2 {
		if _, upper := tally.Wilson(0, n+step-1); upper > within {
			n += step
		}
	}
	return n
}

// doubtful counts an exchange that is wholly noise though one of the two servers has
// refused what the other accepts: that is noise only if what it is put down to is so.
// What the user has a rule for is his word.
func (m *maker) doubtful(c tally.Combination) {
	for _, g := range c.Signatures {
		signature := m.s.Signatures[g]
		if signature.Level < shadow.Decision {
			continue
		}
		if f := m.s.Fields[signature.Field]; !m.users(f.Excuse) {
			m.exchanges.Doubtful += c.Count
			m.doubts[f.Excuse] += c.Count
			return
		}
	}
}

// users says whether an excuse is a rule of the user's.
func (m *maker) users(excuse string) bool {
	return slices.ContainsFunc(m.s.Rules, func(r tally.Rule) bool { return shadow.Clean(r.Text, longest) == excuse })
}

// doubt says why noise may hide that the candidate is wrong; "" where it cannot in
// more exchanges than within lets.
func (m *maker) doubt(within float64) string {
	doubtful, compared := m.exchanges.Doubtful, m.s.Coverage.Compared
	if share(doubtful, compared) <= within {
		return ""
	}
	var causes []string
	for _, excuse := range slices.SortedFunc(maps.Keys(m.doubts), func(a, b string) int {
		return cmp.Or(cmp.Compare(m.doubts[b], m.doubts[a]), cmp.Compare(a, b))
	}) {
		causes = append(causes, fmt.Sprintf("%d %s", m.doubts[excuse], cause(excuse)))
	}
	return fmt.Sprintf("in %d of %d exchanges (%s) one server refuses what the other accepts, and that may hide a candidate that is wrong: %s.",
		doubtful, compared, percent(share(doubtful, compared)), strings.Join(causes, "; "))
}

// cause is what doubtful exchanges are put down to, and what to do.
func cause(excuse string) string {
	if excuse == "" {
		return "put down to the primary, which answers otherwise when it is asked twice too " +
			"(see to it that it answers this host as it answers clients, or set control: none)"
	}
	return fmt.Sprintf("put down to what is built in as %q (tell the candidate who the client is, key identity, or have a rule of your own under ignore)", excuse)
}
