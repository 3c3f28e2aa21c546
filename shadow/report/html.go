package report

import (
	_ "embed"
	"fmt"
	"html/template"
	"io"

	"github.com/splitd/splitd/shadow/tally"
)

//go:embed report.html
var page string

// writeHTML writes one file that needs no other and runs no script. html/template
// escapes what comes from servers for the place where it stands.
func writeHTML(w io.Writer, r Report) error {
	t, err := template.New("report").Funcs(template.FuncMap{
		"percent": percent, "when": when, "orElse": orElse, "took": duration, "ms": ms,
		"withheld": func() string { return withheld },
		"firstAt":  firstAt,
		"bound":    func(v float64) string { return percent(max(0, v)) },
	}).Parse(page)
	if err != nil {
		return err
	}
	bars := differenceBars(r)
	return t.Execute(w, struct {
		Report
		Parts      []bar
		Bars       []bar
		BarsHeight int
		Plots      []plot
		Rows       [][]string
		Pairs      string
		Facts      [][]string
		Samples    []shown
	}{r, coverageBars(r), bars, 26*len(bars) + 4, plots(r.Latency), latencyRows(r.Latency), pairs(r.Latency), factRows(r), samples(r)})
}

// shown is a sample with its replies side by side.
type shown struct {
	tally.Sample
	Lines []shownLine
}

type shownLine struct {
	Differs                  bool
	Path, Primary, Candidate string
}

func samples(r Report) (all []shown) {
	for _, s := range r.Samples {
		one := shown{Sample: s}
		for _, l := range aside(s) {
			one.Lines = append(one.Lines, shownLine{l.mark == "!", l.path, l.primary, l.candidate})
		}
		all = append(all, one)
	}
	return all
}

// A bar is part of a plot: where it stands, in units of its viewBox.
type bar struct {
	Name   string
	Count  int64
	X, Y   float64
	Width  float64
	Colour string
}

// plotWidth is how wide the viewBox of a plot is.
const plotWidth = 800

// coverageBars is what became of all exchanges, as one stacked bar.
func coverageBars(r Report) []bar {
	c := r.Cover
	parts := []bar{
		{Name: "match", Count: r.Exchanges.Match, Colour: "#2e7d32"},
		{Name: "noise", Count: r.Exchanges.Noise, Colour: "#9ccc65"},
		{Name: "mismatch", Count: r.Exchanges.Mismatch, Colour: "#c62828"},
		{Name: "candidate error", Count: c.CandidateError, Colour: "#6a1b9a"},
		{Name: "primary error", Count: c.PrimaryError, Colour: "#ad1457"},
		{Name: "skipped", Count: c.Skipped, Colour: "#90a4ae"},
		{Name: "opaque", Count: c.Opaque, Colour: "#546e7a"},
		{Name: "truncated", Count: c.Truncated, Colour: "#b0bec5"},
		{Name: "dropped", Count: c.Dropped, Colour: "#ef6c00"},
		{Name: "after divergence", Count: c.AfterDivergence, Colour: "#ffb300"},
	}
	var bars []bar
	x := 0.0
	for _, p := range parts {
		if p.Count <= 0 {
			continue
		}
		p.X, p.Width = round(x, 2), round(share(p.Count, c.Eligible)*plotWidth, 2)
		x += p.Width
		bars = append(bars, p)
	}
	return bars
}

// barred is how many differences the plot has.
const barred = 12

func differenceBars(r Report) []bar {
	var bars []bar
	var highest int64
	for _, d := range r.Differences[:min(barred, len(r.Differences))] {
		highest = max(highest, d.Count)
		bars = append(bars, bar{Name: fmt.Sprintf("%s %s: %s", short(d.Endpoint, 28), short(d.Field, 28), short(change(d), 40)), Count: d.Count})
	}
	for i := range bars {
		bars[i].Y = float64(i * 26)
		bars[i].Width = round(max(2, share(bars[i].Count, highest)*300), 2)
	}
	return bars
}
