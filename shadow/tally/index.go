package tally

import (
	"encoding/binary"
	"strconv"
	"strings"

	"github.com/splitd/splitd/shadow"
)

// index finds what a tally has already. It is made of the state and never kept.
type index struct {
	endpoints    map[string]int
	fields       map[fieldKey]int
	signatures   map[signatureKey]int
	combinations map[string]int
	reasons      map[reasonKey]int
	// How many signatures a field has, and combinations an endpoint.
	signaturesOf   map[int]int
	combinationsOf map[int]int
}

type fieldKey struct {
	endpoint int
	path     string
	kind     shadow.Kind
	excuse   string
}

type signatureKey struct {
	field         int
	level         shadow.Level
	expected, got string
}

type reasonKey struct {
	verdict shadow.Verdict
	reason  string
}

func newIndex() index {
	return index{
		endpoints: make(map[string]int), fields: make(map[fieldKey]int), signatures: make(map[signatureKey]int),
		combinations: make(map[string]int), reasons: make(map[reasonKey]int),
		signaturesOf: make(map[int]int), combinationsOf: make(map[int]int),
	}
}

// reindex makes the index of a state.
func reindex(s *State) index {
	x := newIndex()
	for i, e := range s.Endpoints {
		x.endpoints[e.Name] = i
	}
	for i, f := range s.Fields {
		x.fields[fieldKey{f.Endpoint, f.Path, f.Kind, f.Excuse}] = i
	}
	for i, g := range s.Signatures {
		x.signatures[signatureKey{g.Field, g.Level, g.Expected, g.Got}] = i
		x.signaturesOf[g.Field]++
	}
	for i, c := range s.Combinations {
		x.combinations[combinationKey(c.Endpoint, c.Signatures)] = i
		x.combinationsOf[c.Endpoint]++
	}
	for i, r := range s.Reasons {
		x.reasons[reasonKey{r.Verdict, r.Reason}] = i
	}
	return x
}

func combinationKey(endpoint int, signatures []int) string {
	key := binary.AppendUvarint(nil, uint64(endpoint))
	for _, s := range signatures {
		key = binary.AppendUvarint(key, uint64(s))
	}
	return string(key)
}

func clean(text string, most int) string { return shadow.Clean(text, most) }

// endpoint is the index of an endpoint, or of the rest.
func (t *Tally) endpoint(name string) int {
	name = clean(name, longestEndpoint)
	if i, ok := t.index.endpoints[name]; ok {
		return i
	}
	if len(t.s.Endpoints) >= t.options.Bounds.Endpoints {
		t.s.Folded.Endpoints++
		name = OtherEndpoints
		if i, ok := t.index.endpoints[name]; ok {
			return i
		}
	}
	t.s.Endpoints = append(t.s.Endpoints, Endpoint{Name: name})
	t.index.endpoints[name] = len(t.s.Endpoints) - 1
	return len(t.s.Endpoints) - 1
}

// field is the index of a field, or of its endpoint's rest of this kind.
func (t *Tally) field(key fieldKey) int {
	key.path, key.kind, key.excuse = clean(key.path, longestPath), known(key.kind), clean(key.excuse, longestRule)
	if i, ok := t.index.fields[key]; ok {
		return i
	}
	if len(t.s.Fields) >= t.options.Bounds.Fields {
		t.s.Folded.Fields++
		key.path = OtherFields
		if key.excuse != "" {
			key.excuse = OtherRules
		}
		if i, ok := t.index.fields[key]; ok {
			return i
		}
	}
	t.s.Fields = append(t.s.Fields, Field{Endpoint: key.endpoint, Path: key.path, Kind: key.kind, Excuse: key.excuse})
	t.index.fields[key] = len(t.s.Fields) - 1
	return len(t.s.Fields) - 1
}

// known keeps the number of rests bounded.
func known(kind shadow.Kind) shadow.Kind {
	for _, k := range shadow.Kinds() {
		if k == kind {
			return k
		}
	}
	return shadow.Changed
}

// signature is the index of a signature, or of its field's rest of this level.
func (t *Tally) signature(key signatureKey) int {
	key.level = min(key.level, shadow.Decision)
	longest := longestOf(t.s.Fields[key.field].Kind)
	key.expected, key.got = clean(key.expected, longest), clean(key.got, longest)
	if i, ok := t.index.signatures[key]; ok {
		return i
	}
	if len(t.s.Signatures) >= t.options.Bounds.Signatures || t.index.signaturesOf[key.field] >= t.options.Bounds.SignaturesEach {
		t.s.Folded.Signatures++
		key.expected, key.got = OtherValues, OtherValues
		if i, ok := t.index.signatures[key]; ok {
			return i
		}
	}
	t.s.Signatures = append(t.s.Signatures, Signature{Field: key.field, Level: key.level, Expected: key.expected, Got: key.got})
	t.index.signatures[key] = len(t.s.Signatures) - 1
	t.index.signaturesOf[key.field]++
	return len(t.s.Signatures) - 1
}

