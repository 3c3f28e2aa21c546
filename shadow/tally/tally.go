package tally

import (
	"time"

	"github.com/splitd/splitd/shadow"
)

// A Tally adds up the exchanges of one split.
type Tally struct {
	options Options
	s       State
	index   index
}

// New begins a tally.
func New(o Options) *Tally {
	o.Bounds = o.Bounds.withDefaults()
	switch {
	case o.WarmUp == 0:
		o.WarmUp = DefaultWarmUp
	case o.WarmUp < 0:
		o.WarmUp = 0
	}
	t := &Tally{options: o}
	t.Reset()
	return t
}

// Reset begins anew, with the same options.
func (t *Tally) Reset() {
	t.s = State{Version: version, Protocol: t.options.Protocol, NextSample: 1, Latency: newLatency()}
	t.index = newIndex()
	t.takeRules()
}

// Add counts one exchange with what it differs in: what [shadow.Differences] says.
// Nothing of either is kept or changed.
func (t *Tally) Add(x shadow.Exchange, differences []shadow.Difference, at time.Time) {
	t.seen(at)
	t.s.Coverage.Eligible++
	*t.s.Coverage.part(x.Verdict)++
	endpoint := t.endpoint(x.Endpoint)
	if x.Verdict == "" {
		t.s.Endpoints[endpoint].Compared++
		t.useRules(x)
		t.time(x)
	} else {
		t.reason(x.Verdict, x.Reason, 1, byteIn(x.Reason))
	}
	if x.Verdict == shadow.CandidateError {
		t.s.Endpoints[endpoint].Unanswered++
	} else if x.Verdict != "" {
		if x.Verdict != shadow.Opaque {
			t.s.Endpoints[endpoint].Uncompared++
		}
		return // it was not compared, so it differs in nothing
	}
	if len(differences) == 0 {
		return
	}
	signatures := t.signaturesOf(endpoint, differences)
	t.combine(endpoint, signatures, 1, at, at)
	t.sample(x, differences, signatures, at)
}

// Miss counts exchanges of which nothing is known but why they were not compared:
// those of flows that nobody looked into. Each is taken for one.
func (t *Tally) Miss(why shadow.Verdict, reason string, count int64, at time.Time) {
	if count <= 0 || knownVerdict(why) == "" {
		return
	}
	t.seen(at)
	t.s.Coverage.Eligible += count
	*t.s.Coverage.part(why) += count
	t.reason(why, reason, count, byteIn(reason))
}

// SetRules has it go on under other rules, and with samples that are full or not.
// Full samples do not stay where there may be none any more.
func (t *Tally) SetRules(ignore []shadow.Ignore, full bool) {
	if t.options.Full && !full {
		t.DropSamples()
	}
	t.options.Ignore, t.options.Full = ignore, full
	t.takeRules()
}

// DropSamples forgets the samples. The counts stay.
func (t *Tally) DropSamples() {
	t.s.Samples = nil
	for i := range t.s.Signatures {
		t.s.Signatures[i].Samples = nil
	}
}

// AddControl counts one exchange of A/A: Primary is what the primary told the
// client, Candidate what the primary said when it was asked again. One that was not
// answered is counted and teaches nothing: whoever could not be asked says nothing
// of how the candidate should answer, nor that it need not.
func (t *Tally) AddControl(x shadow.Exchange, differences []shadow.Difference, at time.Time) {
	if x.Verdict != "" && x.Verdict != shadow.CandidateError {
		return // nothing was learnt
	}
	t.seen(at)
	endpoint := t.endpoint(x.Endpoint)
	if x.Verdict != "" {
		t.s.Endpoints[endpoint].ControlsUnanswered++
		return
	}
	t.s.Endpoints[endpoint].Controls++
	counted := make(map[int]bool)
	for i, d := range differences {
		if f := t.fieldOf(endpoint, i, d); !counted[f] {
			counted[f] = true
			t.s.Fields[f].ControlDiffered++
		}
	}
}

func (t *Tally) seen(at time.Time) {
	if t.s.From.IsZero() || at.Before(t.s.From) {
		t.s.From = at
	}
	if at.After(t.s.Until) {
		t.s.Until = at
	}
}

// signaturesOf counts the fields and signatures of one exchange, each once. They
// come back in the order of the differences, which is by weight.
func (t *Tally) signaturesOf(endpoint int, differences []shadow.Difference) []int {
	var all []int
	fields, signatures := make(map[int]bool), make(map[int]bool)
	for i, d := range differences {
		f := t.fieldOf(endpoint, i, d)
		if !fields[f] {
			fields[f] = true
			t.s.Fields[f].Differed++
		}
		s := t.signature(signatureKey{f, d.Level, shadow.Show(d.Expected, d.Plain), shadow.Show(d.Got, d.Plain)})
		if !signatures[s] {
			signatures[s] = true
			t.s.Signatures[s].Count++
			all = append(all, s)
		}
	}
	return all
}

// fieldOf is the field of the i-th difference of an exchange. Of an exchange that
// differs in very many, the lightest share the rest.
func (t *Tally) fieldOf(endpoint, i int, d shadow.Difference) int {
	path := d.Path
	if i >= mostDifferences {
		path = OtherFields
		t.s.Folded.Fields++
	}
	return t.field(fieldKey{endpoint, path, d.Kind, d.Excuse})
}

// combine counts exchanges that differed in the same.
func (t *Tally) combine(endpoint int, signatures []int, count int64, first, last time.Time) {
	c := &t.s.Combinations[t.combination(endpoint, signatures)]
	if c.Count == 0 || first.Before(c.First) {
		c.First = first
	}
	if last.After(c.Last) {
		c.Last = last
	}
	c.Count += count
}

// The shares of exchanges that are asked a second time.
const (
	controlsFirst  = 200  // all, of each endpoint
	controlShare   = 0.01 // then
	undecidedShare = 0.10 // while something that differs may be noise
)

// WantsControl says whether an exchange of this endpoint should be asked of the
// primary a second time; draw is between 0 and 1. Whether this exchange differed
// must not matter for it: the rates would not compare. Whether it is safe to ask
// again, and how often, is for the caller to see to.
func (t *Tally) WantsControl(endpoint string, draw float64) bool {
	e, known := t.index.endpoints[clean(endpoint, longestEndpoint)]
	if !known {
		return len(t.s.Endpoints) < t.options.Bounds.Endpoints || draw < controlShare
	}
	at := t.s.Endpoints[e]
	return at.Controls+at.ControlsUnanswered < controlsFirst || draw < controlShare || draw < undecidedShare && t.undecided(e)
}

// undecided says whether an endpoint has a suspect.
func (t *Tally) undecided(endpoint int) bool {
	for _, f := range t.s.Fields {
		if f.Endpoint != endpoint || f.Excuse != "" || f.Differed == 0 {
			continue
		}
		if DefaultThresholds().Judge(t.s.CountsOf(f)).Finding == Suspect {
			return true
		}
	}
	return false
}
