package demo

import (
	"fmt"
	"io"
	"os"
	"strings"
	"sync"

	"github.com/splitd/splitd/traffic"
)

// show is what the spectator sees. On a terminal the line of the running step
// is refreshed in place; elsewhere each line is printed once, without colour.
type show struct {
	mu       sync.Mutex
	out      io.Writer
	terminal bool
	colour   bool
	broken   func() // called when nobody reads any more
}

// The colours (ECMA-48 select graphic rendition).
const (
	bold  = "1"
	dim   = "2"
	red   = "31"
	green = "32"
)

// newShow looks at the environment for NO_COLOR (no-color.org) and TERM.
func newShow(out io.Writer, lookupEnv func(string) (string, bool), broken func()) *show {
	s := &show{out: out, broken: broken}
	if file, ok := out.(*os.File); ok {
		info, err := file.Stat()
		s.terminal = err == nil && info.Mode()&os.ModeCharDevice != 0
	}
	term, _ := lookupEnv("TERM")
	if noColour, _ := lookupEnv("NO_COLOR"); noColour == "" && term != "dumb" {
		s.colour = s.terminal
	}
	return s
}

func (s *show) print(text string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, err := io.WriteString(s.out, text); err != nil && s.broken != nil {
		s.broken()
	}
}

func (s *show) line(format string, args ...any) { s.print(fmt.Sprintf(format, args...) + "\n") }

func (s *show) paint(colour, text string) string {
	if !s.colour {
		return text
	}
	return "\x1b[" + colour + "m" + text + "\x1b[0m"
}

// title opens the show.
func (s *show) title(text string) { s.line("%s\n", s.paint(bold, text)) }

// heading opens a part of it.
func (s *show) heading(text string) { s.line("\n%s", s.paint(bold, text)) }

// command shows a command as a user would type it, and what it printed.
func (s *show) command(command []string, output string) {
	quoted := make([]string, len(command))
	for i, word := range command {
		quoted[i] = word
		if word == "" || strings.ContainsAny(word, " \"'$&|<>*?;()") {
			quoted[i] = `"` + word + `"`
		}
	}
	s.line("%s", s.paint(bold, "$ "+strings.Join(quoted, " ")))
	for text := range strings.Lines(strings.TrimRight(output, "\n")) {
		s.line("%s", s.paint(dim, "  "+strings.TrimRight(text, "\n")))
	}
}

// row is the line of one step.
type row struct {
	Set      traffic.Weight
	Mails    tally
	Observed *int // parts per million as splitd counts them; nil: not asked yet
}

const rowForm = "%12s %12s %12s %10s %10s %8s"

func (s *show) columns() {
	s.line("%s", s.paint(dim, "  share seen: of the mails that arrived; splitd says: its own count since the share was set"))
	s.line(rowForm, "share set", "share seen", "splitd says", "old MX", "new MX", "failed")
}

func (r row) String() string {
	seen, observed := "-", "-"
	if r.Mails.total() > 0 {
		seen = fmt.Sprintf("%.2f %%", r.Mails.share(newMX)*100)
	}
	if r.Observed != nil {
		observed = fmt.Sprintf("%.2f %%", float64(*r.Observed)/float64(traffic.Whole)*100)
	}
	return fmt.Sprintf(rowForm, strings.Replace(r.Set.String(), "%", " %", 1), seen, observed,
		fmt.Sprint(r.Mails.Arrived[oldMX]), fmt.Sprint(r.Mails.Arrived[newMX]), fmt.Sprint(r.Mails.Failed))
}

// progress shows how the running step stands, on a terminal.
func (s *show) progress(r row) {
	if s.terminal {
		s.print("\r" + s.paint(dim, r.String()) + "\x1b[K")
	}
}

// step shows how the step ended.
func (s *show) step(r row) {
	begin := ""
	if s.terminal {
		begin = "\r\x1b[K"
	}
	s.print(begin + r.String() + "\n")
}

// claim is something that the demo proves, and whether it holds.
type claim struct {
	holds bool
	text  string   // what holds, or what does not
	why   []string // details of what does not
}

// claimf makes a claim from what holds.
func claimf(holds bool, format string, args ...any) claim {
	return claim{holds: holds, text: fmt.Sprintf(format, args...)}
}

// claim shows one claim; of its details only the first ones.
func (s *show) claim(c claim) {
	const most = 10
	if c.holds {
		s.line("  %s  %s", s.paint(green, "ok"), c.text)
		return
	}
	s.line("  %s  %s", s.paint(red, "NO"), c.text)
	for i, why := range c.why {
		if i == most {
			s.line("        and %d more", len(c.why)-most)
			break
		}
		s.line("        %s", why)
	}
}

// end is the last line, for people and for programs.
type end struct {
	Plane       string
	Lost, Twice int
	Clean       bool
	Failing     int // claims that do not hold
}

func (e end) String() string {
	clean := "no"
	if e.Clean {
		clean = "yes"
	}
	word, failing := "ok", ""
	if e.Failing > 0 {
		word, failing = "FAILED", fmt.Sprintf(" claims=%d", e.Failing)
	}
	return fmt.Sprintf("demo: %s plane=%s lost=%d twice=%d clean=%s%s", word, e.Plane, e.Lost, e.Twice, clean, failing)
}
