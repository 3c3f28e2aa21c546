package main

import (
	"context"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/splitd/splitd/internal/programs"
)

// TestMain makes this test binary the processes of a measurement too, as the program is.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && isPart(os.Args[1]) {
		main()
		return
	}
	os.Exit(programs.Run(m))
}

func TestTheRatioOfTwoWaysIsTheMiddleOfTheTurns(t *testing.T) {
	for _, tc := range []struct {
		name   string
		of, to []float64
		want   [3]float64
	}{
		{"a drift of the machine cancels", []float64{10, 20, 40}, []float64{20, 40, 80}, [3]float64{0.5, 0.5, 0.5}},
		{"one bad turn does not count", []float64{9, 1, 10, 11, 10}, []float64{10, 10, 10, 10, 10}, [3]float64{1, 0.9, 1}},
		{"a turn without the other is left out", []float64{9, 5}, []float64{10, 0}, [3]float64{0.9, 0.9, 0.9}},
		{"nothing was measured", nil, nil, [3]float64{}},
	} {
		middle, low, high := ratio(tc.of, tc.to)
		if diff := cmp.Diff(tc.want, [3]float64{middle, low, high}); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tc.name, diff)
		}
	}
}

func TestAReportSetsTheTargetBesideTheFigure(t *testing.T) {
	r := &report{}
	r.ways([]figures{
		{name: nameByHand, requests: []float64{100}, flows: []float64{50}, bits: []float64{1e9}, worst: []float64{0.001}, first: []float64{0.0001}},
		{name: "splitd, 1 splits", requests: []float64{99}, flows: []float64{48}, bits: []float64{1e9}, worst: []float64{0.001}, first: []float64{0.0002}},
	}, []string{`"HAProxy TCP", because haproxy is not installed`})
	r.changes([]change{{splits: 10_000, load: 9 * time.Second, set: times{7 * time.Millisecond}, read: time.Second}})
	for _, want := range []string{
		"| splitd, 1 splits | nft by hand | 0.990 (0.99-0.99) | 0.960 (0.96-0.96) | 1.000 (1.00-1.00) | >= 0.98 each | 2.000 (2.00-2.00) |",
		`Left out: "HAProxy TCP", because haproxy is not installed.`,
		"| 10000 | 7.0 | 7.0 | < 20 | 9000.0 | < 10000 | 0.0 | 1000.0 | < 1000 |",
	} {
		if !strings.Contains(r.String(), want) {
			t.Errorf("the report lacks %q:\n%s", want, r)
		}
	}
}

func TestEveryWayLeadsToBothBackendsAndEveryMeasureCounts(t *testing.T) {
	l, err := newLab()
	if err != nil {
		t.Fatal(err)
	}
	defer l.close()
	add := func(name string, build func(context.Context, *way) error) {
		w, err := l.add(name)
		if err == nil {
			err = build(t.Context(), w)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	add(nameRouted, routed)
	add(nameByHand, handwritten(clampByHand))
	add("splitd", func(ctx context.Context, w *way) error { _, err := splitted(ctx, w, 3); return err })
	if err := l.serve(t.Context()); err != nil {
		t.Fatal(err)
	}
	all, err := l.measure(t.Context(), 2, 20*time.Millisecond, t.Logf)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range all {
		for what, values := range map[string][]float64{"requests": f.requests, "flows": f.flows, "first packets": f.first, "bits": f.bits} {
			if len(values) != 2 || values[0] <= 0 || values[1] <= 0 {
				t.Errorf("%s: %s are %v", f.name, what, values)
			}
		}
	}
	for _, w := range l.ways {
		got := tally{by: map[byte]int{}}
		err := l.client.Do(func() (err error) {
			// Of 64 draws none is for one side once in 2^63.
			for deadline := time.Now().Add(10 * time.Second); got.answered() < 64 && time.Now().Before(deadline) && err == nil; {
				var more tally
				more, err = openFlows(streams, w.ends(portGreet, false), time.Now().Add(time.Millisecond), func() bool { return false })
				got.add(more)
			}
			return err
		})
		if err != nil || got.failed > 0 || got.by[letterOld] == 0 || got.by[letterNew] == 0 || len(got.by) != 2 {
			t.Errorf("%s: answers %v, %d failed, error %v", w.name, got.by, got.failed, err)
		}
	}
}

func TestAStrayFlowIsSeen(t *testing.T) {
	got := loss{tally: tally{by: map[byte]int{letterOld: 3, letterNew: 2, letterLocal: 4, letterIdle: 1}}}
	if got.stray() != 5 || got.tally.answered() != 10 {
		t.Errorf("%d stray of %d", got.stray(), got.tally.answered())
	}
}

func TestFlowsUnderChangesAreCountedOnEveryTransportAndFamily(t *testing.T) {
	all, err := losses(t.Context(), 50*time.Millisecond, t.Logf)
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range all {
		if l.tally.answered() == 0 || l.flips == 0 {
			t.Errorf("%s, %s %s: %d flows, %d changes", l.method, l.transport, l.family, l.tally.answered(), l.flips)
		}
		if l.method == "splitd" && (l.tally.failed > 0 || l.stray() > 0) {
			t.Errorf("%s %s: %d failed, %d stray", l.transport, l.family, l.tally.failed, l.stray())
		}
	}
	if len(all) != 8 {
		t.Errorf("%d kinds, want 8", len(all))
	}
}
