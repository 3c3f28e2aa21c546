// Package metrics exposes what the data planes count in the Prometheus text
// format. It keeps no numbers of its own: each scrape takes one Sample and
// turns it into metrics, so that nothing is counted twice and nothing lingers
// when a split goes. What a plane cannot know has no series: unknown is not 0.
//
// Names and help texts stand in names.go alone and are described in
// docs/metrics.md.
package metrics

import (
	"context"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/splitd/splitd/traffic"
)

// Source is where samples come from: the daemon.
type Source interface {
	// Sample returns the state of now. It is called once a scrape, from many
	// goroutines, and the result is not changed afterwards. The context ends
	// with the scrape.
	Sample(ctx context.Context) Sample
}

// Sample is everything that one scrape exposes.
type Sample struct {
	Splits     []Split
	LastReload Reload
	StartedAt  time.Time
	StoreOK    bool
	// KernelDrift is in how many things the kernel differs from what is wanted;
	// nil where it could not be read.
	KernelDrift *int
	// KernelMended is how often the kernel's rules, changed by another program,
	// were put back.
	KernelMended uint64
	// RelayFaults are what went wrong on this host in mode proxy and was no
	// backend's fault, by kind.
	RelayFaults map[string]uint64
	// ChecksLate is how many health checks began late.
	ChecksLate uint64
	// ShadowBudget is nil where no split is shadowed.
	ShadowBudget *Budget
	// Failures is how many readings (of a data plane's counters, say) failed
	// for this sample; what they would have told is nil in it.
	Failures int
}

// Split is the state of one split.
type Split struct {
	// State has the weights in force and their generation.
	State traffic.Split
	// Mode is the plane in use: kernel or proxy.
	Mode traffic.Mode
	// Counts are by backend; one that is missing is unknown.
	Counts map[string]traffic.Counts
	// Refused are connections that were reset without being tried, by reason; nil
	// in kernel mode.
	Refused map[traffic.Refusal]uint64
	// Killed are open flows that were ended on request, by backend.
	Killed map[string]uint64
	// Health is by backend; one that is missing is unknown or not checked.
	Health map[string]Health
	// ObservedPPM is the candidates' share of the new flows since the
	// generation began; nil when there was none, or nobody knows.
	ObservedPPM *int
	// Observed is the share of each backend, in the same unit. It may be left
	// out for a split of one candidate.
	Observed map[string]int
	// Shadow is nil where nothing was shadowed since the daemon began.
	Shadow *Shadow
	// InSync says whether the kernel does what it should; nil in proxy mode.
	InSync *bool
}

// Health is what the health checks say of one backend.
type Health struct {
	Up            bool
	AddressesDown int
}

// Reload is the last load of the configuration, accepted or not. The zero time
// means that there was none.
type Reload struct {
	At time.Time
	OK bool
}

// Build says which splitd this is.
type Build struct {
	Version, Commit, Go string
}

// Handler answers scrapes: splitd's own metrics, and those of its Go runtime
// and process. One that cannot be exposed is left out, and counted in
// splitd_collect_failures_total; it never hides the others.
func Handler(src Source, build Build) http.Handler {
	info := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: nameBuildInfo, Help: helpBuildInfo,
		ConstLabels: prometheus.Labels{"version": build.Version, "commit": build.Commit, "goversion": build.Go},
	})
	info.Set(1)
	failures := prometheus.NewCounter(prometheus.CounterOpts{Name: nameFailures, Help: helpFailures})
	lasting := prometheus.NewRegistry()
	lasting.MustRegister(info, failures, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return &handler{src: src, lasting: lasting, failures: failures, names: newNames()}
}

type handler struct {
	src      Source
	lasting  *prometheus.Registry
	failures prometheus.Counter
	names    names
}

// ServeHTTP gives each scrape a registry of its own, because a collector that
// outlives it could not tell the source when the scrape is given up.
func (h *handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	sample := h.src.Sample(r.Context())
	h.failures.Add(float64(max(sample.Failures, 0)))
	scrape := prometheus.NewRegistry()
	scrape.MustRegister(&collector{names: h.names, sample: sample, failures: h.failures})
	// In this order: failures of the first are counted in the second.
	all := prometheus.Gatherers{scrape, h.lasting}
	promhttp.HandlerFor(all, promhttp.HandlerOpts{
		ErrorHandling: promhttp.ContinueOnError,
		Registry:      h.lasting,
	}).ServeHTTP(w, r)
}
