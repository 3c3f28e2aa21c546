package traffic

import "time"

// Override is a candidate's weight that an operator set above the file's.
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
}

// Overrides are the overrides of one split by candidate.
type Overrides map[string]Override

// Expired says whether the override has ended at that time.
func (o Override) Expired(now time.Time) bool {
	return !o.Until.IsZero() && !now.Before(o.Until)
}

// Prune returns the overrides without those that have ended at now and those
// whose candidate the definition no longer has.
func (o Overrides) Prune(definition Split, now time.Time) Overrides {
	kept := Overrides{}
	for name, override := range o {
		if _, known := definition.Candidate(name); known && !override.Expired(now) {
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

// Effective returns the definition with the weights that are in force under
// the overrides: an operator's weight above the file's, unless the definition
// is pinned; `off` above both. Should the sum exceed the whole (a file raised
// another candidate meanwhile) the file's weights are lowered, in order,
// until it fits: an operator's word is kept and nothing is over-committed.
func Effective(definition Split, overrides Overrides) Split {
	effective := definition
	effective.Candidates = append([]Backend(nil), definition.Candidates...)
	var taken Weight
	for i, c := range effective.Candidates {
		if o, ok := overrides[c.Name]; ok && (o.Off || !definition.Pinned) {
			effective.Candidates[i].Weight = o.Weight
			taken += o.Weight
		}
	}
	for i, c := range effective.Candidates {
		if o, ok := overrides[c.Name]; ok && (o.Off || !definition.Pinned) {
			continue
		}
		effective.Candidates[i].Weight = min(c.Weight, max(Whole-taken, 0))
		taken += effective.Candidates[i].Weight
	}
	return effective
}
