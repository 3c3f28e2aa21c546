package tally

import "slices"

// Merge adds what another tally counted, within the bounds of this one. The other
// stays as it is.
func (t *Tally) Merge(other *Tally) {
	s := other.State() // other may be t
	if !s.From.IsZero() {
		t.seen(s.From)
		t.seen(s.Until)
	}
	t.s.Coverage.add(s.Coverage)
	t.s.Folded.add(s.Folded)
	t.s.Latency.merge(&s.Latency)
	for _, r := range s.Reasons {
		t.reason(r.Verdict, r.Reason, r.Count, r.FirstAtByte)
	}
	t.mergeRules(s.Rules)
	t.mergeCombinations(&s, t.mergeSignatures(&s))
}

func (t *Tally) mergeRules(rules []Rule) {
	for _, theirs := range rules {
		i := slices.IndexFunc(t.s.Rules, func(r Rule) bool { return r.Text == theirs.Text })
		if i >= 0 {
			t.s.Rules[i].Matched = t.s.Rules[i].Matched || theirs.Matched
		}
	}
}

// mergeSignatures adds endpoints, fields and signatures, and says which signature
// of ours is which of theirs. Counts of several that share one rest add up, though
// one exchange may have been in more than one: rates of rests are at most 1.
func (t *Tally) mergeSignatures(s *State) (ours []int) {
	endpoints, fields := make([]int, len(s.Endpoints)), make([]int, len(s.Fields))
	for i, e := range s.Endpoints {
		endpoints[i] = t.endpoint(e.Name)
		to := &t.s.Endpoints[endpoints[i]]
		to.Compared += e.Compared
		to.Unanswered += e.Unanswered
		to.Uncompared += e.Uncompared
		to.Controls += e.Controls
		to.ControlsUnanswered += e.ControlsUnanswered
	}
	for i, f := range s.Fields {
		fields[i] = t.field(fieldKey{endpoints[f.Endpoint], f.Path, f.Kind, f.Excuse})
		to := &t.s.Fields[fields[i]]
		to.Differed += f.Differed
		to.ControlDiffered += f.ControlDiffered
	}
	samples := t.mergeSamples(s)
	for _, g := range s.Signatures {
		i := t.signature(signatureKey{fields[g.Field], g.Level, g.Expected, g.Got})
		to := &t.s.Signatures[i]
		to.Count += g.Count
		for _, id := range g.Samples {
			if mine, ok := samples[id]; ok && len(to.Samples) < t.options.Bounds.SamplesEach {
				to.Samples = append(to.Samples, mine)
			}
		}
		ours = append(ours, i)
	}
	return ours
}

// mergeSamples takes samples over under new ids, and says which.
func (t *Tally) mergeSamples(s *State) map[int]int {
	ids := make(map[int]int)
	for _, sample := range s.Samples {
		if len(t.s.Samples) >= t.options.Bounds.Samples {
			break
		}
		ids[sample.ID] = t.s.NextSample
		sample.ID = t.s.NextSample
		t.s.Samples = append(t.s.Samples, sample)
		t.s.NextSample++
	}
	return ids
}

func (t *Tally) mergeCombinations(s *State, ours []int) {
	for _, c := range s.Combinations {
		var signatures []int
		for _, g := range c.Signatures {
			if !slices.Contains(signatures, ours[g]) {
				signatures = append(signatures, ours[g])
			}
		}
		endpoint := t.s.Fields[t.s.Signatures[signatures[0]].Field].Endpoint
		t.combine(endpoint, signatures, c.Count, c.First, c.Last)
	}
}
