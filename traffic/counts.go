package traffic

// BackendKey names a backend of a split.
type BackendKey struct {
	Split   string
	Backend string
}

// Counts is what a data plane has counted for one backend. A nil pointer means
// that the plane cannot know, which is not zero.
type Counts struct {
	// Flows is the number of new flows sent to the backend. It only grows
	// while the plane keeps its counters; a smaller value than before means
	// that they began again at zero.
	Flows uint64
	// Active is the number of flows open now.
	Active *uint64
	// BytesIn went from clients to the backend, BytesOut back.
	BytesIn, BytesOut *uint64
	// ConnectFailed is the number of attempts to reach the backend that failed:
	// in the kernel plane Unanswered and Refused together.
	ConnectFailed *uint64
	// Avoided is the number of flows that were drawn for the backend and went to
	// the primary at once, because connects to it had failed in a row.
	Avoided *uint64
	// HalfOpen are the flows of Active that have had no answer yet.
	HalfOpen *uint64
	// Unanswered are the attempts that ended without any answer, Refused those
	// that a reset alone answered, Resets the flows that ended by a reset, of
	// whichever side, after they had been answered.
	Unanswered, Refused, Resets *uint64
}

// Refusal is why a data plane took a connection of a client and reset it, or began
// no flow of UDP.
type Refusal string

// The reasons: the limits of the same names in a split's configuration, the lack
// of file descriptors or of memory for over a second, of UDP (where it is at once)
// also that of local ports, and a flow that was answered once at most and had to make room for
// another one; and of a connection that has to begin with a PROXY header one that
// is none, that is not whole in time, and an end before it is, or names a client of
// the other family than the address that was asked, whom backends cannot be shown.
const (
	RefusedMaxFlows       Refusal = "max_flows"
	RefusedMaxClientFlows Refusal = "max_client_flows"
	RefusedNoFiles        Refusal = "no_files"
	RefusedNoMemory       Refusal = "no_memory"
	RefusedNoPorts        Refusal = "no_ports"
	RefusedCrowdedOut     Refusal = "crowded_out"
	RefusedBadHeader      Refusal = "bad_header"
	RefusedLateHeader     Refusal = "late_header"
	RefusedNoHeader       Refusal = "no_header"
	RefusedOtherFamily    Refusal = "other_family"
)
