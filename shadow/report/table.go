package report

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/splitd/splitd/shadow"
	"github.com/splitd/splitd/shadow/tally"
)

// none is what a cell says of nothing.
const none = "-"

// rows writes columns of one width each.
func rows(w io.Writer, lines ...[]string) error {
	tabs := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, cells := range lines {
		for i, cell := range cells {
			if cell == "" {
				cells[i] = none
			}
		}
		if _, err := fmt.Fprintln(tabs, strings.Join(cells, "\t")); err != nil {
			return err
		}
	}
	return tabs.Flush()
}

// writeTable writes for a terminal: what differs first.
func writeTable(w io.Writer, r Report) error {
	if _, err := fmt.Fprintf(w, "%s: %s\n%s\n", orElse(r.Split, none), strings.ToUpper(string(r.Verdict)), r.Summary); err != nil {
		return err
	}
	blocks := []struct {
		title string
		lines [][]string
	}{
		{"differences", differenceRows(r.Differences)},
		{"suspects: too few to tell from chance", differenceRows(r.Suspects)},
		{"exchanges", coverageRows(r)},
		{"not compared, and no answer", reasonRows(r.NotCompared)},
		{"masked: differs, and may", maskRows(r.Masked)},
		{"latency in ms of " + pairs(r.Latency), latencyRows(r.Latency)},
		{"ignore rules that are about nothing that was seen", unusedRows(r)},
		{"facts", factRows(r)},
	}
	for _, b := range blocks {
		if len(b.lines) == 0 {
			continue
		}
		if _, err := fmt.Fprintf(w, "\n%s\n", b.title); err != nil {
			return err
		}
		if err := rows(w, b.lines...); err != nil {
			return err
		}
	}
	return nil
}

func differenceRows(list []Difference) [][]string {
	if len(list) == 0 {
		return nil
	}
	lines := [][]string{{"LEVEL", "ENDPOINT", "FIELD", "KIND", "EXPECTED", "GOT", "COUNT", "RATE", "AT LEAST", "SINCE", "LAST", "SAMPLE", "WITH IT"}}
	for _, d := range list {
		sample := ""
		if len(d.Samples) > 0 {
			sample = fmt.Sprint(d.Samples[0])
		}
		lines = append(lines, []string{
			d.Level, short(d.Endpoint, 32), short(d.Field, 40), string(d.Kind), short(d.Expected, 32), short(d.Got, gotColumn(d.Kind)),
			fmt.Sprint(d.Count), percent(d.Rate), percent(max(0, d.LowerBound)), when(d.FirstSeen), when(d.LastSeen), sample, short(strings.Join(d.Also, ", "), 80),
		})
	}
	return lines
}

// gotColumn is how wide a column is of what a candidate answered, in runes. Why it
// did not stands at the end of a sentence.
func gotColumn(kind shadow.Kind) int {
	if kind == shadow.Unavailable {
		return 100
	}
	return 32
}

