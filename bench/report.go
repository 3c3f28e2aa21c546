package main

import (
	"fmt"
	"strings"
	"time"
)

// report writes what was measured, in Markdown, the targets beside the figures.
type report struct{ strings.Builder }

func (r *report) line(format string, args ...any) { _, _ = fmt.Fprintf(r, format+"\n", args...) }

// row writes a row of a table.
func (r *report) row(cells ...string) { r.line("| %s |", strings.Join(cells, " | ")) }

func (r *report) head(cells ...string) {
	r.row(cells...)
	r.line("|%s", strings.Repeat("---|", len(cells)))
}

// Names of the ways that others are compared with.
const (
	nameRouted = "routed, conntrack on, no split"
	nameByHand = "nft by hand"
)

func find(all []figures, name string) figures {
	for _, f := range all {
		if f.name == name {
			return f
		}
	}
	return figures{}
}

// ways writes the ways' figures: medians, then ratios to two of them.
func (r *report) ways(all []figures, left []string) {
	r.line("\n## Ways\n\nMedians; in brackets the median of the turns' ratios to %q.\n", nameRouted)
	r.head("way", "requests/s", "new connections/s", "first packet, µs", "Gbit/s", "p99, ms")
	base := find(all, nameRouted)
	for _, f := range all {
		r.row(f.name,
			cell("%.0f", 1, f.requests, base.requests), cell("%.0f", 1, f.flows, base.flows),
			cell("%.1f", 1e6, f.first, base.first), cell("%.1f", 1e-9, f.bits, base.bits), cell("%.2f", 1e3, f.worst, base.worst))
	}
	for _, l := range left {
		r.line("\nLeft out: %s.", l)
	}
	r.line("\n## Against the targets\n\nMedian of the turns' ratios, in brackets the quartiles.\n")
	r.head("way", "against", "requests/s", "new connections/s", "bulk", "target", "first packet")
	for _, f := range all {
		if !strings.HasPrefix(f.name, "splitd") {
			continue
		}
		for _, to := range []struct{ name, target string }{{nameByHand, ">= 0.98 each"}, {nameHAProxy, ">= 1.4, 1.3, 2.0"}} {
			if other := find(all, to.name); other.name != "" {
				r.row(f.name, to.name, spread(f.requests, other.requests), spread(f.flows, other.flows), spread(f.bits, other.bits), to.target, spread(f.first, other.first))
			}
		}
	}
}

func cell(format string, unit float64, of, to []float64) string {
	middle, _, _ := ratio(of, to)
	return fmt.Sprintf(format+" (%.2f)", median(of)*unit, middle)
}

func spread(of, to []float64) string {
	middle, low, high := ratio(of, to)
	return fmt.Sprintf("%.3f (%.2f-%.2f)", middle, low, high)
}

func milliseconds(d time.Duration) string {
	return fmt.Sprintf("%.1f", float64(d)/float64(time.Millisecond))
}

// changes writes how long the kernel plane took.
func (r *report) changes(all []change) {
	r.line("\n## Changes, by the kernel plane itself, ms\n\n" +
		"A set is three transactions: the new version, the trampoline, the old version away.\n")
	r.head("splits", "set: median", "set: 9 of 10", "target", "load", "target", "apply of the same", "differences and counts", "target")
	targets := map[int][3]string{1: {"< 5", "", ""}, 1000: {"< 10", "", ""}, 10_000: {"< 20", "< 10000", "< 1000"}}
	for _, c := range all {
		t := targets[c.splits]
		r.row(fmt.Sprint(c.splits), milliseconds(median(c.set)), milliseconds(quantile(c.set, 0.9)), t[0],
			milliseconds(c.load), t[1], milliseconds(c.again), milliseconds(c.read), t[2])
	}
}

// daemons writes how long an operator waits.
func (r *report) daemons(all []served) {
	r.line("\n## Changes, by splitctl and the daemon, ms\n\nWhole processes; splitctl that asks nobody is the price of starting one.\n")
	r.head("splits", "splitctl alone", "splitctl set: median", "less splitctl alone", "target", "status -o json", "target", "start of splitd")
	targets := map[int][2]string{1: {"< 5", ""}, 1000: {"< 10", ""}, 10_000: {"< 20", "< 1000"}}
	for _, s := range all {
		t := targets[s.splits]
		r.row(fmt.Sprint(s.splits), milliseconds(median(s.bare)), milliseconds(median(s.set)), milliseconds(median(s.set)-median(s.bare)), t[0],
			milliseconds(median(s.status)), t[1], milliseconds(s.start))
	}
}

// losses writes what was lost.
func (r *report) losses(all []loss) {
	r.line("\n## Flows under changes of weights\n\n" +
		"Stray: answered by the router itself, or by a candidate that never had a weight. Slow: after half a second, a packet was lost. Target of splitd: 0, 0, 0.\n")
	r.head("method", "transport", "changes", "flows", "failed", "stray", "slow")
	for _, l := range all {
		r.row(l.method, l.transport+" "+l.family, fmt.Sprint(l.flips), fmt.Sprint(l.tally.answered()+l.tally.failed),
			fmt.Sprint(l.tally.failed), fmt.Sprint(l.stray()), fmt.Sprint(l.tally.slow))
	}
}
