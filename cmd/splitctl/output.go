package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v3"
)

// The formats of -o.
const (
	formatTable = "table"
	formatJSON  = "json"
	formatYAML  = "yaml"
	formatProm  = "prom"
)

// format is the flag -o of one command.
type format struct {
	value   string
	allowed []string
}

// formatFlag gives the command the flag -o, a table by default.
func formatFlag(cmd *cobra.Command, more ...string) *format {
	f := &format{value: formatTable, allowed: append([]string{formatTable, formatJSON, formatYAML}, more...)}
	cmd.Flags().VarP(f, "output", "o", "output: "+strings.Join(f.allowed, ", "))
	// It fails only for a flag that does not exist.
	_ = cmd.RegisterFlagCompletionFunc("output", cobra.FixedCompletions(f.allowed, cobra.ShellCompDirectiveNoFileComp))
	return f
}

// String implements pflag.Value.
func (f *format) String() string { return f.value }

// Type implements pflag.Value.
func (f *format) Type() string { return "FORMAT" }

// Set implements pflag.Value.
func (f *format) Set(text string) error {
	if !slices.Contains(f.allowed, text) {
		return fmt.Errorf("use one of %s", strings.Join(f.allowed, ", "))
	}
	f.value = text
	return nil
}

// data says whether the answer is printed as it is, key by key.
func (f *format) data() bool { return f.value == formatJSON || f.value == formatYAML }

// printer writes one answer in one format.
type printer func(io.Writer) error

// print writes the answer to standard output: as data in the asked format, or
// as the table. What more formats a command has it passes by name.
func (a *app) print(f *format, answer any, table printer, more map[string]printer) error {
	switch f.value {
	case formatTable:
		return a.put(table)
	case formatJSON:
		return a.put(func(w io.Writer) error { return writeJSON(w, answer) })
	case formatYAML:
		return a.put(func(w io.Writer) error { return writeYAML(w, answer) })
	}
	return a.put(more[f.value])
}

// put prints what is written, or nothing where that fails: half a table looks like
// a whole one.
func (a *app) put(write printer) error {
	var whole bytes.Buffer
	if err := write(&whole); err != nil {
		return fmt.Errorf("print answer: %w", err)
	}
	if _, err := a.stdout.Write(whole.Bytes()); err != nil {
		return fmt.Errorf("print answer: %w", err)
	}
	return nil
}

// writeJSON writes the answer with one key a line; what is JSON already keeps
// its keys and their order.
func writeJSON(w io.Writer, answer any) error {
	if text, ok := answer.(json.RawMessage); ok {
		return indent(w, text)
	}
	encoder := json.NewEncoder(w)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	return encoder.Encode(answer)
}

func indent(w io.Writer, text json.RawMessage) error {
	var lines bytes.Buffer
	lines.Grow(2 * len(text))
	if err := json.Indent(&lines, bytes.TrimSpace(text), "", "  "); err != nil {
		return err
	}
	lines.WriteByte('\n')
	_, err := w.Write(lines.Bytes())
	return err
}

// writeYAML writes the same keys in the same order as writeJSON: JSON is read
// as the YAML that it is, and written in block style.
func writeYAML(w io.Writer, answer any) error {
	var text bytes.Buffer
	if err := writeJSON(&text, answer); err != nil {
		return err
	}
	var document yaml.Node
	if err := yaml.Unmarshal(text.Bytes(), &document); err != nil {
		return err
	}
	block(&document)
	encoder := yaml.NewEncoder(w)
	encoder.SetIndent(2)
	if err := encoder.Encode(&document); err != nil {
		return err
	}
	return encoder.Close()
}

func block(node *yaml.Node) {
	node.Style = 0
	if node.Kind == yaml.ScalarNode && strings.Contains(node.Value, "\n") {
		node.Style = yaml.LiteralStyle
	}
	for _, inner := range node.Content {
		block(inner)
	}
}

// printable makes a text of someone else's fit for a terminal and one line.
func printable(text string) string { return strings.ReplaceAll(printableLines(text), "\n", " ") }

// printableLines keeps line ends.
func printableLines(text string) string {
	return strings.Map(func(r rune) rune {
		if r == '\n' || unicode.IsGraphic(r) {
			return r
		}
		return '\uFFFD'
	}, text)
}
