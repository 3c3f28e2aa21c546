package report

import (
	"fmt"
	"io"
	"strings"
)

// writeMarkdown writes for a ticket. What comes from servers is in code spans or
// escaped, and in lists: a | in a code span would end the cell of a table.
func writeMarkdown(w io.Writer, r Report) error {
	var b strings.Builder
	fmt.Fprintf(&b, "## %s: %s\n\n%s\n", plainly(orElse(r.Split, none)), plainly(string(r.Verdict)), plainly(r.Summary))
	markDifferences(&b, "Differences", r.Differences)
	markDifferences(&b, "Suspects: too few to tell from chance", r.Suspects)
	c := r.Cover
	fmt.Fprintf(&b, "\n### Exchanges\n\n| eligible | compared | skipped | opaque | truncated | dropped | after divergence | candidate error | primary error |\n|--:|--:|--:|--:|--:|--:|--:|--:|--:|\n| %s |\n",
		strings.Join(numbers(c.Eligible, c.Compared, c.Skipped, c.Opaque, c.Truncated, c.Dropped, c.AfterDivergence, c.CandidateError, c.PrimaryError), " | "))
	fmt.Fprintf(&b, "\nOf the compared: %d match, %d mismatch, %d noise.\n", r.Exchanges.Match, r.Exchanges.Mismatch, r.Exchanges.Noise)
	if len(r.NotCompared) > 0 {
		b.WriteString("\n### Not compared, and no answer\n\n")
		for _, n := range r.NotCompared {
			fmt.Fprintf(&b, "- %d %s: %s", n.Count, code(string(n.Verdict)), code(n.Reason))
			if at := firstAt(n); at != "" {
				b.WriteString(", " + at)
			}
			b.WriteString("\n")
		}
	}
	if len(r.Masked) > 0 {
		b.WriteString("\n### Masked: differs, and may\n\n")
		for _, m := range r.Masked {
			fmt.Fprintf(&b, "- %s %s (%s), %d times: %s\n", code(m.Endpoint), code(m.Field), plainly(string(m.Kind)), m.Count, code(m.Why))
		}
	}
	markLatency(&b, r.Latency)
	if len(r.UnusedRules) > 0 {
		b.WriteString("\n### Ignore rules that are about nothing that was seen\n\n")
		for _, rule := range r.UnusedRules {
			fmt.Fprintf(&b, "- %s", code(rule))
			if hint := near(r, rule); hint != "" {
				fmt.Fprintf(&b, ": %s", code(hint))
			}
			b.WriteString("\n")
		}
	}
	b.WriteString("\n### Facts\n\n")
	for _, fact := range factRows(r) {
		fmt.Fprintf(&b, "- %s: %s\n", fact[0], code(fact[1]))
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func markDifferences(b *strings.Builder, title string, list []Difference) {
	if len(list) == 0 {
		return
	}
	fmt.Fprintf(b, "\n### %s\n\n", title)
	for _, d := range list {
		fmt.Fprintf(b, "- **%s** %s %s (%s): expected %s, got %s; %d times (%s, at least %s), since %s, last %s",
			plainly(d.Level), code(d.Endpoint), code(d.Field), plainly(string(d.Kind)), code(d.Expected), code(d.Got),
			d.Count, percent(d.Rate), percent(max(0, d.LowerBound)), when(d.FirstSeen), when(d.LastSeen))
		if len(d.Also) > 0 {
			fmt.Fprintf(b, "; with it: %s", code(strings.Join(d.Also, ", ")))
		}
		if d.Why != "" {
			fmt.Fprintf(b, "; %s", code(d.Why))
		}
		b.WriteString("\n")
	}
}

func markLatency(b *strings.Builder, l *Latency) {
	if l == nil {
		return
	}
	fmt.Fprintf(b, "\n### Latency in ms of %s\n\n| | p50 | p95 | p99 | first byte p50 | p95 | p99 |\n|---|--:|--:|--:|--:|--:|--:|\n", pairs(l))
	for _, line := range latencyRows(l)[1:] {
		fmt.Fprintf(b, "| %s |\n", strings.Join(line, " | "))
	}
}

// code is text as a code span (CommonMark 0.31, 6.1): inside one nothing is taken
// for anything else, as long as its fence is longer than every run of backticks.
func code(text string) string {
	if strings.TrimSpace(text) == "" {
		return none
	}
	fence := "`"
	for strings.Contains(text, fence) {
		fence += "`"
	}
	if strings.HasPrefix(text, "`") || strings.HasSuffix(text, "`") {
		text = " " + text + " "
	}
	return fence + text + fence
}

// plainly is text outside of code: every sign that might begin something is an
// entity (CommonMark 0.31, 6.2), also those that GitHub makes links of.
func plainly(text string) string {
	var b strings.Builder
	for _, r := range text {
		if strings.ContainsRune("&<>|`*_[]()~#@\\!:/\"'", r) {
			fmt.Fprintf(&b, "&#%d;", r)
			continue
		}
		b.WriteRune(r)
	}
	return strings.ReplaceAll(b.String(), "www.", "www&#46;")
}
