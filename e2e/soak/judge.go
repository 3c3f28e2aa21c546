// Package soak has splitd carry a mixed load for a long time, as `make soak`
// does, and sees that nothing grows and no client fails: the real binary, in
// namespaces, in mode kernel and in mode proxy, of TCP and UDP, with PROXY headers
// and with clients' addresses. Judge says from values what is
// growth; the rest is behind the build tag soak.
package soak

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Reading is what a process has at one time, by the name of the measure.
type Reading map[string]float64

// Rule says how much more than before a measure may be: by a share of what it
// was, or by an amount where that is more.
type Rule struct {
	Measure string
	Share   float64
	Amount  float64
}

// Row is the verdict on a measure.
type Row struct {
	Measure       string
	First, Last   float64 // medians of the first and the last third
	Most, Allowed float64 // the highest reading, and what Last may be
}

// Grew says that the measure has grown more than it may.
func (r Row) Grew() bool { return r.Last > r.Allowed }

// LeastReadings are what a verdict needs: ten for each third.
const LeastReadings = 30

// Judge compares the last third of the readings with the first, by their medians:
// a load that comes in waves moves single readings, a leak moves the medians. The
// readings of a warm-up are no business of its. An error says that there are too
// few, or that a measure is missing.
func Judge(readings []Reading, rules []Rule) ([]Row, error) {
	if len(readings) < LeastReadings {
		return nil, fmt.Errorf("judge growth: %d readings, under %d: run for longer", len(readings), LeastReadings)
	}
	third := len(readings) / 3
	rows := make([]Row, 0, len(rules))
	for _, rule := range rules {
		all := make([]float64, 0, len(readings))
		for i, r := range readings {
			value, ok := r[rule.Measure]
			if !ok {
				return nil, fmt.Errorf("judge growth: reading %d has no %q", i, rule.Measure)
			}
			all = append(all, value)
		}
		row := Row{Measure: rule.Measure, First: median(all[:third]), Last: median(all[len(all)-third:]), Most: slices.Max(all)}
		row.Allowed = row.First + max(rule.Share*row.First, rule.Amount)
		rows = append(rows, row)
	}
	return rows, nil
}

func median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	return sorted[len(sorted)/2]
}

// Table writes the rows for people.
func Table(rows []Row) string {
	var b strings.Builder
	line := func(measure, first, last, most, allowed, verdict string) {
		fmt.Fprintf(&b, "%-12s %12s %12s %12s %12s  %s\n", measure, first, last, most, allowed, verdict)
	}
	line("", "first third", "last third", "highest", "allowed", "")
	for _, r := range rows {
		verdict := "flat"
		if r.Grew() {
			verdict = "GREW"
		}
		line(r.Measure, short(r.First), short(r.Last), short(r.Most), short(r.Allowed), verdict)
	}
	return b.String()
}

// short writes numbers from a million on, which are bytes, in MiB.
func short(n float64) string {
	if n < 1e6 {
		return fmt.Sprintf("%.0f", n)
	}
	return fmt.Sprintf("%.1f MiB", n/(1<<20))
}

// Left lists what a process still has more of than at its base, when the load is
// over.
func Left(base, end Reading, measures ...string) []string {
	var left []string
	for _, m := range measures {
		if cmp.Compare(end[m], base[m]) > 0 {
			left = append(left, fmt.Sprintf("%s: %.0f, before the load %.0f", m, end[m], base[m]))
		}
	}
	return left
}

// String writes a reading on a line.
func (r Reading) String() string {
	parts := make([]string, 0, len(r))
	for _, name := range slices.Sorted(maps.Keys(r)) {
		parts = append(parts, name+" "+short(r[name]))
	}
	return strings.Join(parts, ", ")
}
