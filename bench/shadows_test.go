package main

import (
	"strings"
	"testing"
	"time"

	"github.com/splitd/splitd/internal/ladder"
)

func TestEveryWayBesideEveryCandidateIsMeasured(t *testing.T) {
	rungs := []ladder.Behaviour{ladder.Healthy, ladder.Dead, ladder.Differing}
	got, err := shadowsOf(t.Context(), shadowOptions{turns: 1, slice: 100 * time.Millisecond, rungs: rungs}, t.Logf)
	if err != nil {
		t.Fatal(err)
	}
	if got.yields != "SCHED_IDLE" {
		t.Errorf("candidates yield by %q", got.yields)
	}
	if len(got.ways)+len(got.left) != len(shadowWays()) || len(got.ways) < 3 {
		t.Errorf("%d ways are measured, left out: %q", len(got.ways), got.left)
	}
	for _, b := range rungs {
		for _, w := range got.ways {
			one := got.of[b][w.name]
			if one == nil || len(one.full) != 1 || len(one.p50) != 1 || len(one.p99) != 1 || one.full[0] <= 0 || one.p50[0] <= 0 || one.paced == 0 {
				t.Fatalf("%s beside a candidate that is %s: %+v", w.name, b, one)
			}
			if (one.before > 0) != (w.start != nil) || one.most < one.before {
				t.Errorf("%s beside a candidate that is %s: %d bytes, then %d", w.name, b, one.before, one.most)
			}
			if one.failed > 0 && w.name != nameMirror {
				t.Errorf("%s beside a candidate that is %s: %s requests failed", w.name, b, one.failedText())
			}
		}
	}
}

func TestTheReportSetsTheShadowBesideTheSameProgramWithout(t *testing.T) {
	r := &report{}
	s := &shadows{
		rungs: []ladder.Behaviour{ladder.Hanging, ladder.Dead}, ways: shadowWays(), left: []string{`"nginx, mirror", because nginx is not installed`},
		rates: map[paced]float64{{nameShadowOff, ladder.Small}: 15_000, {nameShadowOff, ladder.Large}: 3000}, yields: "SCHED_IDLE",
		of: map[ladder.Behaviour]map[string]*shadowed{
			ladder.Hanging: {
				nameNoProxy:   {full: []float64{90_000}, p50: []float64{0.0001}, p99: []float64{0.001}, paced: 10},
				nameShadowOff: {full: []float64{30_000, 40_000}, p50: []float64{0.0002, 0.0004}, p99: []float64{0.001, 0.002}, paced: 20, before: 15 << 20, most: 16 << 20},
				nameShadowOn:  {full: []float64{27_000, 36_000}, p50: []float64{0.0003, 0.0005}, p99: []float64{0.002, 0.0025}, paced: 20, before: 15 << 20, most: 30 << 20},
				nameNginxHTTP: {full: []float64{20_000}, p50: []float64{0.001}, p99: []float64{0.002}, paced: 20, before: 8 << 20, most: 9 << 20},
				nameMirror:    {full: []float64{20}, p50: []float64{1}, p99: []float64{2}, paced: 20, failed: 19, before: 8 << 20, most: 9 << 20},
			},
		},
	}
	r.shadows(s)
	for _, want := range []string{
		`late or not: 15000 requests/s of "splitd, shadow off", 3000 requests/s of "splitd, shadow off" beside "differing".`,
		"a process of its own that yields the processors (SCHED_IDLE)",
		"| hanging | no proxy | 90000 | 0.100 | 1.00 | 0 | - |",
		"| hanging | splitd, shadow on | 36000 | 0.500 | 2.50 | 0 | 15.0, 30.0 |",
		"| hanging | nginx, mirror | 20 | 1000.000 | 2000.00 | 19 of 20 | 8.0, 9.0 |",
		"| hanging | splitd, shadow on | 0.900 (0.90-0.90) | +0.10 ms (+0.10 to +0.10) | +0.75 ms (+0.50 to +1.00) | 0 | yes |",
		"| hanging | nginx, mirror | 0.001 (0.00-0.00) | +999.00 ms (+999.00 to +999.00) | +1998.00 ms (+1998.00 to +1998.00) | 19 of 20 | no |",
		"certainly is (95 % each, Wilcoxon's signed ranks)",
		`Left out: "nginx, mirror", because nginx is not installed.`,
	} {
		if !strings.Contains(r.String(), want) {
			t.Errorf("the report lacks %q:\n%s", want, r)
		}
	}
	if strings.Contains(r.String(), "| dead |") {
		t.Errorf("the report has a candidate that was not measured:\n%s", r)
	}
}
