package metrics

import "github.com/prometheus/client_golang/prometheus"

// The labels. Their values are names from the configuration and fixed words,
// never anything that a client or a network sends.
const (
	labelSplit     = "split"
	labelBackend   = "backend"
	labelRole      = "role"      // primary | candidate
	labelDirection = "direction" // in: from clients to the backend | out: back
	labelMode      = "mode"      // kernel | proxy
	labelReason    = "reason"    // max_flows | max_client_flows | no_files | no_memory | no_ports | crowded_out | bad_header | late_header | no_header | other_family; of shadows: full | broken | stopped | late | lost; of their TLS: the reasons of package terminator
	labelKind      = "kind"      // accept | connect | splice | datagram | panic | log; of shadows: tee | driver; of their TLS: client | primary
	labelPart      = "part"      // of coverage: compared | skipped | opaque | truncated | dropped | after_divergence | candidate_error | primary_error
	labelVerdict   = "verdict"   // match | mismatch | noise
)

// name is a metric of a sample: all that splitd itself exposes, but for
// nameBuildInfo and nameFailures, which live as long as the handler.
type name struct {
	desc *prometheus.Desc
	kind prometheus.ValueType
}

// names are all of them. docs/metrics.md describes the same, and a test holds
// the two together.
type names struct {
	flows, flowsActive, bytes, connectFailures       name
	avoided, shut, relayFaults, killed               name
	halfOpen, unanswered, refused, resets            name
	up, addressesDown, checksLate                    name
	weight, observed, observedCandidates, generation name
	split, inSync, drift, mended                     name
	store, reload, reloadTime, start                 name
	shadows                                          shadowNames
}

const (
	nameBuildInfo = "splitd_build_info"
	helpBuildInfo = "Which splitd this is; always 1."
	nameFailures  = "splitd_collect_failures_total"
	helpFailures  = "Values that could not be read or exposed for a scrape."
)

func newNames() names {
	backend := []string{labelSplit, labelBackend, labelRole}
	return names{
		flows: counter("splitd_flows_total",
			"New flows sent to the backend.", backend...),
		flowsActive: gauge("splitd_flows_active",
			"Flows of the backend that are open now.", backend...),
		bytes: counter("splitd_bytes_total",
			"Bytes that went from clients to the backend (direction in) and back (direction out).", append(backend, labelDirection)...),
		connectFailures: counter("splitd_connect_failures_total",
			"Attempts to reach the backend that failed.", backend...),
		avoided: counter("splitd_flows_avoided_total",
			"Flows drawn for the backend that went to the primary at once, because connects to it had failed in a row; proxy mode only.", backend...),
		shut: counter("splitd_flows_shut_out_total",
			"Connections of clients that were reset without being tried, and datagrams or flows of UDP that there was no room for, by reason; proxy mode only.", labelSplit, labelReason),
		killed: counter("splitd_flows_killed_total",
			"Open flows of the backend that were ended on request: drain --kill, drain --rate, set --kill.", backend...),
		relayFaults: counter("splitd_relay_faults_total",
			"What went wrong in the relay of mode proxy and was no backend's fault, by kind.", labelKind),
		up: gauge("splitd_backend_up",
			"Whether the backend passes its health checks at one address at least (1) or at none (0).", backend...),
		addressesDown: gauge("splitd_backend_addresses_down",
			"Addresses of the backend that are down.", backend...),
		checksLate: counter("splitd_health_checks_late_total",
			"Health checks that began late because too many others were under way, or this host was too busy."),
		halfOpen: gauge("splitd_flows_half_open",
			"Open flows of the backend that have had no answer yet; kernel mode only.", backend...),
		unanswered: counter("splitd_flows_unanswered_total",
			"Flows that ended without any answer of the backend; kernel mode only.", backend...),
		refused: counter("splitd_flows_refused_total",
			"Flows that nothing but a reset of the backend answered; kernel mode only.", backend...),
		resets: counter("splitd_flows_reset_total",
			"Flows that were answered and then ended by a reset, of whichever side; kernel mode only.", backend...),
		weight: gauge("splitd_weight_ratio",
			"Share of new flows that is set for the backend, 0 to 1; the primary has what the candidates leave.", backend...),
		observed: gauge("splitd_observed_ratio",
			"Share of new flows that the backend got since the split's generation began, 0 to 1.", backend...),
		observedCandidates: gauge("splitd_candidates_observed_ratio",
			"Share of new flows that all candidates of the split got since its generation began, 0 to 1.", labelSplit),
		generation: gauge("splitd_generation",
			"Number of the split's state; it grows by one with every change of its definition or weights.", labelSplit),
		split: gauge("splitd_split_info",
			"The data plane that carries the split; always 1.", labelSplit, labelMode),
		inSync: gauge("splitd_kernel_in_sync",
			"Whether the kernel does with the split what splitd wants (1) or not (0); kernel mode, and transparent relays.", labelSplit),
		drift: gauge("splitd_kernel_drift",
			"Differences between the kernel and what splitd wants of it: rules, services, routes, return paths."),
		mended: counter("splitd_kernel_mended_total",
			"Times that the kernel's rules were put back after another program had changed them."),
		store: gauge("splitd_store_up",
			"Whether the store can be read and written (1) or not (0); without it weights can only be lowered."),
		reload: gauge("splitd_config_last_reload_successful",
			"Whether the last load of the configuration was accepted (1) or not (0)."),
		reloadTime: gauge("splitd_config_last_reload_timestamp_seconds",
			"When the configuration was last loaded, accepted or not, in seconds since 1970."),
		start: gauge("splitd_start_time_seconds",
			"When the daemon started, in seconds since 1970."),
		shadows: newShadowNames(),
	}
}

// all lists them, for Describe.
func (n names) all() []name {
	return append(n.shadows.all(),
		n.flows, n.flowsActive, n.bytes, n.connectFailures,
		n.avoided, n.shut, n.relayFaults, n.killed,
		n.halfOpen, n.unanswered, n.refused, n.resets,
		n.up, n.addressesDown, n.checksLate,
		n.weight, n.observed, n.observedCandidates, n.generation,
		n.split, n.inSync, n.drift, n.mended,
		n.store, n.reload, n.reloadTime, n.start,
	)
}

func counter(fqName, help string, labels ...string) name {
	return name{prometheus.NewDesc(fqName, help, labels, nil), prometheus.CounterValue}
}

func gauge(fqName, help string, labels ...string) name {
	return name{prometheus.NewDesc(fqName, help, labels, nil), prometheus.GaugeValue}
}
