package main

import (
	"io"
	"slices"
	"strings"
	"testing"
	"time"
)

// Which programs take part is up to the machine: splitd and a way without a proxy always do.
func TestEveryMeasureOfEveryWayOverTLSCounts(t *testing.T) {
	got, err := securedOf(t.Context(), secureOptions{turns: 1, idleTurns: 1, idle: 40, slice: 100 * time.Millisecond}, t.Logf)
	if err != nil {
		t.Fatal(err)
	}
	if len(got.all)+len(got.left) != len(secureWays()) || findAccount(got.all, nameSplitdInto).name == "" {
		t.Errorf("%d ways are measured, left out: %q", len(got.all), got.left)
	}
	ofProgram := []quantity{fullCPU, resumedCPU, secureRequestCPU, secureBulkCPU, secureIdle, fullBeside, resumedBeside, secureRequestBeside, secureBulkBeside, secureIdleBeside}
	maybeNone := []quantity{secureIdle, fullBeside, resumedBeside, secureRequestBeside, secureBulkBeside, secureIdleBeside}
	for i, a := range got.all {
		for _, c := range secureColumns() {
			if c.of == seenInto {
				continue
			}
			switch values := a.values[c.of]; {
			case a.name == nameSecureNone && slices.Contains(ofProgram, c.of):
				if len(values) != 0 {
					t.Errorf("%s: %s is %v, want none", a.name, c.name, values)
				}
			case len(values) != 1, values[0] <= 0 && !slices.Contains(maybeNone, c.of):
				t.Errorf("%s: %s is %v", a.name, c.name, values)
			}
		}
		if into := slices.Max(a.values[seenInto]); (into > 0) != got.ways[i].into {
			t.Errorf("%s: %v of the flows are seen into", a.name, a.values[seenInto])
		}
		if resumed := a.values[sessionsResumed][0]; resumed < 0.9 {
			t.Errorf("%s: %v of the sessions are resumed", a.name, resumed)
		}
	}
}

func TestTheReportSetsWaysOverTLSBesideEachOther(t *testing.T) {
	of := func(name string, values map[quantity][]float64) account { return account{name, values} }
	r := &report{}
	r.secured(&secured{
		left: []string{`"HAProxy, passed through", because haproxy is not installed`},
		all: []account{
			of(nameSecureNone, map[quantity][]float64{fullRate: {3000}, clientCPU: {250e-6}}),
			of(nameHAProxyInto, map[quantity][]float64{fullRate: {1000, 1000}, fullCPU: {400e-6}, fullBeside: {0}}),
			of(nameSplitdWithout, map[quantity][]float64{fullRate: {2000}}),
			of(nameSplitdBytes, map[quantity][]float64{fullRate: {2000}}),
			of(nameSplitdInto, map[quantity][]float64{fullRate: {800, 900}, fullCPU: {500e-6}, fullBeside: {300e-6}, seenInto: {1}}),
		},
	})
	for _, want := range []string{
		"costs the client itself 250 µs CPU",
		"| splitd, terminated for the shadow | 900 | 500 | 300 | - |",
		"| - | - | 100 | - |\n",
		"| handshakes/s | 0.900 (0.80-0.90) | - | 1.000 (1.00-1.00) | - |",
		"| µs CPU a handshake | 1.250 (1.25-1.25) | - | - | - |",
		`Left out: "HAProxy, passed through", because haproxy is not installed.`,
	} {
		if !strings.Contains(r.String(), want) {
			t.Errorf("the report lacks %q:\n%s", want, r)
		}
	}
	if strings.Contains(r.String(), "| of its shadow | 0") {
		t.Errorf("the shadow of one program is compared with that of another:\n%s", r)
	}
}

func TestClientsOverTLSSayWhatTheyLack(t *testing.T) {
	for _, words := range [][]string{{}, {doFull, "127.0.0.1:1", "1s", "1", "/nonexistent/roots", "/nonexistent/cert"}, {doFull, "127.0.0.1:1", "soon", "1", "", ""}} {
		if err := serveSecureClients(words, strings.NewReader(""), io.Discard); err == nil {
			t.Errorf("%q are taken", words)
		}
	}
}
