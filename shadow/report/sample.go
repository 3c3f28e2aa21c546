package report

import (
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/splitd/splitd/shadow"
	"github.com/splitd/splitd/shadow/tally"
)

// withheld says who may see what a sample holds.
const withheld = "it holds what client and servers said (samples: full), which is for root, the daemon's own user and the group of the control socket"

// WriteSample writes one exchange with both replies side by side. What differs has
// a ! before it.
func WriteSample(w io.Writer, r Report, id int) error {
	r = cleaned(r)
	s, ok := sampleOf(r, id)
	if !ok {
		return fmt.Errorf("show sample %d: the report has none of that number: see its column SAMPLE", id)
	}
	if s.Withheld {
		return fmt.Errorf("show sample %d: %s: use sudo", id, withheld)
	}
	if _, err := fmt.Fprintf(w, "sample %d of %s: %s at %s\n\n", s.ID, orElse(r.Split, none), s.Endpoint, when(s.At)); err != nil {
		return err
	}
	if err := rows(w, sampleRows(r, s)...); err != nil {
		return err
	}
	lines := [][]string{{"LEVEL", "FIELD", "KIND", "EXPECTED", "GOT", "EXCUSED BY"}}
	for _, d := range s.Differences {
		lines = append(lines, []string{d.Level.String(), short(d.Path, 40), string(d.Kind), short(d.Expected, column), short(d.Got, sampledColumn(d.Kind)), short(d.Excuse, column)})
	}
	if _, err := fmt.Fprintln(w); err != nil {
		return err
	}
	if err := rows(w, lines...); err != nil || s.Left == 0 {
		return err
	}
	_, err := fmt.Fprintf(w, "\n%d more did not fit into the sample\n", s.Left)
	return err
}

// column is how wide a column of values is, in runes.
const column = 60

// sampledColumn is how wide one is of what a candidate answered. Why it did not is whole.
func sampledColumn(kind shadow.Kind) int {
	if kind == shadow.Unavailable {
		return longest
	}
	return column
}

func sampleRows(r Report, s tally.Sample) [][]string {
	lines := [][]string{{" ", "", orElse(r.Primary, "primary"), orElse(r.Candidate, "candidate")}}
	for _, v := range s.Request {
		lines = append(lines, []string{"<", short(v.Path, 40), short(v.Value, column), ""})
	}
	for _, l := range aside(s) {
		lines = append(lines, []string{l.mark, short(l.path, 40), short(l.primary, column), short(l.candidate, column)})
	}
	return append(lines, []string{" ", "took", duration(s.PrimaryTook), duration(s.CandidateTook)})
}

type line struct{ mark, path, primary, candidate string }

// aside puts values of one path next to each other, in the primary's order and then
// what the candidate alone has: those that are the same where their order says nothing,
// else as they come.
func aside(s tally.Sample) []line {
	differs, ordered := make(map[string]bool), make(map[string]bool)
	for _, d := range s.Differences {
		differs[d.Path] = true
		ordered[d.Path] = ordered[d.Path] || d.Kind == shadow.Reordered
	}
	theirs := make(map[string][]string)
	for _, v := range s.Candidate {
		theirs[v.Path] = append(theirs[v.Path], v.Value)
	}
	same := make(map[int]bool) // lines of the primary's that have their like
	for i, v := range s.Primary {
		of := theirs[v.Path]
		if at := slices.Index(of, v.Value); at >= 0 && !ordered[v.Path] {
			same[i], theirs[v.Path] = true, slices.Delete(of, at, at+1)
		}
	}
	mark := func(path string) string {
		if differs[path] {
			return "!"
		}
		return " "
	}
	var lines []line
	for i, v := range s.Primary {
		l := line{mark: mark(v.Path), path: v.Path, primary: v.Value}
		if of := theirs[v.Path]; same[i] {
			l.candidate = v.Value
		} else if len(of) > 0 {
			l.candidate, theirs[v.Path] = of[0], of[1:]
		}
		lines = append(lines, l)
	}
	for _, v := range s.Candidate {
		if of := theirs[v.Path]; len(of) > 0 {
			lines = append(lines, line{mark: mark(v.Path), path: v.Path, candidate: of[0]})
			theirs[v.Path] = of[1:]
		}
	}
	return lines
}

func duration(d *time.Duration) string {
	if d == nil {
		return ""
	}
	return d.Round(time.Microsecond).String()
}
