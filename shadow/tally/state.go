package tally

import (
	"slices"
	"time"

	"github.com/splitd/splitd/shadow"
)

// State is what a tally knows, as a value: what reports are made from, and what is
// kept on disk. Lists refer to each other by index.
type State struct {
	Version  int    `json:"version"`
	Protocol string `json:"protocol"`
	// From and Until are the first and last exchange; zero when there was none.
	From     time.Time `json:"from"`
	Until    time.Time `json:"until"`
	Coverage Coverage  `json:"coverage"`
	Reasons  []Reason  `json:"reasons"`
	Rules    []Rule    `json:"rules"`

	Endpoints    []Endpoint    `json:"endpoints"`
	Fields       []Field       `json:"fields"`
	Signatures   []Signature   `json:"signatures"`
	Combinations []Combination `json:"combinations"`

	Samples    []Sample `json:"samples"`
	NextSample int      `json:"next_sample"`
	// SpareFrom is of how many exchanges on samples to spare are looked for again.
	SpareFrom int64   `json:"spare_from"`
	Latency   Latency `json:"latency"`
	Folded    Folded  `json:"folded"`
}

// version is of the form of State on disk.
const version = 1

// Coverage counts exchanges by what became of them. The parts add up to Eligible.
type Coverage struct {
	Eligible        int64 `json:"eligible"`
	Compared        int64 `json:"compared"`
	Skipped         int64 `json:"skipped"`
	Opaque          int64 `json:"opaque"`
	Truncated       int64 `json:"truncated"`
	Dropped         int64 `json:"dropped"`
	AfterDivergence int64 `json:"after_divergence"`
	CandidateError  int64 `json:"candidate_error"`
	PrimaryError    int64 `json:"primary_error"`
}

// part is the count of a verdict; what no verdict of an exchange is counts as
// opaque, so that the sum stays true.
func (c *Coverage) part(v shadow.Verdict) *int64 {
	switch knownVerdict(v) {
	case "":
		return &c.Compared
	case shadow.Skipped:
		return &c.Skipped
	case shadow.Truncated:
		return &c.Truncated
	case shadow.Dropped:
		return &c.Dropped
	case shadow.AfterDivergence:
		return &c.AfterDivergence
	case shadow.CandidateError:
		return &c.CandidateError
	case shadow.PrimaryError:
		return &c.PrimaryError
	case shadow.Opaque, shadow.Match, shadow.Mismatch, shadow.Noise:
	}
	return &c.Opaque
}

func (c *Coverage) parts() []*int64 {
	return []*int64{
		&c.Compared, &c.Skipped, &c.Opaque, &c.Truncated, &c.Dropped,
		&c.AfterDivergence, &c.CandidateError, &c.PrimaryError,
	}
}

// AddsUp says whether the parts are the whole, and none is negative.
func (c Coverage) AddsUp() bool {
	rest := c.Eligible
	for _, part := range c.parts() {
		if *part < 0 || *part > rest {
			return false
		}
		rest -= *part
	}
	return rest == 0
}

func (c *Coverage) add(other Coverage) {
	c.Eligible += other.Eligible
	theirs := other.parts()
	for i, part := range c.parts() {
		*part += *theirs[i]
	}
}

// Reason counts why exchanges were not compared, and those that a candidate did not
// answer.
type Reason struct {
	Verdict shadow.Verdict `json:"verdict"`
	// Reason has N for each number: they do not tell one reason from another.
	Reason string `json:"reason"`
	Count  int64  `json:"count"`
	// FirstAtByte is the byte that the first of them names, of what the party has said
	// that the reason is about; null where none does, or a state is older than this.
	FirstAtByte *int64 `json:"first_at_byte"`
}

// Rule is an ignore rule, and whether it was about anything that was seen.
type Rule struct {
	Text    string `json:"text"`
	Matched bool   `json:"matched"`
}

// Endpoint counts exchanges of one endpoint: compared, not answered by the
// candidate, and the same of A/A.
type Endpoint struct {
	Name       string `json:"name"`
	Compared   int64  `json:"compared"`
	Unanswered int64  `json:"unanswered"`
	// Uncompared are those that were seen, and for another reason not compared.
	Uncompared         int64 `json:"uncompared,omitempty"`
	Controls           int64 `json:"controls"`
	ControlsUnanswered int64 `json:"controls_unanswered"`
}