// longestOf is how long a value may be of a field that differs in this way: what stands for a
// reply that has not come is a reason.
func longestOf(kind shadow.Kind) int {
	if kind == shadow.Unavailable {
		return longestReason
	}
	return longestValue
}

// combination is the index of a combination, or of the rest: its heaviest alone.
func (t *Tally) combination(endpoint int, signatures []int) int {
	key := combinationKey(endpoint, signatures)
	if i, ok := t.index.combinations[key]; ok {
		return i
	}
	if len(t.s.Combinations) >= t.options.Bounds.Combinations || t.index.combinationsOf[endpoint] >= t.options.Bounds.CombinationsEach {
		t.s.Folded.Combinations++
		signatures = signatures[:1:1]
		key = combinationKey(endpoint, signatures)
		if i, ok := t.index.combinations[key]; ok {
			return i
		}
	}
	t.s.Combinations = append(t.s.Combinations, Combination{Endpoint: endpoint, Signatures: signatures})
	t.index.combinations[key] = len(t.s.Combinations) - 1
	t.index.combinationsOf[endpoint]++
	return len(t.s.Combinations) - 1
}

// reason counts why exchanges were not compared; first is the byte at which the
// first of them was, nil where that is not known.
func (t *Tally) reason(verdict shadow.Verdict, text string, count int64, first *int64) {
	key := reasonKey{knownVerdict(verdict), clean(shadow.MaskNumbers(text), longestReason)}
	i, ok := t.index.reasons[key]
	if !ok && len(t.s.Reasons) >= mostReasons {
		t.s.Folded.Reasons += count
		key, first = reasonKey{"", OtherReasons}, nil // of which of them, nobody could say
		i, ok = t.index.reasons[key]
	}
	if !ok {
		i = len(t.s.Reasons)
		t.s.Reasons = append(t.s.Reasons, Reason{Verdict: key.verdict, Reason: key.reason})
		t.index.reasons[key] = i
	}
	to := &t.s.Reasons[i]
	to.Count += count
	if to.FirstAtByte == nil {
		to.FirstAtByte = first
	}
}

// byteIn is the first byte offset that a reason names, as drivers write it: "at byte
// 1234"; nil when it names none.
func byteIn(reason string) *int64 {
	const word = "byte "
	for rest := " " + reason; ; {
		_, after, found := strings.Cut(rest, " "+word)
		if !found {
			return nil
		}
		digits := after[:len(after)-len(strings.TrimLeft(after, "0123456789"))]
		if at, err := strconv.ParseInt(digits, 10, 64); err == nil && at <= most {
			return &at
		}
		rest = " " + after
	}
}

// knownVerdict takes for opaque what no verdict of an exchange is, as Coverage does.
func knownVerdict(v shadow.Verdict) shadow.Verdict {
	switch v {
	case shadow.Skipped, shadow.Truncated, shadow.Dropped, shadow.AfterDivergence, shadow.CandidateError, shadow.PrimaryError, "":
		return v
	case shadow.Opaque, shadow.Match, shadow.Mismatch, shadow.Noise:
		return shadow.Opaque
	default:
		return shadow.Opaque
	}
}

// takeRules takes up the rules in force. Those that were and are no more are
// forgotten.
func (t *Tally) takeRules() {
	matched := make(map[string]bool)
	for _, rule := range t.s.Rules {
		matched[rule.Text] = rule.Matched
	}
	t.s.Rules = nil
	for _, rule := range t.options.Ignore {
		text := rule.String()
		t.s.Rules = append(t.s.Rules, Rule{Text: text, Matched: matched[text]})
	}
}

// useRules notes which rules are about something. A rule that is costs nothing
// any more.
func (t *Tally) useRules(x shadow.Exchange) {
	for i := range t.s.Rules {
		rule := &t.s.Rules[i]
		if rule.Matched {
			continue
		}
		for _, f := range x.Primary.Fields {
			rule.Matched = rule.Matched || t.options.Ignore[i].Applies(x.Endpoint, f.Path)
		}
		for _, f := range x.Candidate.Fields {
			rule.Matched = rule.Matched || t.options.Ignore[i].Applies(x.Endpoint, f.Path)
		}
	}
}
