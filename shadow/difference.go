package shadow

import (
	"cmp"
	"slices"
)

// A Kind is in what way a candidate's reply differs.
type Kind string

// The kinds. Noise is learnt of each by itself, so a value that differs by itself
// does not hide one of another class, or one that is missing.
const (
	Missing     Kind = "missing"      // the primary says it, the candidate does not
	Extra       Kind = "extra"        // the candidate says it, the primary does not
	Changed     Kind = "value"        // another value of the same class
	Retyped     Kind = "class"        // a value of another class
	Reordered   Kind = "order"        // the same values in another order
	Unavailable Kind = "availability" // the candidate does not reply at all
)

// Kinds lists all of them, the heaviest first.
func Kinds() []Kind {
	return []Kind{Unavailable, Missing, Retyped, Changed, Extra, Reordered}
}

// A Difference is one thing in which the candidate's reply is not the primary's.
type Difference struct {
	Path  string
	Kind  Kind
	Level Level
	// Expected is what the primary says, Got what the candidate says; several values
	// are joined, and empty is nothing.
	Expected, Got string
	// Plain says that both may be shown: see [Field].
	Plain bool
	// Excuse is the rule that says that this difference does not matter, empty when
	// none does. It is kept, since what is not shown is to be listed.
	Excuse string
}

// Differences is what an exchange differs in, and what a candidate that does not
// answer comes to. Exchanges that were not compared for another reason differ in
// nothing.
func Differences(x Exchange, ignore []Ignore) []Difference {
	if x.Verdict == "" {
		return Compare(x.Primary, x.Candidate, For(ignore, x.Endpoint))
	}
	if x.Verdict == CandidateError {
		return []Difference{{
			Path: "reply", Kind: Unavailable, Level: Decision,
			Expected: "a reply", Got: MaskNumbers(cmp.Or(x.Reason, "none")), Plain: true,
		}}
	}
	return nil
}

// SortDifferences orders by what counts: what no rule excuses, then the heaviest
// level, then the heaviest kind. The rest of the order only has to be one.
func SortDifferences(all []Difference) {
	kinds := Kinds()
	slices.SortFunc(all, func(a, b Difference) int {
		return cmp.Or(
			-compareBools(a.Excuse == "", b.Excuse == ""),
			cmp.Compare(b.Level, a.Level),
			cmp.Compare(slices.Index(kinds, a.Kind), slices.Index(kinds, b.Kind)),
			cmp.Compare(a.Path, b.Path),
			cmp.Compare(a.Expected, b.Expected),
			cmp.Compare(a.Got, b.Got),
			cmp.Compare(a.Excuse, b.Excuse),
		)
	})
}

func compareBools(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return 1
	default:
		return -1
	}
}
