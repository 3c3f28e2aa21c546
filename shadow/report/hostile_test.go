package report_test

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/splitd/splitd/shadow"
	"github.com/splitd/splitd/shadow/report"
	"github.com/splitd/splitd/shadow/tally"
)

func hostile() []string {
	return []string{
		"\x1b]0;owned\x07\x1b[2J\x1b[31m", "\r\nsplitd: all is well\n", "\u202eevil\u2066\u200b", "\xff\xfe\xc3\x28", "\x00\x08\x7f\u009b31m",
		"<script>alert(1)</script>", `"><img src=x onerror=alert(1)>`, "javascript:alert(1)", "</style></title></svg><script>", "{{.Split}}", "]]><!--&amp;",
		"| a | b |\n|--|--|", "`code` ``more`` *bold* [x](http://evil.example) @everyone #1 ![i](http://evil.example/i)", "```\n# heading", "www.evil.example \\| \\`",
		strings.Repeat("long ", 40_000), strings.Repeat("\u0301", 3000), "a\tb\vc\fd",
	}
}

// hostileReports are one that was made of a tally, where every text is hostile, and
// one whose texts came from somewhere else and were never cleaned.
func hostileReports() []report.Report {
	all := tally.New(tally.Options{Full: true, Protocol: hostile()[0], WarmUp: -1})
	raw := report.Report{Split: hostile()[0], Verdict: report.Verdict(hostile()[5]), Latency: &report.Latency{}}
	for i, h := range hostile() {
		field := shadow.Field{Path: h, Value: h, Level: shadow.Semantic, Plain: true}
		other := field
		other.Value = h + "!"
		x := shadow.Exchange{Endpoint: h, Request: []shadow.Field{field}, Primary: shadow.Reply{Fields: []shadow.Field{field}}, Candidate: shadow.Reply{Fields: []shadow.Field{other}}}
		found := []shadow.Difference{{Path: h, Kind: shadow.Kind(h), Level: 200, Expected: h, Got: h + "!", Plain: true}, {Path: h, Kind: shadow.Missing, Expected: h, Excuse: h}}
		for range 5 {
			all.Add(x, found, clock(i))
			all.Add(shadow.Exchange{Endpoint: h, Verdict: shadow.Verdict(h + "?"), Reason: h}, nil, clock(i))
		}
		raw.Differences = append(raw.Differences, report.Difference{Protocol: h, Endpoint: h, Field: h, Kind: shadow.Kind(h), Level: h, Expected: h, Got: h, Why: h, Also: []string{h}, Samples: []int{i}})
		raw.Masked = append(raw.Masked, report.Mask{Endpoint: h, Field: h, Kind: shadow.Kind(h), Why: h})
		raw.NotCompared = append(raw.NotCompared, tally.Reason{Verdict: shadow.Verdict(h), Reason: h})
		raw.UnusedRules = append(raw.UnusedRules, h)
		raw.Endpoints = append(raw.Endpoints, tally.Endpoint{Name: h})
		values := []tally.Value{{Path: h, Value: h}}
		raw.Samples = append(raw.Samples, tally.Sample{ID: i, Endpoint: h, Request: values, Primary: values, Candidate: values, Differences: []tally.Difference{{Path: h, Kind: shadow.Kind(h), Level: 99, Expected: h, Got: h, Excuse: h}}})
	}
	raw.Suspects, raw.Rule, raw.Summary, raw.Primary, raw.Candidate, raw.Protocol = raw.Differences, hostile()[1], hostile()[2], hostile()[3], hostile()[12], hostile()[13]
	raw.Latency.Primary.Curve = []float64{1, 2}
	return []report.Report{report.Make(all.State(), report.Options{Split: hostile()[5], Primary: hostile()[6], Candidate: hostile()[12], Rule: hostile()[1]}), raw}
}

// harmless fails for what a terminal would take for more than text.
func harmless(t *testing.T, name, text string) {
	t.Helper()
	if !utf8.ValidString(text) {
		t.Errorf("%s is no UTF-8", name)
	}
	for _, r := range text {
		if r != '\n' && r != ' ' && !unicode.IsPrint(r) {
			t.Errorf("%s has %U", name, r)
			return
		}
	}
}

func TestWhatServersSayIsHarmlessInEveryForm(t *testing.T) {
	t.Parallel()
	for _, r := range hostileReports() {
		for _, format := range report.Formats() {
			text := write(t, format, r)
			harmless(t, string(format), text)
			if len(text) > 2<<20 {
				t.Errorf("%s has %d bytes", format, len(text))
			}
		}
		for _, s := range r.Samples {
			var b bytes.Buffer
			if err := report.WriteSample(&b, r, s.ID); err != nil {
				t.Fatal(err)
			}
			harmless(t, "sample", b.String())
		}
	}
}