// Field counts the exchanges in which a path of an endpoint differed in one way.
type Field struct {
	Endpoint int         `json:"endpoint"`
	Path     string      `json:"path"`
	Kind     shadow.Kind `json:"kind"`
	// Excuse is the rule that says that it does not matter.
	Excuse string `json:"excuse,omitempty"`
	// Differed is of primary and candidate, ControlDiffered of A/A.
	Differed        int64 `json:"differed"`
	ControlDiffered int64 `json:"control_differed"`
}

// Signature is one difference as reports group them: a field, and what was
// expected and got, as they may be shown.
type Signature struct {
	Field    int          `json:"field"`
	Level    shadow.Level `json:"level"`
	Expected string       `json:"expected"`
	Got      string       `json:"got"`
	// Count is in how many exchanges it was.
	Count int64 `json:"count"`
	// Samples are the ids of samples that have it.
	Samples []int `json:"samples,omitempty"`
}

// Combination is all that an exchange differed in, the heaviest first, and how many
// exchanges did.
type Combination struct {
	Endpoint   int       `json:"endpoint"`
	Signatures []int     `json:"signatures"`
	Count      int64     `json:"count"`
	First      time.Time `json:"first"`
	Last       time.Time `json:"last"`
}

// Sample is one exchange that differed, kept to look at.
type Sample struct {
	ID       int       `json:"id"`
	At       time.Time `json:"at"`
	Endpoint string    `json:"endpoint"`
	// Masked says that values are shown by their class, where they are not the
	// protocol's own words. Else this is payload: what client and servers said.
	Masked bool `json:"masked"`
	// Withheld says that it was payload, and left out for who was not to have it.
	Withheld    bool         `json:"withheld,omitempty"`
	Request     []Value      `json:"request"`
	Primary     []Value      `json:"primary"`
	Candidate   []Value      `json:"candidate"`
	Differences []Difference `json:"differences"`
	// Left is how many values and differences did not fit.
	Left int `json:"left"`
	// Took is how long each side took for the whole reply, null where that is not
	// known.
	PrimaryTook   *time.Duration `json:"primary_took_ns"`
	CandidateTook *time.Duration `json:"candidate_took_ns"`
}

// Value is a field of a sample, masked unless samples are full.
type Value struct {
	Path  string `json:"path"`
	Value string `json:"value"`
}

// Difference is a difference of a sample.
type Difference struct {
	Path     string       `json:"path"`
	Kind     shadow.Kind  `json:"kind"`
	Level    shadow.Level `json:"level"`
	Expected string       `json:"expected"`
	Got      string       `json:"got"`
	Excuse   string       `json:"excuse,omitempty"`
}

// Folded counts what did not fit into a bound and went into a rest. The sums hold it.
type Folded struct {
	Endpoints    int64 `json:"endpoints"`
	Fields       int64 `json:"fields"`
	Signatures   int64 `json:"signatures"`
	Combinations int64 `json:"combinations"`
	Reasons      int64 `json:"reasons"`
}

func (f *Folded) add(other Folded) {
	f.Endpoints += other.Endpoints
	f.Fields += other.Fields
	f.Signatures += other.Signatures
	f.Combinations += other.Combinations
	f.Reasons += other.Reasons
}

// State is a copy of what the tally knows now.
func (t *Tally) State() State {
	s := t.s
	s.Reasons = slices.Clone(s.Reasons)
	s.Rules = slices.Clone(s.Rules)
	s.Endpoints = slices.Clone(s.Endpoints)
	s.Fields = slices.Clone(s.Fields)
	s.Samples = slices.Clone(s.Samples) // what is in a sample is never changed
	s.Signatures = slices.Clone(s.Signatures)
	for i := range s.Signatures {
		s.Signatures[i].Samples = slices.Clone(s.Signatures[i].Samples)
	}
	s.Combinations = slices.Clone(s.Combinations) // nor are its signatures
	s.Latency = s.Latency.clone()
	return s
}
