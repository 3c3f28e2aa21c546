package configs

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

const (
	scalarMax = 1024 // bytes of one value
	depthMax  = 32   // levels of lists and mappings
)

// value is a YAML node and its path. Its methods that read it report what is
// wrong and then answer false.
type value struct {
	spot
	node *yaml.Node
}

// rootValue returns the value of a whole text, after it has refused what YAML
// can do and a configuration may not: anchors, aliases, merge keys, tags and
// deep nesting. So no text can grow when it is read.
func rootValue(r *report, file string, root *yaml.Node) value {
	v := value{spot{report: r, file: file, line: root.Line, column: root.Column}, root}
	v.refuseMachinery(0)
	return v
}

func (v value) refuseMachinery(depth int) {
	if depth > depthMax {
		v.refuse("nested deeper than %d levels", depthMax)
		return
	}
	switch {
	case v.node.Kind == yaml.AliasNode:
		v.refuse("aliases (*%s) are not accepted: write the value out", v.node.Value)
		return
	case v.node.Anchor != "":
		v.refuse("anchors (&%s) are not accepted: write the value out where it is needed", v.node.Anchor)
	case v.node.Style&yaml.TaggedStyle != 0:
		v.refuse("tags (%s) are not accepted: remove it", v.node.Tag)
	}
	for i, child := range v.node.Content {
		c := v.index(i, child)
		if v.node.Kind == yaml.MappingNode {
			key := v.node.Content[i&^1]
			c = v.key(key, child)
			if isMerge(key) {
				if i%2 == 0 {
					c.refuse("merge keys (<<) are not accepted: write the keys out")
				}
				continue
			}
		}
		c.refuseMachinery(depth + 1)
	}
}

func isMerge(key *yaml.Node) bool { return key.Kind == yaml.ScalarNode && key.ShortTag() == "!!merge" }

func (v value) index(i int, node *yaml.Node) value {
	return v.child(fmt.Sprintf("%s[%d]", v.path, i), node)
}

func (v value) key(key, node *yaml.Node) value {
	path := keyText(key)
	if v.path != "" {
		path = v.path + "." + path
	}
	c := v.child(path, node)
	if isNull(node) && node.Value == "" { // where nothing is written, point to the key
		c.line, c.column = key.Line, key.Column
	}
	return c
}

func (v value) child(path string, node *yaml.Node) value {
	return value{spot{v.report, v.file, node.Line, node.Column, path}, node}
}

// keyText writes a key so that it cannot break a path.
func keyText(key *yaml.Node) string {
	strange := func(r rune) bool {
		return !strings.ContainsRune("_-/", r) && (r < '0' || r > '9') && (r < 'A' || r > 'Z') && (r < 'a' || r > 'z')
	}
	if key.Kind != yaml.ScalarNode || key.Value != "" && len(key.Value) <= 64 && !strings.ContainsFunc(key.Value, strange) {
		return key.Value
	}
	return strconv.QuoteToASCII(key.Value[:min(len(key.Value), 64)])
}

func isNull(node *yaml.Node) bool {
	return node.Kind == yaml.ScalarNode && node.ShortTag() == "!!null"
}

// refused says whether the value is one that refuseMachinery has reported.
func (v value) refused() bool {
	return v.node.Kind == yaml.AliasNode || v.node.Style&yaml.TaggedStyle != 0
}

// kind says what a value is, for people.
func (v value) kind() string {
	switch tag := v.node.ShortTag(); {
	case v.node.Kind == yaml.MappingNode:
		return "a mapping"
	case v.node.Kind == yaml.SequenceNode:
		return "a list"
	case tag == "!!null":
		return "empty"
	case tag == "!!bool":
		return "true or false"
	case tag == "!!int", tag == "!!float":
		return "a number"
	case tag == "!!timestamp":
		return "a date"
	}
	return "text"
}

