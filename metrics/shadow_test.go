package metrics_test

import (
	"errors"
	"io"
	"math"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"

	"github.com/splitd/splitd/metrics"
	"github.com/splitd/splitd/traffic"
)

// shadowed is what is known of a shadow under which some things went wrong.
func shadowed(split string) *metrics.Shadow {
	latency := metrics.NewLatency(split)
	for range 99 {
		latency.Observe(traffic.RolePrimary, time.Millisecond, 2*time.Millisecond)
		latency.Observe(traffic.RoleCandidate, 30*time.Millisecond, 40*time.Millisecond)
	}
	latency.Observe(traffic.RoleCandidate, time.Minute, time.Minute)
	return &metrics.Shadow{
		Sampled: new(uint64(1200)), Played: new(uint64(1100)), Left: new(uint64(90)),
		Declined: map[string]uint64{"full": 70, "broken": 30, "stopped": 0, "late": 7, "lost": 5}, Open: 12,
		Panics: map[string]uint64{"tee": 0, "driver": 1}, BreakerOpen: true,
		Eligible: 1000, Compared: map[string]uint64{"match": 930, "mismatch": 4, "noise": 6},
		Coverage: map[string]uint64{
			"compared": 940, "skipped": 40, "opaque": 10, "truncated": 0, "dropped": 2, "after_divergence": 6, "candidate_error": 2, "primary_error": 0,
		},
		Unsound: 3, Latency: latency,
	}
}

// seenInto has flows in TLS, too.
func seenInto(s *metrics.Shadow) *metrics.Shadow {
	s.TLS = &metrics.ShadowTLS{
		Seen: 800, Resumed: 300, Passed: map[string]uint64{"HTTP/2": 20, "early data (0-RTT)": 1}, Failed: map[string]uint64{"client": 4, "primary": 0},
		Expires: time.Date(2027, 1, 2, 3, 4, 5, 0, time.UTC),
	}
	return s
}

// families scrapes as a Prometheus does that takes native histograms.
func families(t *testing.T, h http.Handler) map[string]*dto.MetricFamily {
	t.Helper()
	request := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/metrics", http.NoBody)
	format := expfmt.NewFormat(expfmt.TypeProtoDelim)
	request.Header.Set("Accept", string(format))
	recorder := httptest.NewRecorder()
	h.ServeHTTP(recorder, request)
	all := map[string]*dto.MetricFamily{}
	for decoder := expfmt.NewDecoder(recorder.Body, format); ; {
		family := new(dto.MetricFamily)
		if err := decoder.Decode(family); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		all[family.GetName()] = family
	}
}

func TestLatenciesAreClassicAndNativeHistograms(t *testing.T) {
	all := families(t, metrics.Handler(source(sample), build))
	for _, name := range []string{"splitd_shadow_first_byte_seconds", "splitd_shadow_reply_seconds"} {
		family := all[name]
		if family == nil || len(family.GetMetric()) != 2 {
			t.Fatalf("%s: %v, want one of each role", name, family)
		}
		for _, m := range family.GetMetric() {
			h := m.GetHistogram()
			if len(h.GetBucket()) == 0 {
				t.Errorf("%s has no classic bucket: %v", name, m)
			}
			if h.Schema == nil || len(h.GetPositiveSpan()) == 0 {
				t.Errorf("%s has no native bucket: %v", name, m)
			}
		}
	}
	candidate := all["splitd_shadow_reply_seconds"].GetMetric()[0]
	if role := candidate.GetLabel()[0].GetValue(); role != "candidate" {
		t.Fatalf("the first is of %q", role)
	}
	h := candidate.GetHistogram()
	if want := 99*0.04 + 60; h.GetSampleCount() != 100 || math.Abs(h.GetSampleSum()-want) > 1e-9 {
		t.Errorf("%d observations of %v s, want 100 of %v", h.GetSampleCount(), h.GetSampleSum(), want)
	}
}

func TestLatenciesGoOnFromScrapeToScrape(t *testing.T) {
	s := sample()
	h := metrics.Handler(source(func() metrics.Sample { return s }), build)
	const counted = `splitd_shadow_reply_seconds_count{role="primary",split="web"} `
	if _, own := scrape(t, h); !strings.Contains(own, counted+"99\n") {
		t.Errorf("no %s99 in\n%s", counted, own)
	}
	s.Splits[1].Shadow.Latency.Observe(traffic.RolePrimary, 1, 2)
	if _, own := scrape(t, h); !strings.Contains(own, counted+"100\n") {
		t.Errorf("no %s100 in\n%s", counted, own)
	}
}

// A shadow has no label that traffic decides on.
func TestAShadowHasTheSameSeriesWhateverIsSeen(t *testing.T) {
	series := func(of *metrics.Shadow) (n int) {
		_, own := scrape(t, metrics.Handler(source(func() metrics.Sample {
			return metrics.Sample{Splits: []metrics.Split{{State: split("web", 1, 0), Shadow: of}}}
		}), build))
		for line := range strings.Lines(own) {
			if strings.HasPrefix(line, "splitd_shadow_") {
				n++
			}
		}
		return n
	}
	much, little := shadowed("web"), shadowed("web")
	little.Latency = metrics.NewLatency("web")
	for n := range 10_000 {
		much.Latency.Observe(traffic.RoleCandidate, time.Duration(n)*time.Millisecond, time.Duration(n)*time.Second)
		much.Latency.Observe("nobody", 1, 2)
	}
	if a, b := series(much), series(little); a != b || a > 100 {
		t.Errorf("%d series of much, %d of little, want as many and 100 at most", a, b)
	}
}

func TestASplitWithoutCertificatesHasNoSeriesOfTLS(t *testing.T) {
	_, own := scrape(t, metrics.Handler(source(func() metrics.Sample {
		return metrics.Sample{Splits: []metrics.Split{{State: split("web", 1, 0), Shadow: shadowed("web")}, {State: split("mx", 1, 0), Shadow: seenInto(shadowed("mx"))}}}
	}), build))
	for line := range strings.Lines(own) {
		if strings.HasPrefix(line, "splitd_shadow_tls_") && !strings.Contains(line, `split="mx"`) {
			t.Errorf("exposed: %s", line)
		}
	}
}

func TestASplitThatIsNotShadowedHasNoSeriesOfShadows(t *testing.T) {
	_, own := scrape(t, metrics.Handler(source(func() metrics.Sample {
		return metrics.Sample{Splits: []metrics.Split{split1(split("mx", 1, 0))}}
	}), build))
	if strings.Contains(own, "splitd_shadow_") {
		t.Errorf("exposed:\n%s", own)
	}
}
