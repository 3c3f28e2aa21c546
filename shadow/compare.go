package shadow

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// Compare says in what the candidate's reply differs from the primary's, the
// heaviest first. The rules are those of the exchange's endpoint (see [For]); what
// they excuse is in the result with its Excuse, behind all else. Neither reply is
// changed.
//
// Fields of one path are a list. What only one of the two has is Missing or Extra;
// what is left is compared in its order, and the same values in another order are
// lighter by one level. However many items of a list differ, a path has one
// difference of each kind: a list of a hundred bad items is one bad list.
func Compare(primary, candidate Reply, ignore []Ignore) []Difference {
	wants, gots := byPath(primary.Fields), byPath(candidate.Fields)
	var found []Difference
	for path, want := range wants {
		found = append(found, comparePath(path, want, gots[path], ignore)...)
	}
	for path, got := range gots {
		if wants[path] == nil {
			found = append(found, comparePath(path, nil, got, ignore)...)
		}
	}
	SortDifferences(found)
	return found
}

func byPath(fields []Field) map[string][]Field {
	paths := make(map[string][]Field, len(fields))
	for _, f := range fields {
		paths[f.Path] = append(paths[f.Path], f)
	}
	return paths
}

// comparePath compares the lists of one path, one of which may be empty.
func comparePath(path string, want, got []Field, ignore []Ignore) []Difference {
	if slices.EqualFunc(want, got, func(a, b Field) bool { return a.means() == b.means() }) {
		return nil
	}
	expected, gotten := valuesOf(want), valuesOf(got)
	c := comparison{rules: forPath(ignore, path), like: Difference{Path: path, Plain: true}}
	for _, f := range slices.Concat(want, got) {
		c.like.Level = max(c.like.Level, f.Level)
		c.like.Plain = c.like.Plain && f.Plain
		c.set = c.set || f.Set
	}
	lost, gained := apart(want, got)
	if len(lost) == 0 && len(gained) == 0 {
		c.reordered(expected, gotten)
	} else {
		c.lists(lost, gained, expected, gotten)
	}
	return c.found
}

func valuesOf(fields []Field) []string {
	values := make([]string, len(fields))
	for i, f := range fields {
		values[i] = f.Value
	}
	return values
}

// apart is what each of two lists has that the other has not, in its order. What a
// list has twice, it has twice.
func apart(a, b []Field) (onlyA, onlyB []string) {
	return without(a, b), without(b, a)
}

func without(list, others []Field) []string {
	left := make(map[string]int, len(others))
	for _, f := range others {
		left[f.means()]++
	}
	var rest []string
	for _, f := range list {
		if left[f.means()] > 0 {
			left[f.means()]--
			continue
		}
		rest = append(rest, f.Value)
	}
	return rest
}

// means is what two values are the same by.
func (f Field) means() string {
	if f.Number {
		return strings.TrimSuffix(f.Value, ".0")
	}
	return f.Value
}

// A comparison collects what one path differs in.
type comparison struct {
	rules []Ignore
	set   bool
	like  Difference // with what all differences of the path have in common
	found []Difference
}

// reordered looks at lists that hold the same.
func (c *comparison) reordered(expected, gotten []string) {
	if c.set {
		return
	}
	d := c.like
	d.Kind, d.Expected, d.Got = Reordered, join(expected), join(gotten)
	if d.Level > Text {
		d.Level--
	}
	d.Excuse = c.excuse(func(rule Ignore) bool {
		switch rule.Predicate {
		case Anything, AsSet:
			return true
		case ShapeOnly:
			return slices.EqualFunc(expected, gotten, Alike)
		case Tolerance:
			return slices.EqualFunc(expected, gotten, rule.near)
		case Superset:
		}
		return false
	})
	c.found = append(c.found, d)
}

// lists looks at what each list has that the other has not.
func (c *comparison) lists(lost, gained, expected, gotten []string) {
	pairs, lost, gained := c.pair(lost, gained, len(expected) == 1 && len(gotten) == 1)
	for _, p := range pairs {
		c.changed(p)
	}
	c.alone(Missing, lost, gotten)
	c.alone(Extra, gained, expected)
}

