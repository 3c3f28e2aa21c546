package shadow

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
)

// A Predicate is what a rule excuses.
type Predicate string

// The predicates.
const (
	Anything  Predicate = "ignore"    // whatever differs
	AsSet     Predicate = "set"       // order and repetition
	ShapeOnly Predicate = "shape"     // another value of the same class
	Tolerance Predicate = "tolerance" // a number or time (in seconds) near the primary's
	Superset  Predicate = "superset"  // what the candidate says beyond the primary
)

// An Ignore is a rule that excuses differences: a user's, or one that a protocol
// has built in.
type Ignore struct {
	// Endpoint and Path are patterns in which * stands for any text, also none; an
	// empty Endpoint is every one.
	Endpoint, Path string
	Predicate      Predicate
	// Within is how far a number may be off with Tolerance; percent of the primary's
	// when Relative.
	Within   float64
	Relative bool
}

// ParseIgnore reads a rule as people write it:
//
//	ignore header x-build
//	shape GET /users/* | header etag
//	tolerance 5% GET /rates | body $.price
//	superset EHLO | keyword *
//
// The predicate comes first; where a " | " stands, the endpoint is before it.
func ParseIgnore(text string) (Ignore, error) {
	word, rest, _ := strings.Cut(strings.TrimSpace(text), " ")
	rule := Ignore{Predicate: Predicate(word)}
	if !slices.Contains(predicates(), rule.Predicate) {
		return Ignore{}, fmt.Errorf("read ignore rule %q: %q is no predicate: begin with one of ignore, set, shape, tolerance N, superset", text, word)
	}
	if rule.Predicate == Tolerance {
		var err error
		word, rest, _ = strings.Cut(strings.TrimSpace(rest), " ")
		if rule.Within, rule.Relative, err = parseWithin(word); err != nil {
			return Ignore{}, fmt.Errorf("read ignore rule %q: %w", text, err)
		}
	}
	rule.Path = strings.TrimSpace(rest)
	if endpoint, path, ok := strings.Cut(rest+" ", " | "); ok {
		rule.Endpoint, rule.Path = strings.TrimSpace(endpoint), strings.TrimSpace(path)
	}
	if rule.Endpoint == "*" {
		rule.Endpoint = ""
	}
	if rule.Path == "" {
		return Ignore{}, fmt.Errorf("read ignore rule %q: the path is missing: write %s PATH, or %[2]s ENDPOINT | PATH, with * for any text", text, rule.Predicate)
	}
	return rule, nil
}

func predicates() []Predicate { return []Predicate{Anything, AsSet, ShapeOnly, Tolerance, Superset} }

func parseWithin(word string) (within float64, relative bool, err error) {
	digits, relative := strings.CutSuffix(word, "%")
	within, err = strconv.ParseFloat(digits, 64)
	switch {
	case err != nil:
		return 0, false, fmt.Errorf("%q is no tolerance: write a number such as 0.5, or a share such as 5%%", word)
	case math.IsNaN(within) || math.IsInf(within, 0) || within < 0:
		return 0, false, errors.New("a tolerance is a number from 0 on")
	}
	return within, relative, nil
}

// String writes the rule so that ParseIgnore reads it back.
func (i Ignore) String() string {
	var b strings.Builder
	b.WriteString(string(i.Predicate))
	if i.Predicate == Tolerance {
		b.WriteString(" " + strconv.FormatFloat(i.Within, 'g', -1, 64))
		if i.Relative {
			b.WriteByte('%')
		}
	}
	switch {
	case i.Endpoint != "":
		b.WriteString(" " + i.Endpoint + " |")
	case strings.Contains(i.Path, " | "):
		b.WriteString(" * |")
	}
	b.WriteString(" " + i.Path)
	return b.String()
}

// Applies says whether the rule is about this path of this endpoint.
func (i Ignore) Applies(endpoint, path string) bool {
	return (i.Endpoint == "" || like(i.Endpoint, endpoint)) && like(i.Path, path)
}

// MayMatch says whether the path of a rule matches any of these; one that ends in a
// space, or in a sign such as $, stands for all that begin so.
func (i Ignore) MayMatch(paths ...string) bool {
	literal, _, open := strings.Cut(i.Path, "*")
	return slices.ContainsFunc(paths, func(path string) bool {
		if last := path[len(path)-1]; last >= 'a' && last <= 'z' {
			return like(i.Path, path)
		}
		return strings.HasPrefix(literal, path) || open && strings.HasPrefix(path, literal)
	})
}

// For is those of the rules that are about an endpoint.
func For(rules []Ignore, endpoint string) []Ignore {
	var some []Ignore
	for _, rule := range rules {
		if rule.Endpoint == "" || like(rule.Endpoint, endpoint) {
			some = append(some, rule)
		}
	}
	return some
}

func forPath(rules []Ignore, path string) []Ignore {
	var some []Ignore
	for _, rule := range rules {
		if like(rule.Path, path) {
			some = append(some, rule)
		}
	}
	return some
}

// near says whether two numbers are as near as the rule wants.
func (i Ignore) near(expected, got string) bool {
	a, ok := number(expected)
	b, also := number(got)
	if !ok || !also {
		return false
	}
	within := i.Within
	if i.Relative {
		within *= math.Abs(a) / 100
	}
	return math.Abs(a-b) <= within
}

// like matches a pattern in which * is any text. It takes time in proportion to
// the product of both lengths at most.
func like(pattern, text string) bool {
	star, mark := -1, 0 // where to go on when what follows the last * fails
	p, t := 0, 0
	for t < len(text) {
		switch {
		case p < len(pattern) && pattern[p] == '*':
			star, mark = p, t
			p++
		case p < len(pattern) && pattern[p] == text[t]:
			p++
			t++
		case star >= 0:
			mark++
			p, t = star+1, mark
		default:
			return false
		}
	}
	return strings.Trim(pattern[p:], "*") == ""
}
