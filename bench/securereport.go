package main

import (
	"fmt"
	"slices"
)

// secureColumns are those of ways over TLS.
func secureColumns() []column {
	return []column{
		{"handshakes/s", fullRate, "%.0f", 1},
		{"µs CPU a handshake", fullCPU, "%.0f", 1e6},
		{"of its shadow", fullBeside, "%.0f", 1e6},
		{"resumed/s", resumedRate, "%.0f", 1},
		{"µs CPU a resumed", resumedCPU, "%.0f", 1e6},
		{"of its shadow", resumedBeside, "%.0f", 1e6},
		{"requests/s", secureRequests, "%.0f", 1},
		{"µs CPU a request", secureRequestCPU, "%.1f", 1e6},
		{"of its shadow", secureRequestBeside, "%.1f", 1e6},
		{"Gbit/s, 1 stream", secureBulk, "%.2f", 1e-9},
		{"ms CPU a GB", secureBulkCPU, "%.0f", 1e12},
		{"of its shadow", secureBulkBeside, "%.0f", 1e12},
		{"idle flow, KiB", secureIdle, "%.1f", 1.0 / 1024},
		{"of its shadow", secureIdleBeside, "%.1f", 1.0 / 1024},
		{"% seen into, at least", seenInto, "%.0f", 100},
		{"% resumed", sessionsResumed, "%.0f", 100},
	}
}

// secured writes what ways over TLS did, and how they compare.
func (r *report) secured(s *secured) {
	r.line("\nClient, proxy, backend and candidate on one host: they share its processors, so figures a second are of all together, and CPU is the proxy's. TLS 1.3, X25519, ECDSA P-256; "+
		"a handshake is a connection with one request, %d at a time; a handshake costs the client itself %s µs CPU. The candidate of the shadow is healthy, speaks TLS, and yields the processors.",
		atOnce, s.clientText())
	r.line("\n## Medians\n")
	cells := []string{"way"}
	for _, c := range secureColumns() {
		cells = append(cells, c.name)
	}
	r.head(cells...)
	for _, a := range s.all {
		cells := []string{a.name}
		for _, c := range secureColumns() {
			cell := "-"
			if values := a.values[c.of]; len(values) > 0 {
				of := median(values)
				if c.of == seenInto {
					of = slices.Min(values)
				}
				cell = fmt.Sprintf(c.format, of*c.unit)
			}
			cells = append(cells, cell)
		}
		r.row(cells...)
	}
	for _, l := range s.left {
		r.line("\nLeft out: %s.", l)
	}
	r.line("\n## To each other\n\nMedian of the turns' ratios, in brackets the quartiles. A flow that is not sampled costs what it does without `shadow.tls`: those ratios have to be 1.\n")
	cells = []string{"what"}
	pairs := [][2]string{{nameSplitdInto, nameHAProxyInto}, {nameSplitdInto, nameHAProxyAnew}, {nameSplitdBytes, nameSplitdWithout}, {nameSplitdBytes, nameHAProxyBytes}}
	for _, p := range pairs {
		cells = append(cells, fmt.Sprintf("%s : %s", p[0], p[1]))
	}
	r.head(cells...)
	for _, c := range secureColumns() {
		if c.name == "of its shadow" || c.of == seenInto || c.of == sessionsResumed {
			continue
		}
		cells := []string{c.name}
		for _, p := range pairs {
			cells = append(cells, ratioCell(findAccount(s.all, p[0]).values[c.of], findAccount(s.all, p[1]).values[c.of]))
		}
		r.row(cells...)
	}
}

// clientText is what a handshake costs clients.
func (s *secured) clientText() string {
	values := findAccount(s.all, nameSecureNone).values[clientCPU]
	if len(values) == 0 {
		return "unknown"
	}
	return fmt.Sprintf("%.0f", median(values)*1e6)
}