func when(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05Z") }

func coverageRows(r Report) [][]string {
	c := r.Cover
	return [][]string{
		{"eligible", "compared", "skipped", "opaque", "truncated", "dropped", "after_divergence", "candidate_error", "primary_error"},
		numbers(c.Eligible, c.Compared, c.Skipped, c.Opaque, c.Truncated, c.Dropped, c.AfterDivergence, c.CandidateError, c.PrimaryError),
		{"compared", "match", "mismatch", "noise"},
		numbers(c.Compared, r.Exchanges.Match, r.Exchanges.Mismatch, r.Exchanges.Noise),
	}
}

func numbers(all ...int64) []string {
	cells := make([]string, len(all))
	for i, n := range all {
		cells[i] = fmt.Sprint(n)
	}
	return cells
}

func reasonRows(list []tally.Reason) (lines [][]string) {
	for _, r := range list {
		cells := []string{fmt.Sprint(r.Count), string(r.Verdict), r.Reason}
		if at := firstAt(r); at != "" {
			cells = append(cells, at)
		}
		lines = append(lines, cells)
	}
	return lines
}

// firstAt says at which byte the first of a reason was; "" where it names none.
func firstAt(r tally.Reason) string {
	if r.FirstAtByte == nil {
		return ""
	}
	return fmt.Sprintf("first at byte %d", *r.FirstAtByte)
}

func maskRows(list []Mask) (lines [][]string) {
	for _, m := range list {
		lines = append(lines, []string{short(m.Endpoint, 32), short(m.Field, 40), string(m.Kind), fmt.Sprint(m.Count), short(m.Why, 100)})
	}
	return lines
}

func unusedRows(r Report) (lines [][]string) {
	for _, text := range r.UnusedRules {
		lines = append(lines, []string{short(text, 120), near(r, text)})
	}
	return lines
}

// near names what differs at a path that begins as the rule's does, or the other way
// round: who wrote the rule may have meant that.
func near(r Report, text string) string {
	rule, err := shadow.ParseIgnore(text)
	path := strings.TrimRight(rule.Path, "*")
	if err != nil || path == "" {
		return ""
	}
	for _, d := range slices.Concat(r.Differences, r.Suspects) {
		if strings.HasPrefix(d.Field, path) || strings.HasPrefix(path, d.Field) {
			return "what differs is " + short(d.Endpoint, 32) + " | " + short(d.Field, 40)
		}
	}
	return ""
}

func pairs(l *Latency) string {
	if l == nil {
		return ""
	}
	return fmt.Sprintf("%d pairs, the first %d left out to warm up", l.Pairs, l.WarmUp)
}

func latencyRows(l *Latency) [][]string {
	if l == nil {
		return nil
	}
	lines := [][]string{{"", "P50", "P95", "P99", "FIRST BYTE P50", "P95", "P99"}}
	for _, side := range sides(l) {
		line := []string{side.name}
		for _, q := range []Quantiles{side.total, side.first} {
			line = append(line, ms(q.P50), ms(q.P95), ms(q.P99))
		}
		lines = append(lines, line)
	}
	return lines
}

type side struct {
	name         string
	total, first Quantiles
}

func sides(l *Latency) []side {
	return []side{
		{"primary", l.Primary, l.FirstByte.Primary},
		{"candidate", l.Candidate, l.FirstByte.Candidate},
		{"paired difference", l.Delta, l.FirstByte.Delta},
	}
}

func ms(v float64) string { return fmt.Sprintf("%.3g", v) }

func factRows(r Report) [][]string {
	lines := [][]string{
		{"protocol", r.Protocol},
		{"primary", r.Primary},
		{"candidate", r.Candidate},
		{"rule", r.Rule},
		{"asked twice (A/A)", askedTwice(r)},
	}
	if r.NeverCompared != "" {
		lines = append(lines, []string{"never compared", r.NeverCompared})
	}
	if r.Window != nil {
		lines = append(lines, []string{"from", when(r.Window.From)}, []string{"to", when(r.Window.To)})
	}
	if f := folded(r.Folded); f != "" {
		lines = append(lines, []string{"too many to tell apart", f})
	}
	return lines
}

// askedTwice says how often that was, and when it was in vain.
func askedTwice(r Report) string {
	if r.ControlsUnanswered == 0 {
		return fmt.Sprint(r.Controls)
	}
	return fmt.Sprintf("%d, of which the control did not answer %d: nothing is learnt from those", r.Controls, r.ControlsUnanswered)
}

// folded says what was too much to tell apart, and where the sums have it.
func folded(f tally.Folded) string {
	var parts []string
	for _, p := range []struct {
		count      int64
		what, rest string
	}{
		{f.Endpoints, "exchanges of more endpoints", tally.OtherEndpoints},
		{f.Fields, "differences in more fields", tally.OtherFields},
		{f.Signatures, "differences in more values of a field", tally.OtherValues},
		{f.Combinations, "exchanges that differ in more ways at once", "their heaviest difference"},
		{f.Reasons, "exchanges for more reasons", tally.OtherReasons},
	} {
		if p.count > 0 {
			parts = append(parts, fmt.Sprintf("%d %s count as %s", p.count, p.what, p.rest))
		}
	}
	return strings.Join(parts, "; ")
}
