package configs

import (
	"bytes"
	"errors"
	"io"
	"regexp"
	"sort"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
)

// textMax bounds a file: some 20,000 splits or a group of networksMax networks
// fit in, and no text can keep the parser busy for long.
const textMax = 4 << 20

// parseText reads a YAML text into its root node, nil when the text is empty
// or holds only comments.
func parseText(r *report, file string, text []byte) *yaml.Node {
	start := spot{report: r, file: file, line: 1, column: 1}
	if len(text) > textMax {
		start.refuse("text has %d bytes, over 4 MiB: spread the splits over several files", len(text))
		return nil
	}
	if at, problem := badCharacter(text); problem != "" {
		start.at(text, at).refuse("%s", problem)
		return nil
	}
	decoder := yaml.NewDecoder(bytes.NewReader(text))
	var document, second yaml.Node
	switch err := decoder.Decode(&document); {
	case errors.Is(err, io.EOF):
		return nil
	case err != nil:
		refuseSyntax(start, text, err)
		return nil
	}
	switch err := decoder.Decode(&second); {
	case errors.Is(err, io.EOF):
	case err != nil:
		refuseSyntax(start, text, err)
		return nil
	default:
		at := start
		at.line, at.column = second.Line, second.Column
		at.refuse("a second document begins here: use a second file")
		return nil
	}
	return document.Content[0]
}

// at returns the spot of a byte of text.
func (s spot) at(text []byte, offset int) spot {
	before := text[:offset]
	s.line = 1 + bytes.Count(before, []byte("\n"))
	s.column = 1 + utf8.RuneCount(before[bytes.LastIndexByte(before, '\n')+1:])
	return s
}

// badCharacter finds the first character that YAML forbids (YAML 1.2.2 section
// 5.1) or that YAML 1.1 takes for a line break and editors do not, which would
// make every later line number wrong.
func badCharacter(text []byte) (offset int, problem string) {
	for offset < len(text) {
		r, size := utf8.DecodeRune(text[offset:])
		switch {
		case r == utf8.RuneError && size == 1:
			return offset, "not UTF-8: save the file in that encoding"
		case r == '\r' && !bytes.HasPrefix(text[offset:], []byte("\r\n")),
			r == '\u0085', r == '\u2028', r == '\u2029':
			return offset, "a line break that is not a newline: end every line with one"
		case r == '\ufeff' && offset == 0, r == '\t', r == '\n', r == '\r', r >= ' ' && r < 0x7f:
		case r < 0xa0, r == '\ufeff', r == '\ufffe', r == '\uffff':
			return offset, "a control character"
		}
		offset += size
	}
	return 0, ""
}

var errPrefix = regexp.MustCompile(`^yaml: (line \d+: )?`)

// refuseSyntax reports what the YAML parser said, with an exact place: the
// parser itself gives a line only, often that of the outermost block, often
// none. It stops at the first character that it cannot accept, so the shortest
// text that fails in the same words ends there.
func refuseSyntax(start spot, text []byte, err error) {
	begins := make([]int, 0, len(text)) // of each character
	for i := range string(text) {
		begins = append(begins, i)
	}
	shortest := sort.Search(len(begins)-1, func(i int) bool { return sameFailure(text[:begins[i+1]], err) })
	at := start.at(text, begins[shortest])
	if text[begins[shortest]] == '\t' {
		at.refuse("not YAML: a tab cannot stand here: indent with spaces")
		return
	}
	at.refuse("not YAML: %s", errPrefix.ReplaceAllString(err.Error(), ""))
}

func sameFailure(text []byte, want error) bool {
	decoder := yaml.NewDecoder(bytes.NewReader(text))
	for {
		var node yaml.Node
		if err := decoder.Decode(&node); err != nil {
			return err.Error() == want.Error()
		}
	}
}
