package metrics

import (
	"maps"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/splitd/splitd/traffic"
)

// collector turns one sample into metrics.
type collector struct {
	names    names
	sample   Sample
	failures prometheus.Counter
}

// Describe lists what Collect may send.
func (c *collector) Describe(ch chan<- *prometheus.Desc) {
	for _, n := range c.names.all() {
		ch <- n.desc
	}
}

// Collect sends the metrics of the sample.
func (c *collector) Collect(ch chan<- prometheus.Metric) {
	c.send(ch, c.names.store, one(c.sample.StoreOK))
	c.send(ch, c.names.checksLate, float64(c.sample.ChecksLate))
	if d := c.sample.KernelDrift; d != nil {
		c.send(ch, c.names.drift, float64(*d))
	}
	c.send(ch, c.names.mended, float64(c.sample.KernelMended))
	for _, kind := range slices.Sorted(maps.Keys(c.sample.RelayFaults)) {
		c.send(ch, c.names.relayFaults, float64(c.sample.RelayFaults[kind]), kind)
	}
	c.send(ch, c.names.start, seconds(c.sample.StartedAt))
	if reload := c.sample.LastReload; !reload.At.IsZero() {
		c.send(ch, c.names.reload, one(reload.OK))
		c.send(ch, c.names.reloadTime, seconds(reload.At))
	}
	if b := c.sample.ShadowBudget; b != nil {
		c.send(ch, c.names.shadows.budget, float64(b.Most))
		c.send(ch, c.names.shadows.budgetUsed, float64(b.Used))
	}
	seen := make(map[string]bool)
	for _, split := range c.sample.Splits {
		// Two of one name would make the whole exposition invalid.
		if seen[split.State.Name] {
			c.failures.Inc()
			continue
		}
		seen[split.State.Name] = true
		c.split(ch, split)
	}
}

func (c *collector) split(ch chan<- prometheus.Metric, split Split) {
	name := split.State.Name
	c.send(ch, c.names.split, 1, name, string(split.Mode))
	c.send(ch, c.names.generation, float64(split.State.Generation), name)
	if split.InSync != nil {
		c.send(ch, c.names.inSync, one(*split.InSync), name)
	}
	if split.ObservedPPM != nil {
		c.send(ch, c.names.observedCandidates, ratio(*split.ObservedPPM), name)
	}
	for _, reason := range slices.Sorted(maps.Keys(split.Refused)) {
		c.send(ch, c.names.shut, float64(split.Refused[reason]), name, string(reason))
	}
	if split.Shadow != nil {
		c.send(ch, c.names.shadows.sample, ratio(int(split.State.Sample)), name)
		c.shadow(ch, name, *split.Shadow)
	}
	observed := observedByBackend(split)
	seen := make(map[string]bool)
	for i, backend := range split.State.Backends() {
		if seen[backend.Name] {
			c.failures.Inc()
			continue
		}
		seen[backend.Name] = true
		labels := []string{name, backend.Name, role(i)}
		c.send(ch, c.names.weight, ratio(int(backend.Weight)), labels...)
		if ppm, ok := observed[backend.Name]; ok {
			c.send(ch, c.names.observed, ratio(ppm), labels...)
		}
		if health, ok := split.Health[backend.Name]; ok {
			c.send(ch, c.names.up, one(health.Up), labels...)
			c.send(ch, c.names.addressesDown, float64(health.AddressesDown), labels...)
		}
		if killed, ok := split.Killed[backend.Name]; ok {
			c.send(ch, c.names.killed, float64(killed), labels...)
		}
		if counts, ok := split.Counts[backend.Name]; ok {
			c.counts(ch, counts, labels)
		}
	}
}

// counts sends what the plane knows.
func (c *collector) counts(ch chan<- prometheus.Metric, counts traffic.Counts, labels []string) {
	c.send(ch, c.names.flows, float64(counts.Flows), labels...)
	c.known(ch, c.names.flowsActive, counts.Active, labels...)
	c.known(ch, c.names.bytes, counts.BytesIn, append(slices.Clone(labels), "in")...)
	c.known(ch, c.names.bytes, counts.BytesOut, append(slices.Clone(labels), "out")...)
	c.known(ch, c.names.connectFailures, counts.ConnectFailed, labels...)
	c.known(ch, c.names.avoided, counts.Avoided, labels...)
	c.known(ch, c.names.halfOpen, counts.HalfOpen, labels...)
	c.known(ch, c.names.unanswered, counts.Unanswered, labels...)
	c.known(ch, c.names.refused, counts.Refused, labels...)
	c.known(ch, c.names.resets, counts.Resets, labels...)
}

func (c *collector) known(ch chan<- prometheus.Metric, n name, value *uint64, labels ...string) {
	if value != nil {
		c.send(ch, n, float64(*value), labels...)
	}
}

func (c *collector) send(ch chan<- prometheus.Metric, n name, value float64, labels ...string) {
	metric, err := prometheus.NewConstMetric(n.desc, n.kind, value, labels...)
	if err != nil { // a label that is not UTF-8
		c.failures.Inc()
		return
	}
	ch <- metric
}

// observedByBackend derives what is plain when there are only two backends.
func observedByBackend(split Split) map[string]int {
	if split.Observed != nil || split.ObservedPPM == nil || len(split.State.Candidates) != 1 {
		return split.Observed
	}
	return map[string]int{
		split.State.Primary.Name:       int(traffic.Whole) - *split.ObservedPPM,
		split.State.Candidates[0].Name: *split.ObservedPPM,
	}
}

// role of the i-th of Split.Backends.
func role(i int) string {
	if i == 0 {
		return string(traffic.RolePrimary)
	}
	return string(traffic.RoleCandidate)
}

func ratio(ppm int) float64 { return float64(ppm) / float64(traffic.Whole) }

func seconds(t time.Time) float64 { return float64(t.UnixMilli()) / 1000 }

func one(yes bool) float64 {
	if yes {
		return 1
	}
	return 0
}
