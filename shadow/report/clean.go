package report

import (
	"slices"
	"strings"

	"github.com/splitd/splitd/shadow"
	"github.com/splitd/splitd/shadow/tally"
)

// What one text of a report takes, in bytes, and what one of several sentences does.
const (
	longest          = 600
	longestSentences = 4096
)

func clean(text string) string { return shadow.Clean(text, longest) }

// cleaned is the report without anything that writes to a terminal or is no UTF-8,
// and with no list that is null. Reports come over sockets and out of files too.
func cleaned(r Report) Report {
	for _, text := range []*string{&r.APIVersion, &r.Kind, &r.Split, &r.Protocol, &r.Primary, &r.Candidate, &r.Rule, &r.NeverCompared, &r.Away, &r.Untold} {
		*text = clean(*text)
	}
	for _, text := range []*string{&r.Summary, &r.Doubt} {
		*text = shadow.Clean(*text, longestSentences)
	}
	r.Verdict = Verdict(clean(string(r.Verdict)))
	r.Differences, r.Suspects = cleanDifferences(r.Differences), cleanDifferences(r.Suspects)
	r.Masked = listOf(r.Masked)
	for i, m := range r.Masked {
		r.Masked[i] = Mask{clean(m.Endpoint), clean(m.Field), shadow.Kind(clean(string(m.Kind))), clean(m.Why), m.Count}
	}
	r.NotCompared = listOf(r.NotCompared)
	for i, n := range r.NotCompared {
		r.NotCompared[i] = tally.Reason{Verdict: shadow.Verdict(clean(string(n.Verdict))), Reason: clean(n.Reason), Count: n.Count, FirstAtByte: n.FirstAtByte}
	}
	r.UnusedRules = cleanAll(r.UnusedRules)
	r.Endpoints = listOf(r.Endpoints)
	for i := range r.Endpoints {
		r.Endpoints[i].Name = clean(r.Endpoints[i].Name)
	}
	r.Samples = listOf(r.Samples)
	for i, s := range r.Samples {
		r.Samples[i] = cleanSample(s)
	}
	return r
}

// listOf is a copy that is never nil: what is null in JSON is not known, and an
// empty list is.
func listOf[T any](list []T) []T { return append(make([]T, 0, len(list)), list...) }

func cleanAll(texts []string) []string {
	texts = listOf(texts)
	for i, t := range texts {
		texts[i] = clean(t)
	}
	return texts
}

func cleanDifferences(list []Difference) []Difference {
	list = listOf(list)
	for i := range list {
		d := &list[i]
		for _, text := range []*string{&d.Protocol, &d.Endpoint, &d.Field, &d.Level, &d.Expected, &d.Got, &d.Why} {
			*text = clean(*text)
		}
		d.Kind = shadow.Kind(clean(string(d.Kind)))
		d.Also, d.Samples = cleanAll(d.Also), listOf(d.Samples)
	}
	return list
}

func cleanSample(s tally.Sample) tally.Sample {
	s.Endpoint = clean(s.Endpoint)
	s.Request, s.Primary, s.Candidate = cleanValues(s.Request), cleanValues(s.Primary), cleanValues(s.Candidate)
	s.Differences = listOf(s.Differences)
	for i := range s.Differences {
		d := &s.Differences[i]
		for _, text := range []*string{&d.Path, &d.Expected, &d.Got, &d.Excuse} {
			*text = clean(*text)
		}
		d.Kind, d.Level = shadow.Kind(clean(string(d.Kind))), min(d.Level, shadow.Decision)
	}
	return s
}

func cleanValues(values []tally.Value) []tally.Value {
	values = listOf(values)
	for i, v := range values {
		values[i] = tally.Value{Path: clean(v.Path), Value: clean(v.Value)}
	}
	return values
}

// short cuts text for a column, at most so many runes.
func short(text string, most int) string {
	if runes := []rune(text); len(runes) > most {
		return strings.TrimRight(string(runes[:most-1]), " ") + "…"
	}
	return text
}

// sampleOf finds a sample.
func sampleOf(r Report, id int) (tally.Sample, bool) {
	i := slices.IndexFunc(r.Samples, func(s tally.Sample) bool { return s.ID == id })
	if i < 0 {
		return tally.Sample{}, false
	}
	return r.Samples[i], true
}
