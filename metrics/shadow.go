package metrics

import (
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/splitd/splitd/traffic"
)

// Shadow is what is known of the shadow of one split. What is counted of flows
// begins with the process, what is counted of exchanges with the report, which
// lasts until it is reset.
type Shadow struct {
	// Sampled are the flows that the sample was drawn for, Played those of them that
	// had a shadow, Left those whose shadow was over before they were. Nil is
	// unknown.
	Sampled, Played, Left *uint64
	// Declined are flows that were sampled and not played, by reason: full | broken |
	// stopped | late | lost, which also counts those that were lost while they were, |
	// fault.
	Declined map[string]uint64
	// Open is how many shadows run.
	Open int64
	// Panics are shadows that a fault of ours has ended, by kind: tee | driver.
	Panics map[string]uint64
	// BreakerOpen says that the candidate is left alone for a while.
	BreakerOpen bool
	// Eligible are all exchanges that were seen, Coverage says what became of them:
	// its parts add up to them. Unsound is how often sums of the report were wrong.
	Eligible uint64
	Coverage map[string]uint64
	Unsound  uint64
	// Compared are the compared exchanges by what was found: match | mismatch | noise.
	Compared map[string]uint64
	// Latency is nil where nothing is timed.
	Latency *Latency
	// TLS is nil where encrypted flows are not seen into.
	TLS *ShadowTLS
}

// ShadowTLS is what is known of a split's sampled flows that are encrypted, and seen into.
type ShadowTLS struct {
	// Seen are the handshakes with clients that splitd has made in the service's place,
	// Resumed those of them that went on with an earlier session.
	Seen, Resumed uint64
	// Passed are flows that were passed on unseen, by reason.
	Passed map[string]uint64
	// Failed are handshakes that failed in the flows themselves, by with whom: client |
	// primary.
	Failed map[string]uint64
	// Expires is when the first of the certificates that are served does.
	Expires time.Time
}

// Budget is the memory that all shadows together hold and may hold, in bytes.
type Budget struct{ Used, Most int64 }

// Latency is how long the servers of a split take for exchanges, as histograms that
// are classic and native at once. It lasts for as long as its split is shadowed,
// and may be used from many goroutines.
type Latency struct {
	first, whole *prometheus.HistogramVec
	of           map[traffic.Role][2]prometheus.Observer
}

// NewLatency makes the histograms of the split of that name.
func NewLatency(split string) *Latency {
	split = strings.ToValidUTF8(split, "\uFFFD") // else there is no such label
	l := &Latency{
		first: prometheus.NewHistogramVec(latencyOpts(nameFirstByte, helpFirstByte), []string{labelSplit, labelRole}),
		whole: prometheus.NewHistogramVec(latencyOpts(nameReply, helpReply), []string{labelSplit, labelRole}),
		of:    make(map[traffic.Role][2]prometheus.Observer),
	}
	for _, role := range []traffic.Role{traffic.RolePrimary, traffic.RoleCandidate} {
		l.of[role] = [2]prometheus.Observer{l.first.WithLabelValues(split, string(role)), l.whole.WithLabelValues(split, string(role))}
	}
	return l
}

// Observe takes how long one reply of a server took, until its first byte and until
// its last.
func (l *Latency) Observe(role traffic.Role, first, whole time.Duration) {
	of, ok := l.of[role]
	if !ok {
		return
	}
	of[0].Observe(first.Seconds())
	of[1].Observe(whole.Seconds())
}

// latencyOpts are of a histogram from half a millisecond to ten seconds, and of a
// native one whose buckets grow by a tenth.
func latencyOpts(name, help string) prometheus.HistogramOpts {
	return prometheus.HistogramOpts{
		Name: name, Help: help,
		Buckets:                         []float64{0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10},
		NativeHistogramBucketFactor:     1.1,
		NativeHistogramMaxBucketNumber:  160,
		NativeHistogramMinResetDuration: time.Hour,
	}
}

// shadow sends what is known of a split's shadow.
func (c *collector) shadow(ch chan<- prometheus.Metric, split string, s Shadow) {
	n := c.names.shadows
	c.known(ch, n.sampled, s.Sampled, split)
	c.known(ch, n.played, s.Played, split)
	c.known(ch, n.left, s.Left, split)
	c.each(ch, n.declined, s.Declined, split)
	c.send(ch, n.open, float64(s.Open), split)
	c.each(ch, n.panics, s.Panics, split)
	c.send(ch, n.breaker, one(s.BreakerOpen), split)
	c.send(ch, n.eligible, float64(s.Eligible), split)
	c.each(ch, n.coverage, s.Coverage, split)
	c.send(ch, n.unsound, float64(s.Unsound), split)
	c.each(ch, n.compared, s.Compared, split)
	if s.Latency != nil {
		s.Latency.first.Collect(ch)
		s.Latency.whole.Collect(ch)
	}
	if s.TLS != nil {
		c.shadowTLS(ch, split, *s.TLS)
	}
}

