package metrics_test

import (
	"context"
	"flag"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"

	"github.com/splitd/splitd/metrics"
	"github.com/splitd/splitd/traffic"
)

var update = flag.Bool("update", false, "write the golden files anew")

var build = metrics.Build{Version: "v0.1.0", Commit: "abc1234", Go: "go1.26.8"}

type source func() metrics.Sample

func (s source) Sample(context.Context) metrics.Sample { return s() }

// sample has one split of each plane, and one that nobody knows about yet.
func sample() metrics.Sample {
	return metrics.Sample{
		StartedAt:  time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC),
		LastReload: metrics.Reload{At: time.Date(2026, 11, 20, 12, 0, 1, 500_000_000, time.UTC), OK: true},
		StoreOK:    true, KernelMended: 2, KernelDrift: new(3), ChecksLate: 3,
		ShadowBudget: &metrics.Budget{Used: 1 << 20, Most: 64 << 20},
		RelayFaults:  map[string]uint64{"accept": 4, "connect": 0, "splice": 9},
		Splits: []metrics.Split{
			{
				State: split("mx", 15, 50_000), Mode: traffic.ModeKernel, ObservedPPM: new(49_876), InSync: new(true),
				Counts: map[string]traffic.Counts{
					"old":  {Flows: 391_764, Active: new(uint64(110)), BytesIn: new(uint64(1 << 33)), BytesOut: new(uint64(1 << 32))},
					"new1": {Flows: 20_566, Active: new(uint64(0)), BytesIn: new(uint64(0)), BytesOut: new(uint64(7)), HalfOpen: new(uint64(0)), Unanswered: new(uint64(3)), Refused: new(uint64(2)), Resets: new(uint64(1))},
				},
				Health: map[string]metrics.Health{"old": {Up: true}, "new1": {AddressesDown: 2}},
			},
			{
				State: split("web", 3, 1, 333_333), Mode: traffic.ModeProxy, ObservedPPM: new(500_000),
				Observed: map[string]int{"old": 500_000, "new1": 100_000, "new2": 400_000},
				Counts: map[string]traffic.Counts{
					"old":  {Flows: 5, Active: new(uint64(1)), BytesIn: new(uint64(10)), BytesOut: new(uint64(20)), ConnectFailed: new(uint64(0))},
					"new1": {Flows: 1, ConnectFailed: new(uint64(4)), Avoided: new(uint64(6))},
					"new2": {Flows: 4},
				},
				Killed:  map[string]uint64{"new1": 12, "new2": 0},
				Refused: map[traffic.Refusal]uint64{traffic.RefusedMaxFlows: 8, traffic.RefusedNoFiles: 2},
				Shadow:  seenInto(shadowed("web")),
			},
			{State: split("dns", 1, 0), Mode: traffic.ModeKernel, InSync: new(false)},
		},
	}
}

func split(name string, generation traffic.Generation, weights ...traffic.Weight) traffic.Split {
	s := traffic.Split{Name: name, Generation: generation, Primary: traffic.Backend{Name: "old", Local: true}}
	for i, w := range weights {
		s.Candidates = append(s.Candidates, traffic.Backend{Name: "new" + string(rune('1'+i)), Weight: w})
	}
	return s
}

