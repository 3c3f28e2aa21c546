package report

import (
	"fmt"
	"slices"
	"strings"

	"github.com/splitd/splitd/shadow"
	"github.com/splitd/splitd/shadow/tally"
)

// verdict is the report in a word. It says that nothing differs only where nothing
// does that is not known to be noise, enough was compared to say so, and nothing may
// hide a candidate's fault.
func verdict(r Report, o Options) Verdict {
	switch {
	case len(r.Differences) > 0:
		return Differs
	case len(r.Suspects) > 0, r.Doubt != "", r.Cover.Compared < max(1, o.MinCompared):
		return Undecided
	default:
		return Same
	}
}

// asked is how many exchanges the candidate was to answer, and in how many of them
// it did otherwise or not at all.
func asked(r Report) (wrong, of int64) {
	return r.Exchanges.Mismatch + r.Cover.CandidateError, r.Cover.Compared + r.Cover.CandidateError
}

// summary is the sentence for people.
func summary(r Report, o Options) string {
	var b strings.Builder
	wrong, of := asked(r)
	candidate, primary := orElse(r.Candidate, "the candidate"), orElse(r.Primary, "the primary")
	switch {
	case r.Verdict == Differs && r.Exchanges.Mismatch == 0:
		d := r.Differences[0]
		fmt.Fprintf(&b, "%s did not answer %d of %d exchanges (%s), first of all %s: %s.", candidate, wrong, of, percent(share(wrong, of)), d.Endpoint, change(d))
	case r.Verdict == Differs:
		d := r.Differences[0]
		fmt.Fprintf(&b, "%s answers otherwise than %s in %d of %d exchanges (%s), first of all %s %s: %s.", candidate, primary, wrong, of, percent(share(wrong, of)), d.Endpoint, d.Field, change(d))
	case r.Cover.Compared == 0 && of == 0:
		b.WriteString("nothing has been compared yet.")
	case len(r.Suspects) > 0:
		fmt.Fprintf(&b, "%d of %d exchanges differ, too few to tell from chance: let it run on.", wrong, of)
	case r.Doubt != "":
		fmt.Fprintf(&b, "nothing else than noise differs in %d exchanges, and that is not enough to call it the same.", of)
	default:
		_, upper := tally.Wilson(wrong, of)
		fmt.Fprintf(&b, "%s answers as %s in all of %d exchanges but for known noise: with 95 %% certainty fewer than %s differ.", candidate, primary, of, percent(upper))
		if r.Verdict == Undecided {
			fmt.Fprintf(&b, " That is too few to call it the same: it takes %d.", o.MinCompared)
		}
	}
	if r.Doubt != "" {
		b.WriteString(" " + capital(r.Doubt))
	}
	if r.Untold != "" {
		b.WriteString(" " + r.Untold)
	}
	if r.Exchanges.Mismatch == 0 && r.Cover.Compared == 0 && len(r.Differences) > 0 {
		b.WriteString(" It has answered nothing yet: see that its port is the right one, and expects what it gets first (identity: a PROXY header or none")
		if slices.ContainsFunc(r.Differences, func(d Difference) bool { return d.Endpoint == shadow.Handshaken }) {
			b.WriteString("; TLS), and that its certificate is one that shadow.tls.to_candidate takes.")
		} else {
			b.WriteString(").")
		}
	}
	if missed := r.Cover.Eligible - of; missed > 0 {
		fmt.Fprintf(&b, " %s of what was seen was not compared%s.", percent(share(missed, r.Cover.Eligible)), aboveAll(r))
	}
	b.WriteString(unnamed(r))
	if r.Away != "" {
		fmt.Fprintf(&b, " This is what was saved last, of some time ago: %s.", r.Away)
	}
	if wrong := r.Unaccounted(); wrong != "" {
		b.WriteString(" Do not rely on this: " + wrong + ".")
	}
	return b.String()
}