type pair struct{ expected, got string }

// pair says which value became which. In lists the first that is lost became the
// first that is gained. In sets nothing becomes anything else, but one value of
// one; and what a rule takes for the same.
func (c *comparison) pair(lost, gained []string, single bool) (pairs []pair, lone, added []string) {
	switch {
	case single || !c.set && !c.has(AsSet) && !c.has(Superset):
		n := min(len(lost), len(gained))
		for i := range n {
			pairs = append(pairs, pair{lost[i], gained[i]})
		}
		return pairs, lost[n:], gained[n:]
	case c.has(ShapeOnly) || c.has(Tolerance):
		return c.join(sortByClass(lost), sortByClass(gained))
	default:
		return nil, slices.Sorted(slices.Values(lost)), slices.Sorted(slices.Values(gained))
	}
}

// join pairs those of two lists in the order of their classes that a rule excuses.
func (c *comparison) join(lost, gained []string) (pairs []pair, lone, added []string) {
	for len(lost) > 0 && len(gained) > 0 {
		p := pair{lost[0], gained[0]}
		switch {
		case c.excuse(p.isExcused) != "":
			pairs = append(pairs, p)
			lost, gained = lost[1:], gained[1:]
		case byClass(lost[0], gained[0]) < 0:
			lone, lost = append(lone, lost[0]), lost[1:]
		default:
			added, gained = append(added, gained[0]), gained[1:]
		}
	}
	return pairs, append(lone, lost...), append(added, gained...)
}

func sortByClass(values []string) []string { return slices.SortedFunc(slices.Values(values), byClass) }

func byClass(a, b string) int {
	left, _ := number(a)
	right, _ := number(b)
	return cmp.Or(cmp.Compare(ClassOf(a), ClassOf(b)), cmp.Compare(left, right), cmp.Compare(a, b))
}

func (p pair) isExcused(rule Ignore) bool {
	switch rule.Predicate {
	case Anything:
		return true
	case ShapeOnly:
		return Alike(p.expected, p.got)
	case Tolerance:
		return rule.near(p.expected, p.got)
	case AsSet, Superset:
	}
	return false
}

func (c *comparison) changed(p pair) {
	d := c.like
	d.Kind, d.Expected, d.Got = Changed, p.expected, p.got
	if !Alike(p.expected, p.got) {
		d.Kind = Retyped
	}
	d.Excuse = c.excuse(p.isExcused)
	c.add(d)
}

// alone adds the values that one list has and the other, whole, has not at all or
// not as often.
func (c *comparison) alone(kind Kind, values, whole []string) {
	excused := make(map[string][]string)
	for _, v := range values {
		by := c.excuse(func(rule Ignore) bool {
			switch rule.Predicate {
			case Anything:
				return true
			case AsSet:
				return slices.Contains(whole, v)
			case Superset:
				return kind == Extra
			case ShapeOnly, Tolerance:
			}
			return false
		})
		excused[by] = append(excused[by], v)
	}
	for by, values := range excused {
		d := c.like
		d.Kind, d.Excuse = kind, by
		if kind == Missing {
			d.Expected = join(values)
		} else {
			d.Got = join(values)
		}
		c.add(d)
	}
}

// add takes the first of each kind and excuse.
func (c *comparison) add(d Difference) {
	if !slices.ContainsFunc(c.found, func(o Difference) bool { return o.Kind == d.Kind && o.Excuse == d.Excuse }) {
		c.found = append(c.found, d)
	}
}

func (c *comparison) has(p Predicate) bool {
	return slices.ContainsFunc(c.rules, func(rule Ignore) bool { return rule.Predicate == p })
}

// excuse is the first rule that does, as text; empty when none does.
func (c *comparison) excuse(does func(Ignore) bool) string {
	for _, rule := range c.rules {
		if does(rule) {
			return rule.String()
		}
	}
	return ""
}

// joined is how many values of a list are written out.
const joined = 4

func join(values []string) string {
	if len(values) <= joined {
		return strings.Join(values, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(values[:joined], ", "), len(values)-joined)
}
