package main

import (
	"fmt"
	"strings"
)

// column is how a quantity is shown.
type column struct {
	name   string
	of     quantity
	format string
	unit   float64
}

func columns() []column {
	return []column{
		{"requests/s", requests, "%.0f", 1},
		{"µs CPU a request", requestCPU, "%.2f", 1e6},
		{"connections/s", flows, "%.0f", 1},
		{"µs CPU a connection", flowCPU, "%.1f", 1e6},
		{"connections/s under changes", changedFlows, "%.0f", 1},
		{"changes/s", changesMade, "%.0f", 1},
		{"Gbit/s, 1 stream", bulk, "%.1f", 1e-9},
		{"ms CPU a GB", bulkCPU, "%.0f", 1e12},
		{"Gbit/s, many streams", manyBulk, "%.1f", 1e-9},
		{"ms CPU a GB, many streams", manyBulkCPU, "%.0f", 1e12},
		{"p50, ms", p50, "%.3f", 1e3},
		{"p99, ms", p99, "%.2f", 1e3},
		{"p99.9, ms", p999, "%.2f", 1e3},
		{"idle flow, KiB of the program", idleResident, "%.2f", 1.0 / 1024},
		{"idle flow, KiB of the kernel", idleKernel, "%.1f", 1.0 / 1024},
	}
}

func findAccount(all []account, name string) account {
	for _, a := range all {
		if a.name == name {
			return a
		}
	}
	return account{}
}

// relayed writes a setting: what all did, then how they compare.
func (r *report) relayed(s relayed) {
	r.line("\n%s %s. p50, p99 and p99.9: %.0f requests/s, half of what the slowest way answers, late or not.", s.about, s.tools, s.rate)
	r.line("\n## Medians\n")
	cells := []string{"way"}
	for _, c := range columns() {
		cells = append(cells, c.name)
	}
	r.head(cells...)
	for _, a := range s.all {
		cells := []string{a.name}
		for _, c := range columns() {
			cells = append(cells, s.shown(a, c))
		}
		r.row(cells...)
	}
	r.line("\nThe kernel's part of an idle flow is what a relay adds to %q, which is both ends alone.", s.baseName())
	for _, l := range s.left {
		r.line("\nLeft out: %s.", l)
	}
	for _, of := range []string{nameRelay, nameKernel} {
		r.against(s, of)
	}
}

// shown is the median of a quantity, "-" where it was not measured.
func (s relayed) shown(a account, c column) string {
	values := a.values[c.of]
	if len(values) == 0 {
		return "-"
	}
	middle := median(values)
	if c.of == idleKernel && a.name != s.baseName() {
		middle -= median(findAccount(s.all, s.baseName()).values[idleKernel])
	}
	return fmt.Sprintf(c.format, middle*c.unit)
}

// against writes the ratios of a way to each of the others.
func (r *report) against(s relayed, name string) {
	of := findAccount(s.all, name)
	if of.name == "" {
		return
	}
	r.line("\n## %s to the others\n\nMedian of the turns' ratios, in brackets the quartiles. Targets are for the ratio to %s.\n", of.name, nameHAProxy)
	cells := []string{"what"}
	var others []account
	for _, a := range s.all {
		if a.name != name {
			others = append(others, a)
			cells = append(cells, a.name)
		}
	}
	r.head(append(cells, "target")...)
	for _, c := range columns() {
		if len(of.values[c.of]) == 0 || c.of == changesMade || c.of == idleKernel {
			continue
		}
		cells := []string{strings.SplitN(c.name, ", ms", 2)[0]}
		for _, a := range others {
			cells = append(cells, ratioCell(of.values[c.of], a.values[c.of]))
		}
		r.row(append(cells, targetOf(name, c.of))...)
	}
	if changed := of.values[changedFlows]; len(changed) > 0 {
		r.line("\nConnections/s under changes to connections/s without, of %s itself: %s.", name, spread(changed, of.values[flows]))
	}
}

func ratioCell(of, to []float64) string {
	if len(of) == 0 || len(to) == 0 || median(to) <= 0 {
		return "-"
	}
	return spread(of, to)
}

// targetOf is what the design wants of a ratio to HAProxy.
func targetOf(name string, q quantity) string {
	targets := map[string]map[quantity]string{
		nameRelay: {
			requestCPU: "<= 0.9", flowCPU: "<= 0.95", flows: ">= 1.0", bulk: ">= 1.0", p99: "<= 1.0",
			idleResident: "<= 1 KiB a flow",
		},
		nameKernel: {requests: ">= 1.4", flows: ">= 1.3", bulk: ">= 2.0"},
	}
	return targets[name][q]
}