// aboveAll names the most frequent reason why exchanges were not compared, unless the doubt
// has; those that a candidate did not answer count as compared.
func aboveAll(r Report) string {
	most := mostFrequent(r.NotCompared, func(r tally.Reason) bool { return r.Verdict != shadow.CandidateError })
	if most.Count == 0 || strings.Contains(r.Doubt, most.Reason) {
		return ""
	}
	return ", above all: " + most.Reason
}

// Unaccounted says which sum of the report is wrong, which is a fault of splitd; ""
// when all are right.
func (r Report) Unaccounted() string {
	const fault = "that is a fault of splitd: please report it, and begin anew with `splitctl report --reset`"
	found := r.Exchanges.Match + r.Exchanges.Mismatch + r.Exchanges.Noise
	switch c := r.Cover; {
	case !c.AddsUp():
		return fmt.Sprintf("the parts of coverage do not add up to the %d exchanges that were eligible: %s", c.Eligible, fault)
	case found != c.Compared:
		return fmt.Sprintf("%d exchanges were compared, and match, mismatch and noise are %d: %s", c.Compared, found, fault)
	}
	return ""
}

// change says in words what became of what.
func change(d Difference) string {
	switch {
	case d.Kind == shadow.Unavailable && d.Got != "":
		return d.Got // why there is none
	case d.Expected == "" && d.Got == "":
		return string(d.Kind)
	case d.Expected == "":
		return d.Got + " is extra"
	case d.Got == "":
		return d.Expected + " is missing"
	case d.Expected == d.Got:
		return "another " + d.Got
	default:
		return d.Expected + " became " + d.Got
	}
}

func orElse(text, otherwise string) string {
	if text == "" {
		return otherwise
	}
	return text
}

func percent(share float64) string {
	if share >= 0.9995 && share < 1 {
		return "99.9 %" // never all, unless it is
	}
	return fmt.Sprintf("%.3g %%", share*100)
}

// Limits are what a pipeline lets pass. Zero is none: nothing is decided.
type Limits struct {
	// MaxMismatch is the largest share of exchanges that the candidate may answer
	// otherwise than the primary, or not at all.
	MaxMismatch float64
	// MinCompared is how many exchanges must have been compared.
	MinCompared int64
}

// A Decision is what a pipeline does with a report.
type Decision struct {
	// ExitCode is 0 within the limits, 1 beyond them, and 6 when too little was
	// compared to say, or there is a doubt: a human is needed.
	ExitCode int
	Why      string
}

// The exit codes of decisions, which are the commands'.
const (
	exitWithin = 0
	exitBeyond = 1
	exitHeld   = 6
)

// Decide says whether a report is within the limits. Before enough was compared it
// is beyond them only where what is still to come could not undo that. A report
// whose sums are wrong decides nothing.
func (l Limits) Decide(r Report) Decision {
	wrong, of := asked(r)
	if fault := r.Unaccounted(); fault != "" {
		return Decision{exitHeld, fault}
	}
	switch rate := share(wrong, of); {
	case rate > l.MaxMismatch && r.Cover.Compared >= l.MinCompared, wrong > 0 && float64(wrong) > l.MaxMismatch*float64(max(of, l.MinCompared)):
		return Decision{exitBeyond, fmt.Sprintf("%d of %d exchanges (%s) differ, at most %s may", wrong, of, percent(rate), percent(l.MaxMismatch))}
	case r.Doubt != "":
		return Decision{exitHeld, r.Doubt}
	case r.Cover.Compared < l.MinCompared:
		return Decision{exitHeld, fmt.Sprintf("%d exchanges were compared, %d are needed: let it run on", r.Cover.Compared, l.MinCompared)}
	default:
		return Decision{exitWithin, fmt.Sprintf("%d of %d exchanges (%s) differ, %s may", wrong, of, percent(rate), percent(l.MaxMismatch))}
	}
}