func (v value) wrong(want string) {
	if !v.refused() {
		v.refuse("is %s, must be %s", v.kind(), want)
	}
}

// list returns the items of a list; an empty value is an empty list.
func (v value) list() ([]value, bool) {
	if isNull(v.node) && !v.refused() {
		return nil, true
	}
	if v.node.Kind != yaml.SequenceNode || v.refused() {
		v.wrong("a list")
		return nil, false
	}
	items := make([]value, len(v.node.Content))
	for i, node := range v.node.Content {
		items[i] = v.index(i, node)
	}
	return items, true
}

// scalar returns what is written, whatever its type; want tells people what
// should stand there.
func (v value) scalar(want string) (string, bool) {
	switch {
	case v.refused():
		return "", false
	case v.node.Kind == yaml.MappingNode && want == "text" && strings.HasSuffix(v.path, "]"):
		v.wrong("text: put it in quotes, if it is the \": \" in it that makes a mapping")
		return "", false
	case v.node.Kind != yaml.ScalarNode || isNull(v.node):
		v.wrong(want)
		return "", false
	case len(v.node.Value) > scalarMax:
		v.refuse("value has %d bytes, over %d", len(v.node.Value), scalarMax)
		return "", false
	}
	return v.node.Value, true
}

// text returns a text. A number or a date must be quoted to be one.
func (v value) text() (string, bool) {
	return v.checkedText(func(string) error { return nil })
}

// checkedText is a text that check accepts. Whoever is told to write quotes has
// nothing else to mend.
func (v value) checkedText(check func(string) error) (string, bool) {
	s, ok := v.scalar("text")
	if !ok {
		return "", false
	}
	if err := check(s); err != nil {
		v.refuse("%s", err)
		return "", false
	}
	if v.node.ShortTag() != "!!str" {
		v.refuse("is %s, must be text: write %q in quotes", v.kind(), s)
		return "", false
	}
	return s, ok
}

func (v value) boolean() (value, ok bool) {
	s, ok := v.scalar("true or false")
	if !ok {
		return false, false
	}
	if v.node.ShortTag() != "!!bool" {
		v.refuse("%q is not true or false", s)
		return false, false
	}
	return strings.EqualFold(s, "true"), true
}

func (v value) duration() (time.Duration, bool) {
	s, ok := v.scalar("a duration such as 500ms")
	if !ok {
		return 0, false
	}
	d, err := time.ParseDuration(s)
	switch {
	case err != nil && v.kind() == "a number":
		v.refuse("%s has no unit: write %sms or %ss", s, s, s)
	case err != nil:
		v.refuse("%q is not a duration: write one such as 500ms, 30s or 1h", s)
	case d < 0:
		v.refuse("%s is negative", s)
	default:
		return d, true
	}
	return 0, false
}

// size reads a number of bytes with a binary unit.
func (v value) size() (int64, bool) {
	s, ok := v.scalar("a size such as 64MiB")
	if !ok {
		return 0, false
	}
	n, err := parseSize(s)
	if err != nil {
		v.refuse("%s", err)
	}
	return n, err == nil
}

func parseSize(text string) (int64, error) {
	for power, unit := range sizeUnits() {
		digits, found := strings.CutSuffix(text, unit)
		n, err := strconv.ParseUint(digits, 10, 32)
		if found && err == nil {
			return int64(n) << (10 * power), nil
		}
	}
	return 0, fmt.Errorf("%q is not a size: write one such as 64MiB", text)
}

// sizeUnits are the units of sizes, each 1024 of the one before.
func sizeUnits() []string { return []string{"B", "KiB", "MiB", "GiB"} }

// sizeText writes a size with the largest unit that keeps it whole.
func sizeText(n int64) string {
	units := sizeUnits()
	unit := 0
	for ; n > 0 && n%1024 == 0 && unit < len(units)-1; unit++ {
		n /= 1024
	}
	return strconv.FormatInt(n, 10) + units[unit]
}
