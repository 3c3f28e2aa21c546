package main

import (
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/splitd/splitd/internal/nettest"
)

// everyQuantity is what a way with a program has a value of in every turn.
func everyQuantity() []quantity {
	var all []quantity
	for _, c := range columns() {
		all = append(all, c.of)
	}
	return all
}

// Which programs take part is up to the machine: splitd and a way without a
// relay always do, and HAProxy, nginx, wrk and iperf3 where they are installed.
func TestEveryMeasureOfEveryWayCounts(t *testing.T) {
	for _, s := range []setting{throughLoopback(), throughNamespaces()} {
		t.Run(s.heading, func(t *testing.T) {
			o := relayOptions{turns: 1, idleTurns: 1, idle: 300, streams: 3, slice: 50 * time.Millisecond}
			got, err := measureSetting(t.Context(), s, o, t.Logf)
			if err != nil {
				t.Fatal(err)
			}
			if len(got.all)+len(got.left) != len(s.ways) || findAccount(got.all, nameRelay).name == "" {
				t.Errorf("%d ways are measured, left out: %q", len(got.all), got.left)
			}
			for _, a := range got.all {
				for _, q := range everyQuantity() {
					switch values := a.values[q]; {
					case a.name == s.baseName() && (q == requestCPU || q == flowCPU || q == bulkCPU || q == manyBulkCPU || q == idleResident),
						(a.name == s.baseName() || a.name == nameNginx) && (q == changedFlows || q == changesMade):
						if len(values) != 0 {
							t.Errorf("%s: quantity %d is %v, want none", a.name, q, values)
						}
					case len(values) != 1:
						t.Errorf("%s: quantity %d has %d values, want 1", a.name, q, len(values))
					case values[0] <= 0 && q != idleResident && q != idleKernel && a.name != nameKernel: // which has no flow in a process
						t.Errorf("%s: quantity %d is %v", a.name, q, values)
					}
				}
			}
		})
	}
}

func TestAnOrdinaryUsersRelaysAreMeasuredOrTheReportSaysWhyNot(t *testing.T) {
	r := &report{}
	o := options{relay: relayOptions{turns: 1, idleTurns: 1, idle: 100, streams: 2, slice: 50 * time.Millisecond}}
	if err := measureRelays(asOrdinaryUser())(t.Context(), o, r, t.Logf); err != nil {
		t.Fatal(err)
	}
	want := "| " + nameRelay + " | "
	if os.Getuid() != 0 || !initialUsers() {
		want = "Left out: run as root"
	}
	if !strings.Contains(r.String(), want) {
		t.Errorf("the report lacks %q:\n%s", want, r)
	}
}

func TestTheTimeOfAProcessHasThatOfItsChildrenInIt(t *testing.T) {
	w := &way{router: nettest.New(t, "router").NS}
	p, err := w.start(t.Context(), user{}, "sh", "-c", "while :; do :; done & wait")
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		for _, pid := range p.family()[1:] {
			if child, err := os.FindProcess(pid); err == nil {
				_ = child.Kill()
			}
		}
		p.stop()
	}()
	nettest.Eventually(t, "time of the child", func() bool {
		spent, err := p.cpu()
		return err == nil && len(p.family()) == 2 && spent > 50*time.Millisecond
	})
	if bytes, err := p.resident(); err != nil || bytes <= 0 {
		t.Errorf("%v bytes are resident: %v", bytes, err)
	}
}

func TestTheReportSetsRelaysBesideEachOtherAndTheTargets(t *testing.T) {
	of := func(name string, values map[quantity][]float64) account { return account{name, values} }
	r := &report{}
	r.relayed(relayed{
		setting: throughLoopback(), rate: 1000, tools: "requests by wrk",
		left: []string{`"nginx stream", because nginx is not installed`},
		all: []account{
			of(nameStraight, map[quantity][]float64{requests: {90_000, 110_000}, idleKernel: {7 * 1024}}),
			of(nameHAProxy, map[quantity][]float64{requests: {50_000, 60_000}, requestCPU: {10e-6, 12e-6}, idleKernel: {13 * 1024}, idleResident: {3 * 1024}}),
			of(nameRelay, map[quantity][]float64{
				requests: {60_000, 60_000}, requestCPU: {8e-6, 9e-6}, idleKernel: {12.5 * 1024}, idleResident: {256},
				flows: {10_000, 10_000}, changedFlows: {9_000, 8_000}, changesMade: {100, 98},
			}),
		},
	})
	for _, want := range []string{
		"| no relay | 110000 | - | - |",
		"| HAProxy TCP | 60000 | 12.00 | - |",
		"| 0.25 | 5.5 |\n",
		`Left out: "nginx stream", because nginx is not installed.`,
		"| what | no relay | HAProxy TCP | target |",
		"| µs CPU a request | - | 0.800 (0.75-0.80) | <= 0.9 |",
		"| idle flow, KiB of the program | - | 0.083 (0.08-0.08) | <= 1 KiB a flow |",
		"of splitd, mode proxy itself: 0.900 (0.80-0.90).",
	} {
		if !strings.Contains(r.String(), want) {
			t.Errorf("the report lacks %q:\n%s", want, r)
		}
	}
}

func TestPartsThatWereNotMeasuredStayInTheFile(t *testing.T) {
	headings := []string{"Kernel", "Loopback", "Three"}
	const before = "Old words.\n\n# Kernel\n\nold kernel\n\n## Of it\n\nx\n\n# Gone\n\ny\n\n# Three\n\nold three\n"
	for _, tc := range []struct {
		name, text string
		parts      map[string]string
		want       string
	}{
		{
			"one of three", before,
			map[string]string{"Loopback": "new loopback\n", "Three": "new three\n"},
			"New words.\n\n# Kernel\n\nold kernel\n\n## Of it\n\nx\n\n# Loopback\n\nnew loopback\n\n# Three\n\nnew three\n",
		},
		{"no file yet", "", map[string]string{"Kernel": "k"}, "New words.\n\n# Kernel\n\nk\n"},
		{"a file that begins with a part", "# Three\n\nt", nil, "New words.\n\n# Three\n\nt\n"},
	} {
		if diff := cmp.Diff(tc.want, merge(tc.text, "New words.", headings, tc.parts)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tc.name, diff)
		}
	}
}

func TestPartsAreChosenByName(t *testing.T) {
	chosen, err := choose("user,kernel")
	if err != nil || len(chosen) != 2 || chosen[0].name != "user" || chosen[1].name != "kernel" {
		t.Errorf("chosen %v, %v", chosen, err)
	}
	if _, err := choose("kernel,relay"); err == nil || !strings.Contains(err.Error(), `"relay": there are kernel, loopback, user, namespaces, shadow, tls`) {
		t.Errorf("an unknown part: %v", err)
	}
}
