package tally

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"

	"github.com/splitd/splitd/shadow"
)

// largest is what Read takes, in bytes: several times what the default bounds come
// to, so that a damaged file costs no more than that.
const largest = 64 << 20

// Bytes writes the tally, for [Read].
func (t *Tally) Bytes() ([]byte, error) {
	text, err := json.Marshal(t.s)
	if err != nil {
		return nil, fmt.Errorf("write tally: %w", err)
	}
	return text, nil
}

// Read makes a tally of what Bytes wrote. Rules and bounds are those of the options:
// what is over a bound already stays. The bytes are from a disk and may be anything:
// what does not hang together is an error, and never a wrong sum.
func Read(text []byte, o Options) (*Tally, error) {
	t := New(o)
	if len(text) > largest {
		return nil, fmt.Errorf("read tally: %d bytes are more than the %d that one can have", len(text), largest)
	}
	var s State
	if err := json.Unmarshal(text, &s); err != nil {
		return nil, fmt.Errorf("read tally: %w", err)
	}
	if s.Version != version {
		return nil, fmt.Errorf("read tally: it is of version %d, and this program knows %d: begin anew with `splitctl report --reset`", s.Version, version)
	}
	if err := errors.Join(s.checkCounts(), s.checkLinks()); err != nil {
		return nil, fmt.Errorf("read tally: %w", err)
	}
	s.repair()
	if t.options.Protocol != "" {
		s.Protocol = t.options.Protocol
	}
	t.s = s
	t.takeRules()
	t.index = reindex(&t.s)
	return t, nil
}

// most is beyond what is counted in a life, and sums of two do not overflow.
const most = math.MaxInt64 / 1024

func (s *State) checkCounts() error {
	if !s.Coverage.AddsUp() || s.Coverage.Eligible > most {
		return fmt.Errorf("coverage %+v does not add up", s.Coverage)
	}
	var compared, unanswered int64
	bad := func(counts ...int64) bool {
		for _, n := range counts {
			if n < 0 || n > most {
				return true
			}
		}
		return false
	}
	for _, e := range s.Endpoints {
		if bad(e.Compared, e.Unanswered, e.Uncompared, e.Controls, e.ControlsUnanswered, compared, unanswered) {
			return fmt.Errorf("endpoint %q has a count that is none", e.Name)
		}
		compared += e.Compared
		unanswered += e.Unanswered
	}
	if compared != s.Coverage.Compared || unanswered != s.Coverage.CandidateError {
		return fmt.Errorf("endpoints have %d compared exchanges and %d without an answer, coverage has %d and %d", compared, unanswered, s.Coverage.Compared, s.Coverage.CandidateError)
	}
	var differed int64
	for _, c := range s.Combinations {
		if bad(c.Count, differed) {
			return errors.New("a combination has a count that is none")
		}
		differed += c.Count
	}
	if differed > compared+unanswered {
		return fmt.Errorf("%d exchanges differ, of %d", differed, compared+unanswered)
	}
	f, l := s.Folded, s.Latency
	if bad(f.Endpoints, f.Fields, f.Signatures, f.Combinations, f.Reasons, l.WarmUp, l.Unknown, l.Pairs) {
		return errors.New("a count of what was folded or timed is none")
	}
	for _, r := range s.Reasons {
		if bad(r.Count) {
			return fmt.Errorf("reason %q has a count that is none", r.Reason)
		}
	}
	for _, x := range s.Fields {
		if bad(x.Differed, x.ControlDiffered) {
			return fmt.Errorf("field %q has a count that is none", x.Path)
		}
	}
	for _, g := range s.Signatures {
		if bad(g.Count) {
			return errors.New("a signature has a count that is none")
		}
	}
	return nil
}

// checkLinks sees that every index leads somewhere.
func (s *State) checkLinks() error {
	outside := func(i, n int) bool { return i < 0 || i >= n }
	for _, f := range s.Fields {
		if outside(f.Endpoint, len(s.Endpoints)) {
			return fmt.Errorf("field %q is of endpoint %d, which is none", f.Path, f.Endpoint)
		}
	}
	for i, g := range s.Signatures {
		if outside(g.Field, len(s.Fields)) {
			return fmt.Errorf("signature %d is of field %d, which is none", i, g.Field)
		}
	}
	for i, c := range s.Combinations {
		if outside(c.Endpoint, len(s.Endpoints)) || len(c.Signatures) == 0 {
			return fmt.Errorf("combination %d is of endpoint %d and %d signatures", i, c.Endpoint, len(c.Signatures))
		}
		for _, g := range c.Signatures {
			if outside(g, len(s.Signatures)) || s.Fields[s.Signatures[g].Field].Endpoint != c.Endpoint {
				return fmt.Errorf("combination %d has signature %d, which is none of its endpoint", i, g)
			}
		}
	}
	return nil
}

// repair makes strings and numbers what Add would have made them.
func (s *State) repair() {
	s.Protocol = clean(s.Protocol, longestEndpoint)
	for i := range s.Endpoints {
		s.Endpoints[i].Name = clean(s.Endpoints[i].Name, longestEndpoint)
	}
	for i := range s.Fields {
		f := &s.Fields[i]
		f.Path, f.Kind, f.Excuse = clean(f.Path, longestPath), known(f.Kind), clean(f.Excuse, longestRule)
	}
	for i := range s.Signatures {
		g := &s.Signatures[i]
		g.Level = min(g.Level, shadow.Decision)
		longest := longestOf(s.Fields[g.Field].Kind)
		g.Expected, g.Got = clean(g.Expected, longest), clean(g.Got, longest)
	}
	for i := range s.Reasons {
		s.Reasons[i].Verdict = knownVerdict(s.Reasons[i].Verdict)
		s.Reasons[i].Reason = clean(s.Reasons[i].Reason, longestReason)
		if at := s.Reasons[i].FirstAtByte; at != nil && (*at < 0 || *at > most) {
			s.Reasons[i].FirstAtByte = nil
		}
	}
	for i := range s.Samples {
		s.Samples[i].repair()
		s.NextSample = max(s.NextSample, s.Samples[i].ID+1)
	}
	s.NextSample = max(s.NextSample, 1)
	s.SpareFrom = min(s.SpareFrom, s.Coverage.Eligible+spareEach)
	s.Latency = s.Latency.clone() // of sketches that were not there, empty ones
}

func (x *Sample) repair() {
	x.Endpoint = clean(x.Endpoint, longestEndpoint)
	for _, values := range [][]Value{x.Request, x.Primary, x.Candidate} {
		for i := range values {
			values[i] = Value{clean(values[i].Path, longestPath), clean(values[i].Value, longestSampled)}
		}
	}
	for i := range x.Differences {
		d := &x.Differences[i]
		d.Path, d.Kind, d.Level, d.Excuse = clean(d.Path, longestPath), known(d.Kind), min(d.Level, shadow.Decision), clean(d.Excuse, longestRule)
		d.Expected, d.Got = clean(d.Expected, longestSampled), clean(d.Got, longestSampled)
	}
}