// scrape returns the answer, and its lines about splitd alone.
func scrape(t *testing.T, h http.Handler) (all, own string) {
	t.Helper()
	recorder := httptest.NewRecorder()
	h.ServeHTTP(recorder, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/metrics", http.NoBody))
	if recorder.Code != http.StatusOK {
		t.Fatalf("scrape = %d: %s", recorder.Code, recorder.Body)
	}
	all = recorder.Body.String()
	var b strings.Builder
	for line := range strings.Lines(all) {
		if strings.HasPrefix(strings.TrimPrefix(strings.TrimPrefix(line, "# HELP "), "# TYPE "), "splitd_") {
			b.WriteString(line)
		}
	}
	return all, b.String()
}

func TestExpositionIsAsTheGoldenFileSays(t *testing.T) {
	_, got := scrape(t, metrics.Handler(source(sample), build))
	golden := filepath.Join("testdata", "metrics.txt")
	if *update {
		if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if diff := cmp.Diff(string(want), got); diff != "" || err != nil {
		t.Errorf("exposition (-want +got): %v\n%s", err, diff)
	}
}

func TestNamesFollowThePrometheusConventions(t *testing.T) {
	_, own := scrape(t, metrics.Handler(source(sample), build))
	problems, err := promlint.New(strings.NewReader(own)).Lint()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
}

func TestTheGoRuntimeAndTheProcessAreExposedToo(t *testing.T) {
	all, _ := scrape(t, metrics.Handler(source(sample), build))
	for _, name := range []string{"go_goroutines", "process_resident_memory_bytes", "process_open_fds"} {
		if !strings.Contains(all, "\n"+name+" ") {
			t.Errorf("no %s", name)
		}
	}
}

func TestWhatNobodyKnowsHasNoSeries(t *testing.T) {
	_, own := scrape(t, metrics.Handler(source(func() metrics.Sample {
		return metrics.Sample{Splits: []metrics.Split{{
			State: split("mx", 1, 0), Mode: traffic.ModeKernel,
			Counts: map[string]traffic.Counts{"new1": {Flows: 0}},
		}}}
	}), build))
	for _, line := range []string{
		"splitd_flows_total{backend=\"old\"", "splitd_flows_active", "splitd_bytes_total", "splitd_connect_failures_total",
		"splitd_observed_ratio", "splitd_candidates_observed_ratio", "splitd_kernel_in_sync", "splitd_config_last_reload",
	} {
		if strings.Contains(own, line) {
			t.Errorf("%s is exposed:\n%s", line, own)
		}
	}
	if want := `splitd_flows_total{backend="new1",role="candidate",split="mx"} 0`; !strings.Contains(own, want) {
		t.Errorf("a known 0 is missing: %s\n%s", want, own)
	}
}

func TestASplitThatGoesTakesItsSeriesAlong(t *testing.T) {
	splits := sample().Splits
	h := metrics.Handler(source(func() metrics.Sample { return metrics.Sample{Splits: splits} }), build)
	if _, own := scrape(t, h); !strings.Contains(own, `split="web"`) {
		t.Error("web is not exposed")
	}
	splits = splits[:1]
	if _, own := scrape(t, h); strings.Contains(own, `split="web"`) || !strings.Contains(own, `split="mx"`) {
		t.Errorf("after the removal:\n%s", own)
	}
}

func TestWhatCannotBeExposedIsCountedAndHidesNothing(t *testing.T) {
	bad := sample()
	bad.Failures = 2
	bad.Splits = append(bad.Splits,
		split1(split("mx", 99, 0)),  // a second one of that name: 1
		split1(split("bad\xff", 1))) // no UTF-8: info, generation, one weight: 3
	bad.Splits[1].State.Candidates[1].Name = "old" // a second backend of that name: 1
	h := metrics.Handler(source(func() metrics.Sample { return bad }), build)
	_, own := scrape(t, h)
	for _, want := range []string{
		"splitd_collect_failures_total 7\n",
		`splitd_generation{split="mx"} 15` + "\n",
		`splitd_generation{split="dns"} 1` + "\n",
	} {
		if !strings.Contains(own, want) {
			t.Errorf("no %q in\n%s", want, own)
		}
	}
	if _, own = scrape(t, h); !strings.Contains(own, "splitd_collect_failures_total 14\n") {
		t.Errorf("failures do not add up:\n%s", own)
	}
}

func split1(state traffic.Split) metrics.Split {
	return metrics.Split{State: state, Mode: traffic.ModeKernel}
}

func TestManyMayScrapeAtOnce(t *testing.T) {
	h := metrics.Handler(source(sample), build)
	var group sync.WaitGroup
	for range 8 {
		group.Go(func() {
			recorder := httptest.NewRecorder()
			h.ServeHTTP(recorder, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/metrics", http.NoBody))
			if recorder.Code != http.StatusOK {
				t.Errorf("scrape = %d: %s", recorder.Code, recorder.Body)
			}
		})
	}
	group.Wait()
}

func TestTheSampleIsGivenUpWithTheScrape(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	var got context.Context
	h := metrics.Handler(contextSource(func(ctx context.Context) metrics.Sample { got = ctx; return metrics.Sample{} }), build)
	h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequestWithContext(ctx, http.MethodGet, "/metrics", http.NoBody))
	cancel()
	if got.Err() == nil {
		t.Error("the source's context outlives the scrape's")
	}
}

type contextSource func(context.Context) metrics.Sample

func (s contextSource) Sample(ctx context.Context) metrics.Sample { return s(ctx) }

// Every metric is described, and nothing is described that does not exist.
func TestTheManualNamesEveryMetric(t *testing.T) {
	manual, err := os.ReadFile(filepath.Join("..", "docs", "metrics.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, own := scrape(t, metrics.Handler(source(sample), build))
	var exposed, described []string
	for _, m := range regexp.MustCompile(`(?m)^# HELP (splitd_\w+)`).FindAllStringSubmatch(own, -1) {
		exposed = append(exposed, m[1])
	}
	for _, m := range regexp.MustCompile("(?m)^\\| `(splitd_\\w+)` ").FindAllStringSubmatch(string(manual), -1) {
		described = append(described, m[1])
	}
	slices.Sort(exposed)
	slices.Sort(described)
	if diff := cmp.Diff(exposed, described); diff != "" {
		t.Errorf("docs/metrics.md (-exposed +described):\n%s", diff)
	}
	for _, m := range regexp.MustCompile(`splitd_\w+`).FindAllString(string(manual), -1) {
		series := strings.Contains(own, "\n"+m+"{") // of a histogram
		if !slices.Contains(exposed, m) && !series {
			t.Errorf("docs/metrics.md speaks of %s, which does not exist", m)
		}
	}
}
