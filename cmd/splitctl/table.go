package main

import (
	"fmt"
	"io"
	"strings"
	"unicode/utf8"
)

// style is a way to paint; painting never carries information of its own.
type style string

// The styles: ECMA-48 SGR.
const (
	stylePlain style = ""
	styleHead  style = "1"
	styleGood  style = "32"
	styleWarn  style = "33"
	styleBad   style = "31"
)

func sgr(s style, text string) string {
	if s == stylePlain {
		return text
	}
	return "\x1b[" + string(s) + "m" + text + "\x1b[0m"
}

// paint paints prose for standard error.
func (a *app) paint(s style, text string) string {
	if !a.colours(a.stderr) {
		return text
	}
	return sgr(s, text)
}

// colours says whether w is a terminal that wants colour (no-color.org).
func (a *app) colours(w io.Writer) bool {
	return a.getenv("NO_COLOR") == "" && a.getenv("TERM") != "dumb" && a.isTerminal(w)
}

// cell is one place in a table.
type cell struct {
	text  string
	style style
}

// table is aligned columns with a head. Columns of numbers stand on the right.
type table struct {
	head    []string
	numbers map[string]bool // by head
	rows    [][]cell
	colour  bool
}

func (a *app) table(numbers []string, head ...string) *table {
	t := &table{head: head, numbers: map[string]bool{}, colour: a.colours(a.stdout)}
	for _, column := range numbers {
		t.numbers[column] = true
	}
	return t
}

// row adds a row of strings and cells.
func (t *table) row(values ...any) {
	cells := make([]cell, 0, len(values))
	for _, value := range values {
		c, ok := value.(cell)
		if !ok {
			c = cell{text: fmt.Sprint(value)}
		}
		c.text = printable(c.text)
		if c.text == "" {
			c.text = "-"
		}
		cells = append(cells, c)
	}
	t.rows = append(t.rows, cells)
}

// write writes the table, two spaces between columns, none at a line's end.
func (t *table) write(w io.Writer) error {
	widths := make([]int, len(t.head))
	for i, head := range t.head {
		widths[i] = utf8.RuneCountInString(head)
		for _, row := range t.rows {
			widths[i] = max(widths[i], utf8.RuneCountInString(row[i].text))
		}
	}
	head := make([]cell, 0, len(t.head))
	for _, text := range t.head {
		head = append(head, cell{text, styleHead})
	}
	for _, row := range append([][]cell{head}, t.rows...) {
		if _, err := io.WriteString(w, t.line(row, widths)+"\n"); err != nil {
			return err
		}
	}
	return nil
}

func (t *table) line(row []cell, widths []int) string {
	var line strings.Builder
	for i, c := range row {
		text, gap := c.text, strings.Repeat(" ", widths[i]-utf8.RuneCountInString(c.text))
		if t.colour {
			text = sgr(c.style, text)
		}
		switch {
		case t.numbers[t.head[i]]:
			text = gap + text
		case i < len(row)-1:
			text += gap
		}
		if i > 0 {
			line.WriteString("  ")
		}
		line.WriteString(text)
	}
	return line.String()
}
