package traffic

import "time"

// Override is a candidate's weight, or the sample of a split, that an operator set
// above the file's.
type Override struct {
	Weight Weight    `json:"weight_ppm"`
	Actor  string    `json:"actor"`
	Reason string    `json:"reason,omitempty"`
	Since  time.Time `json:"since"`
	// Until ends the override by itself; zero means never.
	Until time.Time `json:"until,omitzero"`
	// Off marks an override made by `off`: it holds even for a pinned split,
	// because the way back always works.
	Off bool `json:"off,omitempty"`
	// Closed says that the candidate takes no flow at all, not even of its
	// groups: `off` and `drain` say so.
	Closed bool `json:"closed,omitempty"`
	// Drain marks one made by `drain`: it holds even for a pinned split, as Off
	// does. Rate, if it is not 0, is how many open flows a second are ended
	// meanwhile; KillAt, if it is not zero, is when all are that are left.
	Drain  bool      `json:"drain,omitempty"`
	Rate   float64   `json:"rate,omitempty"`
	KillAt time.Time `json:"kill_at,omitzero"`
}

// Holds says whether the override is in force over that definition.
func (o Override) Holds(definition Split) bool { return o.Off || o.Drain || !definition.Pinned }

// EndsFlows says whether it is a drain that ends open flows, at a pace or at a
// time.
func (o Override) EndsFlows() bool { return o.Rate > 0 || !o.KillAt.IsZero() }

// Overrides are the overrides of one split by candidate, and that of its sample.
type Overrides map[string]Override

// SampleKey is where the override of a split's sample stands among those of its
// candidates, of which none can have that name. It is the split's, whichever
// candidate is played to.
const SampleKey = "%sample"

// Expired says whether the override has ended at that time.
func (o Override) Expired(now time.Time) bool {
	return !o.Until.IsZero() && !now.Before(o.Until)
}

// Prune returns the overrides without those that have ended at now and those
// whose candidate the definition no longer has. That of a
// sample which the definition does not allow goes, too, unless it was switched off.
func (o Overrides) Prune(definition Split, now time.Time) Overrides {
	kept := Overrides{}
	for name, override := range o {
		_, known := definition.Candidate(name)
		if name == SampleKey {
			known = override.Off || definition.CheckSample() == nil
		}
		if known && !override.Expired(now) {
			kept[name] = override
		}
	}
	return kept
}

// Layer names who decided a weight.
type Layer string

// The layers, weakest first. A pinned definition turns file and operator round.
const (
	LayerFile     Layer = "file"
	LayerOperator Layer = "operator"
)

// Effective returns the definition with the weights and the sample that are in
// force under the overrides: an operator's weight above the file's, unless the
// definition is pinned; `off` and `drain` above both. Should the sum exceed the
// whole (a file raised another candidate meanwhile) the file's weights are lowered,
// in order, until it fits: an operator's word is kept and nothing is
// over-committed.
func Effective(definition Split, overrides Overrides) Split {
	effective := definition
	if o, ok := overrides[SampleKey]; ok && o.Holds(definition) {
		effective.Sample = o.Weight
	}
	effective.Candidates = append([]Backend(nil), definition.Candidates...)
	var taken Weight
	for i, c := range effective.Candidates {
		if o, ok := overrides[c.Name]; ok && o.Holds(definition) {
			effective.Candidates[i].Weight = o.Weight
			effective.Candidates[i].Closed = c.Closed || o.Closed
			taken += o.Weight
		}
	}
	for i, c := range effective.Candidates {
		if o, ok := overrides[c.Name]; ok && o.Holds(definition) {
			continue
		}
		effective.Candidates[i].Weight = min(c.Weight, max(Whole-taken, 0))
		taken += effective.Candidates[i].Weight
	}
	return effective
}
