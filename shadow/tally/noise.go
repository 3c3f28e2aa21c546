package tally

import (
	"fmt"
	"math"

	"github.com/splitd/splitd/shadow"
)

// A Finding is what a field's differences are taken for.
type Finding string

// The findings.
const (
	Reported Finding = "reported" // the candidate differs
	Suspect  Finding = "suspect"  // too few to say
	Masked   Finding = "masked"   // it differs by itself, or a rule says that it may
)

// Thresholds are what it takes to report a difference.
type Thresholds struct {
	// Effect is how much more often the candidate must differ from the primary than
	// the primary from itself: a share from 0 to 1.
	Effect float64
	// Least is how many exchanges must differ.
	Least int64
}

// DefaultThresholds reports from 0.1 % and three exchanges on.
func DefaultThresholds() Thresholds { return Thresholds{Effect: 0.001, Least: 3} }

// Counts are what a field is judged by: how many exchanges of how many differed,
// and the same of A/A.
type Counts struct {
	Differed, Exchanges       int64
	ControlDiffered, Controls int64
	Excuse                    string
}

// CountsOf are those of a field of this state. That the candidate does not answer is
// never noise, whatever was counted of controls.
func (s *State) CountsOf(f Field) Counts {
	e := s.Endpoints[f.Endpoint]
	c := Counts{Differed: f.Differed, Exchanges: e.Compared, ControlDiffered: f.ControlDiffered, Controls: e.Controls, Excuse: f.Excuse}
	if f.Kind == shadow.Unavailable {
		c.Exchanges += e.Unanswered
		c.ControlDiffered, c.Controls = 0, 0
	}
	return c
}

// Judgement is a finding with its evidence.
type Judgement struct {
	Finding Finding
	// Rate is how often the candidate differs, Lower the 95 % lower bound of that less
	// the rate of A/A. Shares from 0 to 1; Lower may be negative.
	Rate, Lower float64
	// Why says it in words where the finding is not Reported.
	Why string
}

// Judge says what the differences of a field are.
func (t Thresholds) Judge(c Counts) Judgement {
	j := Judgement{Finding: Reported, Rate: rate(c.Differed, c.Exchanges), Lower: LowerBound(c)}
	lower, _ := Wilson(c.Differed, c.Exchanges)
	own := rate(c.ControlDiffered, c.Controls)
	_, upper := Wilson(c.ControlDiffered, c.Controls)
	// Noise explains it when either rate may well be the other's.
	explained := c.ControlDiffered > 0 && (j.Rate <= upper || lower <= own)
	switch {
	case c.Excuse != "":
		j.Finding, j.Why = Masked, fmt.Sprintf("ignored: rule %q", c.Excuse)
	case c.Differed >= t.Least && j.Lower > t.Effect:
	case explained:
		j.Finding = Masked
		j.Why = fmt.Sprintf("learnt: differs from itself in %s of %d", percent(own), c.Controls)
	case c.Differed < t.Least:
		j.Finding, j.Why = Suspect, fmt.Sprintf("differs in %d of %d, %d would be reported", c.Differed, c.Exchanges, t.Least)
	case c.ControlDiffered > 0:
		j.Finding = Suspect
		j.Why = fmt.Sprintf("differs in %s, and from itself in %d of %d: more of both would tell", percent(j.Rate), c.ControlDiffered, c.Controls)
	default:
		j.Finding = Suspect
		j.Why = fmt.Sprintf("differs in %d of %d: it may be as rare as %s", c.Differed, c.Exchanges, percent(max(j.Lower, 0)))
	}
	return j
}

// LowerBound is the 95 % lower bound of the rate against the candidate less the
// rate of the primary against itself. Where A/A has never seen the field differ its
// rate is taken to be 0: without that, the few exchanges of A/A would hide every
// rare difference, and noise is a claim that wants evidence of its own. As soon as
// there is some, it is Newcombe's interval of the difference of two proportions
// (Statistics in Medicine 17, 873-890, 1998, method 10).
func LowerBound(c Counts) float64 {
	lower, _ := Wilson(c.Differed, c.Exchanges)
	if c.ControlDiffered == 0 {
		return lower
	}
	_, upper := Wilson(c.ControlDiffered, c.Controls)
	here, control := rate(c.Differed, c.Exchanges), rate(c.ControlDiffered, c.Controls)
	return here - control - math.Hypot(here-lower, upper-control)
}

// z is the quantile of the normal distribution that leaves 2.5 % on each side.
const z = 1.959963984540054

// Wilson is the 95 % score interval of a proportion (Wilson, JASA 22, 209-212,
// 1927). Of nothing it is everything.
func Wilson(k, n int64) (lower, upper float64) {
	if n <= 0 {
		return 0, 1
	}
	size, p := float64(n), rate(k, n)
	middle := p + z*z/(2*size)
	half := z * math.Sqrt(p*(1-p)/size+z*z/(4*size*size))
	all := 1 + z*z/size
	return max(0, (middle-half)/all), min(1, (middle+half)/all)
}

// rate is at most 1: exchanges of a rest may differ in several of its fields.
func rate(k, n int64) float64 {
	if n <= 0 {
		return 0
	}
	return min(1, float64(k)/float64(n))
}

// percent writes a share with the digits that matter: "98 %", "0.426 %".
func percent(share float64) string { return fmt.Sprintf("%.3g %%", share*100) }
