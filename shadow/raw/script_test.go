package raw

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/splitd/splitd/shadow"
)

// A script is a labelled pair of flows: what the parties do, in its order, and what
// comes of it. shadow/testdata/raw/README.md has the form.
type script struct {
	name     string
	keep     int
	ordered  bool // it cannot be played in another order
	rules    []shadow.Ignore
	events   []shadow.Event
	differs  []string
	noise    []string
	offset   string
	coverage string
	reason   string
	hears    *string
}

func ends() map[string]shadow.End {
	return map[string]shadow.End{"closes": shadow.Closed, "resets": shadow.Reset, "refuses": shadow.Refused, "hangs": shadow.TimedOut}
}

// truths reads all labelled flows.
func truths(t testing.TB) []script {
	t.Helper()
	files, err := filepath.Glob("../testdata/raw/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("find the truth set: %v, %d files", err, len(files))
	}
	var all []script
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, parse(t, string(text))...)
	}
	return all
}

func parse(t testing.TB, text string) []script {
	t.Helper()
	var all []script
	lines := bufio.NewScanner(strings.NewReader(text))
	for n := 1; lines.Scan(); n++ {
		line := lines.Text()
		if name, ok := strings.CutPrefix(line, "=== "); ok {
			all = append(all, script{name: name, keep: 64 << 10, coverage: "compared"})
			continue
		}
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		if err := all[len(all)-1].line(line); err != nil {
			t.Fatalf("line %d: %v", n, err)
		}
	}
	return all
}

func (s *script) line(line string) (err error) {
	if line[1] == ' ' {
		return s.say(line[0], line[2:])
	}
	key, value, _ := strings.Cut(line, ": ")
	switch key {
	case "keep":
		s.keep, err = strconv.Atoi(value)
	case "order":
		s.ordered = value == "matters"
	case "rule":
		var rule shadow.Ignore
		rule, err = shadow.ParseIgnore(value)
		s.rules = append(s.rules, rule)
	case "differs":
		s.differs = append(s.differs, value)
	case "noise":
		s.noise = append(s.noise, value)
	case "offset":
		s.offset = value
	case "coverage":
		s.coverage = value
	case "reason":
		s.reason = value
	case "hears":
		value, err = strconv.Unquote(value)
		s.hears = &value
	default:
		err = fmt.Errorf("read %q: no such key", line)
	}
	return err
}

// say is a line of a party.
func (s *script) say(who byte, text string) (err error) {
	var e shadow.Event
	if end, ok := ends()[text]; ok {
		e.End = end
	} else if e.Bytes, err = spoken(text); err != nil {
		return err
	}
	for _, from := range map[byte][]shadow.Party{'C': {shadow.Client}, 'P': {shadow.Primary}, 'N': {shadow.Candidate}, '=': {shadow.Primary, shadow.Candidate}}[who] {
		e.From = from
		s.events = append(s.events, e)
	}
	return nil
}

func spoken(text string) ([]byte, error) {
	if text[0] == '"' {
		unquoted, err := strconv.Unquote(text)
		return []byte(unquoted), err
	}
	if times, said, ok := strings.Cut(text, " "); ok && times[0] == '@' {
		n, err := strconv.Atoi(times[1:])
		return []byte(strings.Repeat(said, n)), err
	}
	return []byte(text + "\n"), nil
}

// lagging has the candidate say all that it says when the others have.
func lagging(events []shadow.Event) []shadow.Event {
	late := func(e shadow.Event) bool { return e.From == shadow.Candidate }
	rest := slices.DeleteFunc(slices.Clone(events), late)
	return append(rest, slices.DeleteFunc(slices.Clone(events), func(e shadow.Event) bool { return !late(e) })...)
}

// leading has it speak before the primary does, once the client has.
func leading(events []shadow.Event) []shadow.Event {
	events = slices.Clone(events)
	for i := range events {
		for at := i; at > 0 && events[at].From == shadow.Candidate && events[at-1].From == shadow.Primary; at-- {
			events[at], events[at-1] = events[at-1], events[at]
		}
	}
	return events
}

// bytewise cuts all that is said into single bytes.
func bytewise(events []shadow.Event) []shadow.Event {
	var cut []shadow.Event
	for _, e := range events {
		for _, b := range e.Bytes {
			cut = append(cut, shadow.Event{From: e.From, Bytes: []byte{b}})
		}
		if e.End != shadow.Open {
			cut = append(cut, shadow.Event{From: e.From, End: e.End})
		}
	}
	return cut
}

// played is what became of a flow.
type played struct {
	sent     string
	exchange shadow.Exchange
	count    int
	moves    []shadow.Moves
	held     int // at most
}

// play has a driver hear the events, a millisecond apart. What it is lent is
// overwritten behind it.
func play(events []shadow.Event, session shadow.Session) (p played) {
	d := New()(session)
	now := time.Unix(1000, 0)
	for _, e := range events {
		now = now.Add(time.Millisecond)
		e.At, e.Bytes = now, slices.Clone(e.Bytes)
		m := d.Hear(e)
		for i := range e.Bytes {
			e.Bytes[i] = '?'
		}
		p.moves = append(p.moves, m)
		p.sent += string(m.Send)
		p.take(m.Exchanges)
		p.held = max(p.held, d.Held())
		if m.Done {
			break
		}
	}
	p.take(d.Stop(shadow.Dropped, "the script is over"))
	return p
}

func (p *played) take(exchanges []shadow.Exchange) {
	for _, x := range exchanges {
		p.exchange = x
		p.count++
	}
}

// judged is what is charged for a flow, and what is excused, and where it differs.
type judged struct {
	differs, excused []string
	offset           string
	coverage, reason string
}

func judge(x shadow.Exchange, rules []shadow.Ignore) judged {
	j := judged{coverage: string(x.Verdict), reason: x.Reason}
	if x.Verdict == "" {
		j.coverage = "compared"
	}
	for i, d := range shadow.Differences(x, rules) {
		switch {
		case d.Excuse != "":
			j.excused = append(j.excused, d.Path)
		case i == 0:
			j.differs = append(j.differs, fmt.Sprintf("%s %s: %s -> %s", x.Endpoint, d.Path, d.Expected, d.Got))
		}
	}
	j.offset = value(x.Candidate, "offset")
	return j
}

func value(r shadow.Reply, path string) string {
	for _, f := range r.Fields {
		if f.Path == path {
			return f.Value
		}
	}
	return ""
}
