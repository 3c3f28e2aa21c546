package configs

import (
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// table is a mapping under reading. The keys that are asked for are the ones
// that are known: close refuses all others.
type table struct {
	value
	keys  map[string]*yaml.Node
	given map[string]value
	asked []string
	// merged says that other keys would have come from elsewhere.
	merged bool
}

// table begins to read a mapping; an empty value is one without keys.
func (v value) table() (*table, bool) {
	t := &table{value: v, keys: map[string]*yaml.Node{}, given: map[string]value{}}
	if isNull(v.node) && !v.refused() {
		return t, true
	}
	if v.node.Kind != yaml.MappingNode || v.refused() {
		want := "a mapping"
		if strings.HasSuffix(v.path, ".shadow") && v.node.Kind == yaml.ScalarNode {
			want += ", such as {sample: 5%}"
		}
		v.wrong(want)
		return nil, false
	}
	for i := 0; i+1 < len(v.node.Content); i += 2 {
		t.enter(v.node.Content[i], v.node.Content[i+1])
	}
	return t, true
}

func (t *table) enter(key, node *yaml.Node) {
	at := t.key(key, node)
	at.line, at.column = key.Line, key.Column
	switch first, twice := t.keys[key.Value]; {
	case key.Kind == yaml.AliasNode || isMerge(key): // refused already
		t.merged = true
	case key.Kind != yaml.ScalarNode:
		at.refuse("a key must be plain text")
	case twice:
		at.refuse("given twice: first at %s", t.key(first, first))
	default:
		t.keys[key.Value] = key
		t.given[key.Value] = t.key(key, node)
	}
}

// take returns the value of a key, if it is given.
func (t *table) take(key string) (value, bool) {
	t.asked = append(t.asked, key)
	v, ok := t.given[key]
	if t.report.asked != nil {
		t.report.asked(strings.TrimPrefix(t.path+"."+key, "."))
	}
	return v, ok
}

// need returns the value of a key that must be given.
func (t *table) need(key, hint string) (value, bool) {
	v, ok := t.take(key)
	if !ok && !t.merged {
		missing := t.spot
		missing.path = strings.TrimPrefix(t.path+"."+key, ".")
		missing.refuse("missing: %s", hint)
	}
	return v, ok
}

// close refuses the keys that nobody asked for.
func (t *table) close() {
	for text, key := range t.keys {
		if slices.Contains(t.asked, text) {
			continue
		}
		at := t.key(key, t.given[text].node).spot
		at.line, at.column = key.Line, key.Column
		if near := nearest(text, t.asked); near != "" {
			at.refuse("unknown key: did you mean %q?", near)
		} else {
			at.refuse("unknown key: known here are %s", strings.Join(t.asked, ", "))
		}
	}
}

// nearest returns the word that text was probably meant to be, or "".
func nearest(text string, words []string) string {
	best, found := 3, ""
	plain := strings.ReplaceAll(strings.ToLower(text), "-", "_")
	for _, word := range words {
		if len(plain) > len(word)+2 || len(word) > len(plain)+2 {
			continue
		}
		if d := distance(plain, word); d < best && (d < len(word)-1 || d == 1 && strings.HasPrefix(plain, word)) {
			best, found = d, word
		}
	}
	if found == "" {
		return reordered(plain, words)
	}
	return found
}

// reordered returns the word of the most parts, but of several, that are all among
// those of text, as those of max_client_flows are in max_flows_per_client; or "".
func reordered(text string, words []string) string {
	given := strings.Split(text, "_")
	most, found := 1, ""
	for _, word := range words {
		parts := strings.Split(word, "_")
		if len(parts) > most && !slices.ContainsFunc(parts, func(p string) bool { return !slices.Contains(given, p) }) {
			most, found = len(parts), word
		}
	}
	return found
}

// distance is the number of letters to insert, drop, replace or swap with
// their neighbour to turn a into b (optimal string alignment).
func distance(a, b string) int {
	rows := make([][]int, len(a)+1)
	for i := range rows {
		rows[i] = make([]int, len(b)+1)
		rows[i][0] = i
	}
	for j := range b {
		rows[0][j+1] = j + 1
	}
	for i := 1; i <= len(a); i++ {
		for j := 1; j <= len(b); j++ {
			replace := rows[i-1][j-1]
			if a[i-1] != b[j-1] {
				replace++
			}
			rows[i][j] = min(rows[i-1][j]+1, rows[i][j-1]+1, replace)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				rows[i][j] = min(rows[i][j], rows[i-2][j-2]+1)
			}
		}
	}
	return rows[len(a)][len(b)]
}

// oneOf reads a word of a fixed choice. later are words of parts that are not
// built yet.
func oneOf[T ~string](v value, built, later []T) (T, bool) {
	text, ok := v.scalar("one of " + words(built))
	switch {
	case !ok:
	case slices.Contains(built, T(text)):
		return T(text), true
	case slices.Contains(later, T(text)):
		v.refuse("%s: %q; use %s", notAvailable, text, words(built))
	default:
		near := nearest(text, texts(slices.Concat(built, later)))
		if near != "" {
			v.refuse("%q is not known: did you mean %q?", text, near)
		} else {
			v.refuse("%q is not known: use %s", text, words(built))
		}
	}
	return "", false
}

func texts[T ~string](words []T) []string {
	list := make([]string, len(words))
	for i, w := range words {
		list[i] = string(w)
	}
	return list
}

// words writes "a", "a or b", "a, b or c".
func words[T ~string](list []T) string {
	all := texts(list)
	last := len(all) - 1
	if last < 1 {
		return strings.Join(all, "")
	}
	return strings.Join(all[:last], ", ") + " or " + all[last]
}

// names quotes texts in a list.
func names(list []string) string {
	quoted := make([]string, len(list))
	for i, text := range list {
		quoted[i] = strconv.Quote(text)
	}
	return strings.Join(quoted, ", ")
}
