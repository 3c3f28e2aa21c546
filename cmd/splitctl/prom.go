package main

import (
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/splitd/splitd/control/api"
	"github.com/splitd/splitd/traffic"
)

// family is one metric of `status -o prom`. Names and meanings are those of
// the daemon's own /metrics.
type family struct {
	name, kind, help string
	samples          func(api.Split) []sample
}

type sample struct {
	labels string
	value  float64
}

func promFamilies() []family {
	return []family{
		{"splitd_split_info", "gauge", "The data plane that carries the split; always 1.", func(s api.Split) []sample {
			return []sample{{labels("split", s.Name, "mode", s.Mode), 1}}
		}},
		{"splitd_generation", "gauge", "Number of the split's state; it grows by one with every change of its definition or weights.", func(s api.Split) []sample {
			return []sample{{labels("split", s.Name), float64(s.Generation)}}
		}},
		{"splitd_kernel_in_sync", "gauge", "Whether the kernel does with the split what splitd wants (1) or not (0); kernel mode only.", inSync},
		{"splitd_candidates_observed_ratio", "gauge", "Share of new flows that all candidates of the split got since its generation began, 0 to 1.", func(s api.Split) []sample {
			if s.ObservedPPM == nil {
				return nil
			}
			return []sample{{labels("split", s.Name), ratio(*s.ObservedPPM)}}
		}},
		{"splitd_weight_ratio", "gauge", "Share of new flows that is set for the backend, 0 to 1; the primary has what the candidates leave.", eachBackend(func(b api.Backend) *float64 {
			share := ratio(b.WeightPPM)
			return &share
		})},
		{"splitd_shadow_sample_ratio", "gauge", "Share of the primary's flows that is shadowed, 0 to 1.", func(s api.Split) []sample {
			return []sample{{labels("split", s.Name), ratio(s.Shadow.SamplePPM)}}
		}},
		{"splitd_backend_up", "gauge", "Whether the backend passes its health checks at one address at least (1) or at none (0).", eachBackend(up)},
		{"splitd_backend_addresses_down", "gauge", "Addresses of the backend that are down.", eachBackend(addressesDown)},
		{"splitd_flows_total", "counter", "New flows sent to the backend.", eachBackend(func(b api.Backend) *float64 { return float(b.FlowsTotal) })},
		{"splitd_flows_active", "gauge", "Flows of the backend that are open now.", eachBackend(func(b api.Backend) *float64 { return float(b.FlowsActive) })},
		{"splitd_bytes_total", "counter", "Bytes that went from clients to the backend (direction in) and back (direction out).", bytesOf},
		{"splitd_connect_failures_total", "counter", "Attempts to reach the backend that failed.", eachBackend(func(b api.Backend) *float64 { return float(b.ConnectFailed) })},
		{"splitd_flows_half_open", "gauge", "Open flows of the backend that have had no answer yet; kernel mode only.", eachBackend(func(b api.Backend) *float64 { return float(b.HalfOpen) })},
		{"splitd_flows_unanswered_total", "counter", "Flows that ended without any answer of the backend; kernel mode only.", eachBackend(func(b api.Backend) *float64 { return float(b.Unanswered) })},
		{"splitd_flows_refused_total", "counter", "Flows that nothing but a reset of the backend answered; kernel mode only.", eachBackend(func(b api.Backend) *float64 { return float(b.Refused) })},
		{"splitd_flows_reset_total", "counter", "Flows that were answered and then ended by a reset, of whichever side; kernel mode only.", eachBackend(func(b api.Backend) *float64 { return float(b.Resets) })},
	}
}

// writeProm writes the status in the Prometheus text format 0.0.4, for a
// textfile collector. What a data plane cannot know is left out.
func writeProm(w io.Writer, list api.SplitList) error {
	for _, f := range promFamilies() {
		var lines strings.Builder
		for _, s := range list.Items {
			for _, one := range f.samples(s) {
				lines.WriteString(f.name + "{" + one.labels + "} " + strconv.FormatFloat(one.value, 'g', -1, 64) + "\n")
			}
		}
		if lines.Len() == 0 {
			continue
		}
		if _, err := fmt.Fprintf(w, "# HELP %s %s\n# TYPE %s %s\n%s", f.name, f.help, f.name, f.kind, lines.String()); err != nil {
			return err
		}
	}
	return nil
}

func inSync(s api.Split) []sample {
	if s.Kernel == nil || s.Kernel.InSync == nil {
		return nil
	}
	value := 0.0
	if *s.Kernel.InSync {
		value = 1
	}
	return []sample{{labels("split", s.Name), value}}
}

// up is nil where nothing is known.
func up(b api.Backend) *float64 {
	switch b.State {
	case "up":
		return new(1.0)
	case "down":
		return new(0.0)
	}
	return nil
}

func addressesDown(b api.Backend) *float64 {
	if up(b) == nil {
		return nil
	}
	n := 0.0
	for _, c := range b.Checks {
		if c.State == "down" {
			n++
		}
	}
	return &n
}

// eachBackend makes a sample of each backend for which value is known.
func eachBackend(value func(api.Backend) *float64) func(api.Split) []sample {
	return func(s api.Split) []sample {
		var samples []sample
		for _, b := range s.Backends {
			if v := value(b); v != nil {
				samples = append(samples, sample{labels("split", s.Name, "backend", b.Name, "role", b.Role), *v})
			}
		}
		return samples
	}
}

func bytesOf(s api.Split) []sample {
	var samples []sample
	for _, b := range s.Backends {
		for _, way := range []struct {
			direction string
			bytes     *uint64
		}{{"in", b.BytesIn}, {"out", b.BytesOut}} {
			if v := float(way.bytes); v != nil {
				samples = append(samples, sample{labels("split", s.Name, "backend", b.Name, "role", b.Role, "direction", way.direction), *v})
			}
		}
	}
	return samples
}

// labels writes pairs of names and values, sorted as they are given.
func labels(pairs ...string) string {
	escape := strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`)
	texts := make([]string, 0, len(pairs)/2)
	for i := 0; i+1 < len(pairs); i += 2 {
		texts = append(texts, pairs[i]+`="`+escape.Replace(pairs[i+1])+`"`)
	}
	return strings.Join(texts, ",")
}

func ratio(ppm int) float64 { return float64(ppm) / float64(traffic.Whole) }

func float(n *uint64) *float64 {
	if n == nil {
		return nil
	}
	value := float64(*n)
	return &value
}