func TestNoLineOfATableIsWrittenByAServer(t *testing.T) {
	t.Parallel()
	for _, r := range hostileReports() {
		for line := range strings.Lines(write(t, report.Table, r)) {
			if strings.HasPrefix(line, "splitd: all is well") {
				t.Errorf("a line begins with what a server says: %q", line)
			}
		}
	}
}

// The page is read as XML, which is stricter than what a browser reads: a value
// that ended an element or attribute, or began one, would show.
func TestHTMLHasNoElementOfAServerAndFetchesNothing(t *testing.T) {
	t.Parallel()
	ours := strings.Fields("html head meta title style body h1 h2 h3 span p table tr th td a code svg g rect line text polyline ul li")
	for _, r := range hostileReports() {
		d := xml.NewDecoder(strings.NewReader(write(t, report.HTML, r)))
		for {
			token, err := d.Token()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatalf("read page: %v", err)
			}
			e, ok := token.(xml.StartElement)
			if !ok {
				continue
			}
			if !slices.Contains(ours, e.Name.Local) {
				t.Errorf("the page has <%s>", e.Name.Local)
			}
			for _, a := range e.Attr {
				name := a.Name.Local
				if strings.HasPrefix(name, "on") || name == "src" || name == "href" && !strings.HasPrefix(a.Value, "#sample-") {
					t.Errorf("<%s> has %s=%q", e.Name.Local, name, a.Value)
				}
			}
		}
	}
}

func TestXMLAndJSONCanBeRead(t *testing.T) {
	t.Parallel()
	for _, r := range hostileReports() {
		var suites struct {
			Suites []struct {
				Tests int `xml:"tests,attr"`
				Cases []struct {
					Name string `xml:"name,attr"`
				} `xml:"testcase"`
			} `xml:"testsuite"`
		}
		if err := xml.Unmarshal([]byte(write(t, report.JUnit, r)), &suites); err != nil {
			t.Error(err)
		} else if s := suites.Suites[0]; s.Tests != len(s.Cases) || s.Tests != len(r.Endpoints)+1 {
			t.Errorf("%d tests, %d cases, of %d endpoints", s.Tests, len(s.Cases), len(r.Endpoints))
		}
		var back report.Report
		if err := json.Unmarshal([]byte(write(t, report.JSON, r)), &back); err != nil {
			t.Error(err)
		}
	}
}

// outsideCode is what is left of Markdown when its code spans are gone (CommonMark
// 0.31, 6.1).
func outsideCode(line string) string {
	var b strings.Builder
	for line != "" {
		if line[0] != '`' {
			b.WriteByte(line[0])
			line = line[1:]
			continue
		}
		fence := line[:len(line)-len(strings.TrimLeft(line, "`"))]
		rest, end := line[len(fence):], -1
		for i := 0; i < len(rest); i++ {
			run := len(rest[i:]) - len(strings.TrimLeft(rest[i:], "`"))
			if run == len(fence) {
				end = i + run
				break
			}
			i += max(0, run-1)
		}
		if end < 0 {
			b.WriteString(fence)
			line = rest
			continue
		}
		line = rest[end:]
	}
	return b.String()
}

func TestMarkdownHasNoMarksOfAServer(t *testing.T) {
	t.Parallel()
	for _, r := range hostileReports() {
		for line := range strings.Lines(write(t, report.Markdown, r)) {
			text := outsideCode(line)
			for _, bad := range []string{"<", "[", "@", "`", "http:", "www."} {
				if strings.Contains(text, bad) {
					t.Errorf("outside of code stands %q: %.300q", bad, text)
				}
			}
			if strings.HasPrefix(text, "# ") {
				t.Errorf("a heading of a server: %.100q", text)
			}
		}
	}
}

func FuzzWrite(f *testing.F) {
	for _, r := range append(hostileReports(), mailReport(f)) {
		text, err := json.Marshal(r)
		if err != nil {
			f.Fatal(err)
		}
		if len(text) < 50_000 {
			f.Add(text)
		}
	}
	f.Add([]byte(`{"latency":{"primary":{"curve_ms":[1e308,-1e308]},"pairs":1},"coverage":{"eligible":-5,"compared":9},"differences":[{"count":-3,"rate":-1}]}`))
	f.Add([]byte(`{"window":{},"endpoints":[{"name":"\u001b"}],"samples":[{"primary_took_ns":-1}]}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		var r report.Report
		if json.Unmarshal(text, &r) != nil {
			return
		}
		for _, format := range report.Formats() {
			harmless(t, string(format), write(t, format, r))
		}
	})
}