// shadowTLS sends what is known of a split's flows in TLS.
func (c *collector) shadowTLS(ch chan<- prometheus.Metric, split string, s ShadowTLS) {
	n := c.names.shadows
	c.send(ch, n.tlsSeen, float64(s.Seen), split)
	c.send(ch, n.tlsResumed, float64(s.Resumed), split)
	c.each(ch, n.tlsPassed, s.Passed, split)
	c.each(ch, n.tlsFailed, s.Failed, split)
	if !s.Expires.IsZero() {
		c.send(ch, n.tlsExpires, float64(s.Expires.Unix()), split)
	}
}

// each sends counts by the word that is their last label.
func (c *collector) each(ch chan<- prometheus.Metric, n name, counts map[string]uint64, split string) {
	for _, word := range slices.Sorted(maps.Keys(counts)) {
		c.send(ch, n, float64(counts[word]), split, word)
	}
}

// shadowNames are the metrics of shadows.
type shadowNames struct {
	sample, budget, budgetUsed                     name
	sampled, played, left, declined, open, panics  name
	breaker, eligible, coverage, unsound, compared name
	firstByte, reply                               name
	tlsSeen, tlsResumed, tlsPassed                 name
	tlsFailed, tlsExpires                          name
}

const (
	nameFirstByte = "splitd_shadow_first_byte_seconds"
	helpFirstByte = "Time from when a request was with the server until the first byte of its reply, of exchanges that were compared."
	nameReply     = "splitd_shadow_reply_seconds"
	helpReply     = "Time from when a request was with the server until its reply was whole, of exchanges that were compared."
)

func newShadowNames() shadowNames {
	return shadowNames{
		sample: gauge("splitd_shadow_sample_ratio",
			"Share of the primary's flows that is shadowed, 0 to 1.", labelSplit),
		budget: gauge("splitd_shadow_budget_bytes",
			"Memory that all shadows together may hold."),
		budgetUsed: gauge("splitd_shadow_budget_used_bytes",
			"Memory that all shadows together hold now."),
		sampled: counter("splitd_shadow_flows_sampled_total",
			"Flows that the sample was drawn for.", labelSplit),
		played: counter("splitd_shadow_flows_played_total",
			"Sampled flows that were played to the candidate.", labelSplit),
		left: counter("splitd_shadow_flows_left_total",
			"Played flows whose shadow was over before they were.", labelSplit),
		declined: counter("splitd_shadow_flows_declined_total",
			"Sampled flows that were not played, or were lost while they were, by reason.", labelSplit, labelReason),
		open: gauge("splitd_shadow_flows_open",
			"Shadows that run now.", labelSplit),
		panics: counter("splitd_shadow_panics_total",
			"Shadows that a fault of splitd has ended, by kind.", labelSplit, labelKind),
		breaker: gauge("splitd_shadow_breaker_open",
			"Whether the candidate is left alone for a while because it fails or lags (1) or not (0).", labelSplit),
		eligible: counter("splitd_shadow_exchanges_eligible_total",
			"Exchanges that were seen in sampled flows, since the report began.", labelSplit),
		coverage: counter("splitd_shadow_exchanges_total",
			"Exchanges that were seen in sampled flows, by what became of them, since the report began; the parts add up to the eligible ones.", labelSplit, labelPart),
		unsound: counter("splitd_shadow_unsound_total",
			"Times that the report's sums were wrong, which is a fault of splitd.", labelSplit),
		compared: gauge("splitd_shadow_compared_exchanges",
			"Compared exchanges by what was found, since the report began; what is learnt to be noise is taken out of the mismatches.", labelSplit, labelVerdict),
		firstByte: histogram(nameFirstByte, helpFirstByte, labelSplit, labelRole),
		reply:     histogram(nameReply, helpReply, labelSplit, labelRole),
		tlsSeen: counter("splitd_shadow_tls_handshakes_total",
			"Handshakes with clients in the service's place, in sampled flows that are seen into.", labelSplit),
		tlsResumed: counter("splitd_shadow_tls_handshakes_resumed_total",
			"Those of the handshakes with clients that went on with an earlier session.", labelSplit),
		tlsPassed: counter("splitd_shadow_tls_flows_passed_total",
			"Sampled flows that were encrypted and passed on unseen, by reason.", labelSplit, labelReason),
		tlsFailed: counter("splitd_shadow_tls_handshakes_failed_total",
			"Handshakes that failed in sampled flows that were to be seen into, by with whom.", labelSplit, labelKind),
		tlsExpires: gauge("splitd_shadow_tls_certificate_expiry_timestamp_seconds",
			"When the first of the service's certificates that are served expires, in seconds since 1970.", labelSplit),
	}
}

func (n shadowNames) all() []name {
	return []name{
		n.sample, n.budget, n.budgetUsed, n.sampled, n.played, n.left, n.declined, n.open, n.panics,
		n.breaker, n.eligible, n.coverage, n.unsound, n.compared, n.firstByte, n.reply,
		n.tlsSeen, n.tlsResumed, n.tlsPassed, n.tlsFailed, n.tlsExpires,
	}
}

// histogram is a name that [Latency] has its numbers for.
func histogram(fqName, help string, labels ...string) name {
	return name{desc: prometheus.NewDesc(fqName, help, labels, nil)}
}
