package configs

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Error is one mistake and its place. Line and Column count from 1, Column in
// characters; Line is 0 where there is no text to point to (a file that cannot
// be read, a flag, a variable).
type Error struct {
	File         string
	Line, Column int
	Path         string // "splits[0].candidates[0].weight", "--weight"; may be empty
	Message      string
}

// Error writes "file:line:column: path: message" without the parts that are
// not known. It is always one line.
func (e Error) Error() string {
	var b strings.Builder
	b.WriteString(e.File)
	if e.Line > 0 {
		fmt.Fprintf(&b, ":%d:%d", e.Line, e.Column)
	}
	for _, part := range []string{e.Path, e.Message} {
		if b.Len() > 0 && part != "" {
			b.WriteString(": ")
		}
		b.WriteString(part)
	}
	return oneLine(b.String())
}

// Errors are all mistakes of a configuration, sorted by file and place. It is
// the type of the errors that this package returns.
type Errors []Error

// Error writes one mistake a line.
func (e Errors) Error() string {
	lines := make([]string, len(e))
	for i, one := range e {
		lines[i] = one.Error()
	}
	return strings.Join(lines, "\n")
}

func compareErrors(a, b Error) int {
	return cmp.Or(
		cmp.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column),
		cmp.Compare(a.Path, b.Path), cmp.Compare(a.Message, b.Message))
}

// report gathers what is wrong, and what is worth knowing, while texts are read.
type report struct {
	errors Errors
	notes  []Error
	// asked, where set, hears the path of every key that is known.
	asked func(path string)
}

// err returns the mistakes, sorted and each once, or nil when there are none.
func (r *report) err() error {
	if len(r.errors) == 0 {
		return nil
	}
	slices.SortFunc(r.errors, compareErrors)
	r.errors = slices.Compact(r.errors) // which empties those behind
	return r.errors
}

func (r *report) noteTexts() []string {
	slices.SortStableFunc(r.notes, compareErrors)
	var texts []string
	for _, n := range r.notes {
		texts = append(texts, n.Error())
	}
	return texts
}

// spot is a place in a text, or a flag, that an error can point to.
type spot struct {
	report       *report
	file         string
	line, column int
	path         string
}

func (s spot) refuse(format string, args ...any) {
	s.report.errors = append(s.report.errors, s.entry(format, args))
}

func (s spot) note(format string, args ...any) {
	s.report.notes = append(s.report.notes, s.entry(format, args))
}

func (s spot) entry(format string, args []any) Error {
	return Error{s.file, s.line, s.column, s.path, oneLine(fmt.Sprintf(format, args...))}
}

// place is an error there that says nothing yet.
func (s spot) place() Error { return Error{s.file, s.line, s.column, s.path, ""} }

// String names the place for a message about another one.
func (s spot) String() string {
	if s.line == 0 {
		return cmp.Or(s.file, s.path)
	}
	return fmt.Sprintf("%s:%d:%d", s.file, s.line, s.column)
}

// Place is where a split stands in a file. Line 0 means that it does not come
// from a file: then File says from where.
type Place struct {
	File string
	Line int
}

// String writes "FILE:LINE".
func (p Place) String() string {
	if p.Line == 0 {
		return p.File
	}
	return p.File + ":" + strconv.Itoa(p.Line)
}

// oneLine keeps values that are quoted in a message from breaking its line or
// reaching the terminal as control characters.
func oneLine(message string) string {
	printable := func(r rune) bool { return unicode.IsPrint(r) && r != utf8.RuneError }
	if !strings.ContainsFunc(message, func(r rune) bool { return !printable(r) }) {
		return message
	}
	var b strings.Builder
	for _, r := range message {
		if printable(r) {
			b.WriteRune(r)
		} else {
			quoted := strconv.QuoteRuneToASCII(r)
			b.WriteString(quoted[1 : len(quoted)-1])
		}
	}
	return b.String()
}
