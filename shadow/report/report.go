package report

import (
	"time"

	"github.com/splitd/splitd/shadow"
	"github.com/splitd/splitd/shadow/tally"
)

// Report is what is known of how a candidate answers. Shares are from 0 to 1, times
// RFC 3339; what is not known is null.
type Report struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	Split      string `json:"split"`
	Protocol   string `json:"protocol"`
	Primary    string `json:"primary"`
	Candidate  string `json:"candidate"`
	// Rule says in words what may be written to the candidate.
	Rule string `json:"rule"`
	// NeverCompared says in words what no list has, because it is not compared.
	NeverCompared string `json:"never_compared"`

	Window  *Window `json:"window"`
	Verdict Verdict `json:"verdict"`
	Summary string  `json:"summary"`
	// Away says why this is of what was saved last; empty where it is of now.
	Away string `json:"away"`
	// Untold says that the candidate was to be told who the client is, and was not.
	Untold string `json:"untold"`
	// Doubt says why it may be hidden that the candidate is wrong, by what is taken for noise
	// or by TLS that was not seen into; empty where it cannot.
	Doubt string         `json:"doubt"`
	Cover tally.Coverage `json:"coverage"`
	// Exchanges are the compared ones. What is suspect is a mismatch among them.
	Exchanges   Exchanges      `json:"exchanges"`
	Differences []Difference   `json:"differences"`
	Suspects    []Difference   `json:"suspects"`
	Masked      []Mask         `json:"masked"`
	Latency     *Latency       `json:"latency"`
	NotCompared []tally.Reason `json:"not_compared"`
	UnusedRules []string       `json:"unused_rules"`
	// Controls is how many exchanges were asked twice, ControlsUnanswered of how many
	// of them no answer came: those have taught nothing.
	Controls           int64 `json:"controls"`
	ControlsUnanswered int64 `json:"controls_unanswered"`
	// Folded is what was too much to tell apart; the sums hold it.
	Folded tally.Folded `json:"folded"`
	// Encrypted is how many exchanges nobody saw because they were inside TLS, a flow that
	// begins with it being one. SeenInto says that certificates are named by which such
	// flows are seen into, SeenInside how many were. EncryptedOf is of how many flows
	// Encrypted is: with certificates of those that began TLS; else of all, where of other
	// protocols than smtp each exchange in clear counts as one.
	Encrypted   int64            `json:"encrypted"`
	EncryptedOf int64            `json:"encrypted_of"`
	SeenInto    bool             `json:"seen_into"`
	SeenInside  int64            `json:"seen_inside"`
	Endpoints   []tally.Endpoint `json:"endpoints"`
	Samples     []tally.Sample   `json:"samples"`
}

const (
	apiVersion = "splitd/v1"
	kind       = "ShadowReport"
)

// Window is when the exchanges were.
type Window struct {
	From time.Time `json:"from"`
	To   time.Time `json:"to"`
}

// A Verdict is the report in a word.
type Verdict string

// The verdicts.
const (
	Same      Verdict = "same"
	Differs   Verdict = "differs"
	Undecided Verdict = "undecided" // too little was compared, what differs is too rare, or may be hidden
)

// Exchanges are the compared ones by what comparing found.
type Exchanges struct {
	Match    int64 `json:"match"`
	Mismatch int64 `json:"mismatch"`
	Noise    int64 `json:"noise"`
	// Doubtful is how much of the noise is refused by one server alone.
	Doubtful int64 `json:"doubtful"`
}

// Difference is a signature with the exchanges that are charged to it: those in
// which nothing heavier differs that is no noise.
type Difference struct {
	Protocol string      `json:"protocol"`
	Endpoint string      `json:"endpoint"`
	Field    string      `json:"field"`
	Kind     shadow.Kind `json:"kind"`
	Level    string      `json:"level"`
	Expected string      `json:"expected"`
	Got      string      `json:"got"`
	Count    int64       `json:"count"`
	// Rate is Count of the endpoint's exchanges. LowerBound is how much more often
	// than the field differs by itself, with 95 % certainty at least.
	Rate       float64   `json:"rate"`
	LowerBound float64   `json:"lower_bound"`
	FirstSeen  time.Time `json:"first_seen"`
	LastSeen   time.Time `json:"last_seen"`
	// Samples are ids of the report's samples.
	Samples []int `json:"samples"`
	// Also names what else differs in the same exchanges, lighter.
	Also []string `json:"also"`
	// Controls is how often the endpoint was asked twice, ControlDiffered in how many
	// of them the field differed from itself.
	Controls        int64 `json:"controls"`
	ControlDiffered int64 `json:"control_differed"`
	// Why says of suspects why they are no more than that.
	Why string `json:"why,omitempty"`
}

// Mask is a field that may differ in this way, and why it may. Of noise that was
// learnt other kinds are still compared: another class of value is no noise.
type Mask struct {
	Endpoint string      `json:"endpoint"`
	Field    string      `json:"field"`
	Kind     shadow.Kind `json:"kind"`
	Why      string      `json:"why"`
	// Count is in how many exchanges it differed.
	Count int64 `json:"count"`
}

// Latency is how long whole replies took, and in FirstByte how long their first
// bytes did, in milliseconds from when the request was with the server.
type Latency struct {
	Sides
	FirstByte Sides `json:"first_byte"`
	// Pairs is how many exchanges were measured; WarmUp were left out before, Unknown
	// had a time missing.
	Pairs   int64 `json:"pairs"`
	WarmUp  int64 `json:"warm_up"`
	Unknown int64 `json:"unknown"`
}

// Sides are both sides, and the candidate's time less the primary's of the same
// exchange.
type Sides struct {
	Primary   Quantiles `json:"primary"`
	Candidate Quantiles `json:"candidate"`
	Delta     Quantiles `json:"paired_delta"`
}

// Quantiles are milliseconds.
type Quantiles struct {
	P50 float64 `json:"p50_ms"`
	P95 float64 `json:"p95_ms"`
	P99 float64 `json:"p99_ms"`
	// Curve has a value for each of the quantiles that [CurveAt] lists, for plots.
	Curve []float64 `json:"curve_ms"`
}

// CurveAt lists the quantiles of curves.
func CurveAt() []float64 {
	return []float64{0, 0.01, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.999, 1}
}
