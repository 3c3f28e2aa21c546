package report

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
)

// A Format is how a report is written.
type Format string

// The formats.
const (
	Table    Format = "table"
	JSON     Format = "json"
	Markdown Format = "markdown"
	HTML     Format = "html"
	JUnit    Format = "junit"
)

// Formats lists all.
func Formats() []Format { return []Format{Table, JSON, Markdown, HTML, JUnit} }

// Write writes a report. Whatever is in it, nothing in the output is taken for
// anything but text.
func Write(w io.Writer, format Format, r Report, limits Limits) error {
	if !slices.Contains(Formats(), format) {
		return fmt.Errorf("write report: %q is no format: use one of table, json, markdown, html, junit", format)
	}
	r = cleaned(r)
	var err error
	switch format {
	case Table:
		err = writeTable(w, r)
	case JSON:
		err = writeJSON(w, r)
	case Markdown:
		err = writeMarkdown(w, r)
	case HTML:
		err = writeHTML(w, r)
	case JUnit:
		err = writeJUnit(w, r, limits)
	}
	if err != nil {
		return fmt.Errorf("write report as %s: %w", format, err)
	}
	return nil
}

func writeJSON(w io.Writer, r Report) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(r)
}
