package tally

import (
	"slices"
	"time"

	"github.com/splitd/splitd/shadow"
)

// sample keeps an exchange when one of its signatures that no rule excuses has too
// few samples.
func (t *Tally) sample(x shadow.Exchange, differences []shadow.Difference, signatures []int, at time.Time) {
	full := len(t.s.Samples) >= t.options.Bounds.Samples
	if full && t.s.Coverage.Eligible < t.s.SpareFrom {
		return
	}
	var wanting []int
	for _, g := range signatures {
		s := t.s.Signatures[g]
		if t.s.Fields[s.Field].Excuse == "" && len(s.Samples) < t.options.Bounds.SamplesEach && (!full || !t.isNoise(s.Field)) {
			wanting = append(wanting, g)
		}
	}
	if len(wanting) == 0 || full && !t.spareSamples() {
		return
	}
	for _, g := range wanting {
		t.s.Signatures[g].Samples = append(t.s.Signatures[g].Samples, t.s.NextSample)
	}
	t.s.Samples = append(t.s.Samples, t.take(x, differences, at))
	t.s.NextSample++
}

// isNoise says whether what a field differs in is taken for noise now.
func (t *Tally) isNoise(field int) bool {
	return DefaultThresholds().Judge(t.s.CountsOf(t.s.Fields[field])).Finding == Masked
}

// spareEach is how many exchanges on samples to spare are looked for again, where
// there were none: to look takes as long as to count some hundreds.
const spareEach = 1000

// spareSamples lets go of the samples of nothing but noise, which no report shows,
// and says whether there were any.
func (t *Tally) spareSamples() bool {
	wanted := make(map[int]bool)
	noise := make([]bool, len(t.s.Fields))
	for i := range t.s.Fields {
		noise[i] = t.isNoise(i)
	}
	for _, g := range t.s.Signatures {
		for _, id := range g.Samples {
			wanted[id] = wanted[id] || !noise[g.Field]
		}
	}
	before := len(t.s.Samples)
	t.s.Samples = slices.DeleteFunc(t.s.Samples, func(s Sample) bool { return !wanted[s.ID] })
	if len(t.s.Samples) == before {
		t.s.SpareFrom = t.s.Coverage.Eligible + spareEach
		return false
	}
	for i := range t.s.Signatures {
		g := &t.s.Signatures[i]
		g.Samples = slices.DeleteFunc(g.Samples, func(id int) bool { return !wanted[id] })
	}
	return true
}

// take makes a sample of an exchange: masked, unless samples are full, and bounded.
func (t *Tally) take(x shadow.Exchange, differences []shadow.Difference, at time.Time) Sample {
	room := &room{full: t.options.Full, left: largestSample}
	s := Sample{
		ID: t.s.NextSample, At: at, Endpoint: clean(x.Endpoint, longestEndpoint), Masked: !t.options.Full,
		PrimaryTook: took(x.Primary), CandidateTook: took(x.Candidate),
	}
	for _, d := range differences {
		made := Difference{
			Path: clean(d.Path, longestPath), Kind: known(d.Kind), Level: min(d.Level, shadow.Decision), Excuse: clean(d.Excuse, longestRule),
			Expected: room.show(d.Expected, d.Plain), Got: room.show(d.Got, d.Plain),
		}
		if room.take(len(made.Path) + len(made.Expected) + len(made.Got)) {
			s.Differences = append(s.Differences, made)
		}
	}
	s.Request = room.values(x.Request, nil)
	s.Primary = room.values(x.Primary.Fields, differences)
	s.Candidate = room.values(x.Candidate.Fields, differences)
	s.Left = room.missed
	return s
}

// took is nil where a time is not known or makes no sense.
func took(r shadow.Reply) *time.Duration {
	if r.Asked.IsZero() || r.Last.Before(r.Asked) {
		return nil
	}
	return new(r.Last.Sub(r.Asked))
}

// room is what a sample may still take.
type room struct {
	full   bool
	left   int
	missed int
}

func (r *room) take(bytes int) bool {
	if bytes += 64; bytes > r.left { // 64: what the names around it take
		r.missed++
		return false
	}
	r.left -= bytes
	return true
}

func (r *room) show(value string, plain bool) string {
	return clean(shadow.Show(value, plain || r.full), longestSampled)
}

// values are those of fields; what differs first, so that it is in before the room
// ends.
func (r *room) values(fields []shadow.Field, differences []shadow.Difference) []Value {
	var taken []bool
	differs := func(path string) bool {
		return slices.ContainsFunc(differences, func(d shadow.Difference) bool { return d.Path == path })
	}
	made := make([]Value, len(fields))
	taken = make([]bool, len(fields))
	for _, now := range []bool{true, false} {
		for i, f := range fields {
			if differs(f.Path) != now {
				continue
			}
			made[i] = Value{clean(f.Path, longestPath), r.show(f.Value, f.Plain)}
			taken[i] = r.take(len(made[i].Path) + len(made[i].Value))
		}
	}
	var values []Value
	for i, v := range made {
		if taken[i] {
			values = append(values, v)
		}
	}
	return values
}
