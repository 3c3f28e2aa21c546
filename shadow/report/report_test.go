package report_test

import (
	"bytes"
	"crypto/tls"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/splitd/splitd/shadow"
	"github.com/splitd/splitd/shadow/report"
	"github.com/splitd/splitd/shadow/tally"
)

var update = flag.Bool("update", false, "write the golden files")

func clock(n int) time.Time {
	return time.Date(2026, 11, 26, 7, 0, 0, 0, time.UTC).Add(time.Duration(n) * time.Second)
}

func rule(t testing.TB, text string) shadow.Ignore {
	t.Helper()
	r, err := shadow.ParseIgnore(text)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// reply is one of "path=value", of the protocol where the path begins with a dot,
// deciding with !, text with '.
func reply(took time.Duration, all ...string) shadow.Reply {
	r := shadow.Reply{Asked: clock(0), First: clock(0).Add(took / 2), Last: clock(0).Add(took)}
	for _, one := range all {
		path, value, _ := strings.Cut(one, "=")
		f := shadow.Field{Level: shadow.Semantic, Value: value}
		switch path[0] {
		case '!':
			f.Level, f.Plain = shadow.Decision, true
		case '.':
			f.Plain = true
		case '\'':
			f.Level = shadow.Text
		}
		f.Path = strings.TrimLeft(path, "!.'")
		r.Fields = append(r.Fields, f)
	}
	return r
}

// mail is the tally of a thousand exchanges of SMTP: 4 recipients are refused, SIZE
// is lower, the greeting differs by itself, DSN may be missing by a rule.
func mail(t testing.TB) tally.State {
	t.Helper()
	rules := []shadow.Ignore{rule(t, "ignore EHLO | keyword DSN"), rule(t, "ignore DATA | text")}
	counted := tally.New(tally.Options{Protocol: "smtp", Ignore: rules, WarmUp: 10})
	add := func(i int, x shadow.Exchange) { counted.Add(x, shadow.Differences(x, rules), clock(i)) }
	for i := range 940 {
		x := shadow.Exchange{Endpoint: "RCPT", Request: []shadow.Field{{Path: "command", Value: "RCPT TO:<bob@example.com>"}}}
		took := time.Duration(i%100+1) * time.Millisecond
		switch {
		case i%4 == 0:
			x.Endpoint, x.Request = "EHLO", []shadow.Field{{Path: "command", Value: "EHLO", Plain: true}}
			x.Primary = reply(took, "!code=250", ".keyword SIZE=20480000", ".keyword DSN=", "'greeting="+fmt.Sprintf("4f2a1b%02x", i%256))
			x.Candidate = reply(took-500*time.Microsecond, "!code=250", ".keyword SIZE=10240000", "'greeting="+fmt.Sprintf("5e3b2c%02x", i%256))
		case i%200 == 1 && i < 800:
			x.Primary, x.Candidate = reply(took, "!code=250", "'text=Ok"), reply(took, "!code=550", "'text=no such user here")
		default:
			x.Primary, x.Candidate = reply(took, "!code=250", "'text=Ok"), reply(took+2*time.Millisecond, "!code=250", "'text=Ok")
		}
		add(i, x)
	}
	for i := range 200 {
		x := shadow.Exchange{Endpoint: "EHLO", Primary: reply(1, "'greeting=4f2a1b3c"), Candidate: reply(1, fmt.Sprintf("'greeting=4f2a1b%02x", i))}
		counted.AddControl(x, shadow.Differences(x, rules), clock(i))
	}
	for i, v := range []shadow.Verdict{shadow.Skipped, shadow.Opaque, shadow.Dropped, shadow.AfterDivergence, shadow.CandidateError} {
		for range []int{40, 10, 2, 6, 2}[i] {
			add(950, shadow.Exchange{Endpoint: "DATA", Verdict: v, Reason: []string{"mode envelope sends no mail", "STARTTLS at byte 117", "over flow_budget", "the code of RCPT differs", "timed out after 30s"}[i]})
		}
	}
	return counted.State()
}

func mailReport(t testing.TB) report.Report {
	return report.Make(mail(t), report.Options{
		Split: "mx", Primary: "old", Candidate: "new", Rule: "envelope: up to RCPT, then RSET and QUIT; no mail is sent",
	})
}

func write(t testing.TB, format report.Format, r report.Report) string {
	t.Helper()
	var b bytes.Buffer
	if err := report.Write(&b, format, r, report.Limits{MaxMismatch: 0.001, MinCompared: 500}); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", path, diff)
	}
}

func extension(f report.Format) string {
	return map[report.Format]string{report.Table: "txt", report.JSON: "json", report.Markdown: "md", report.HTML: "html", report.JUnit: "xml"}[f]
}

func TestAReportIsWrittenInEveryForm(t *testing.T) {
	t.Parallel()
	r := mailReport(t)
	for _, format := range report.Formats() {
		golden(t, "mail."+extension(format), write(t, format, r))
	}
	empty := report.Make(tally.New(tally.Options{}).State(), report.Options{Split: "web"})
	for _, format := range report.Formats() {
		golden(t, "empty."+extension(format), write(t, format, empty))
	}
	var b bytes.Buffer
	if err := report.WriteSample(&b, r, r.Differences[0].Samples[0]); err != nil {
		t.Fatal(err)
	}
	golden(t, "sample.txt", b.String())
}

func TestTheNumbersAreThoseOfTheTally(t *testing.T) {
	t.Parallel()
	r := mailReport(t)
	if diff := cmp.Diff(tally.Coverage{Eligible: 1000, Compared: 940, Skipped: 40, Opaque: 10, Dropped: 2, AfterDivergence: 6, CandidateError: 2}, r.Cover); diff != "" {
		t.Errorf("coverage (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(report.Exchanges{Match: 701, Mismatch: 239}, r.Exchanges); diff != "" {
		t.Errorf("exchanges (-want +got):\n%s", diff)
	}
	var charged int64
	for _, d := range append(r.Differences, r.Suspects...) {
		if d.Kind != shadow.Unavailable {
			charged += d.Count
		}
	}
	if charged != r.Exchanges.Mismatch {
		t.Errorf("%d exchanges are charged, %d mismatch", charged, r.Exchanges.Mismatch)
	}
}

// keys are all keys of a JSON object, with those inside.
func keys(prefix string, v any) (all []string) {
	switch v := v.(type) {
	case map[string]any:
		for k, inner := range v {
			all = append(append(all, prefix+k), keys(prefix+k+".", inner)...)
		}
	case []any:
		if len(v) > 0 {
			all = keys(prefix, v[0])
		}
	}
	return all
}

func TestTheWireFormHasTheNamesThatWerePromised(t *testing.T) {
	t.Parallel()
	var got map[string]any
	if err := json.Unmarshal([]byte(write(t, report.JSON, mailReport(t))), &got); err != nil {
		t.Fatal(err)
	}
	has := make(map[string]bool)
	for _, k := range keys("", got) {
		has[k] = true
	}
	for k := range strings.FieldsSeq(`apiVersion kind split window.from window.to verdict coverage.eligible coverage.compared coverage.skipped coverage.opaque
		coverage.truncated coverage.dropped coverage.after_divergence coverage.candidate_error coverage.primary_error exchanges.match exchanges.mismatch exchanges.noise
		differences.protocol differences.endpoint differences.field differences.kind differences.level differences.expected differences.got differences.count
		differences.rate differences.lower_bound differences.first_seen differences.last_seen differences.samples suspects masked.endpoint masked.field masked.why
		latency.primary.p50_ms latency.primary.p95_ms latency.primary.p99_ms latency.candidate.p50_ms latency.paired_delta.p50_ms latency.paired_delta.p99_ms`) {
		if !has[k] {
			t.Errorf("the JSON has no %s", k)
		}
	}
	if n := len(got["coverage"].(map[string]any)); n != 9 {
		t.Errorf("coverage has %d integers, want the nine", n)
	}
	if got["apiVersion"] != "splitd/v1" || got["kind"] != "ShadowReport" || got["verdict"] != "differs" {
		t.Errorf("%v %v %v", got["apiVersion"], got["kind"], got["verdict"])
	}
}

func TestAReportComesBackFromItsJSON(t *testing.T) {
	t.Parallel()
	r := mailReport(t)
	var back report.Report
	if err := json.Unmarshal([]byte(write(t, report.JSON, r)), &back); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(r, back); diff != "" {
		t.Errorf("(-made +read):\n%s", diff)
	}
}

// Promise 4 of the design: what is reported is accounted for, and where it is not,
// the report says so and decides nothing.
func TestAReportWhoseSumsAreWrongSaysSoAndDecidesNothing(t *testing.T) {
	t.Parallel()
	whole := mail(t)
	limits := report.Limits{MaxMismatch: 1}
	if r := report.Make(whole, report.Options{}); r.Unaccounted() != "" || strings.Contains(r.Summary, "rely") || limits.Decide(r).ExitCode != 0 {
		t.Errorf("of sums that are right: %q, %q", r.Unaccounted(), r.Summary)
	}
	for name, breaks := range map[string]func(*tally.State){
		"coverage":  func(s *tally.State) { s.Coverage.Skipped-- },
		"exchanges": func(s *tally.State) { s.Combinations[0].Count += s.Coverage.Eligible },
	} {
		s := mail(t)
		breaks(&s)
		r := report.Make(s, report.Options{})
		if r.Unaccounted() == "" || !strings.Contains(r.Summary, "Do not rely on this: "+r.Unaccounted()) {
			t.Errorf("%s: %q, summary %q", name, r.Unaccounted(), r.Summary)
		}
		if d := limits.Decide(r); d.ExitCode != 6 || d.Why != r.Unaccounted() {
			t.Errorf("%s: %+v, want 6: a human is needed", name, d)
		}
	}
}

func TestASampleThatIsWithheldSaysForWhomItIs(t *testing.T) {
	t.Parallel()
	r := mailReport(t)
	r.Samples = []tally.Sample{{ID: 17, Endpoint: "RCPT", Withheld: true}}
	err := report.WriteSample(&bytes.Buffer{}, r, 17)
	if want := "show sample 17: it holds what client and servers said (samples: full), which is for root, the daemon's own user and the group of the control socket: use sudo"; err == nil || err.Error() != want {
		t.Errorf("%v, want %q", err, want)
	}
	if page := write(t, report.HTML, r); !strings.Contains(page, "This sample is left out: it holds what client and servers said") {
		t.Error("the page does not say why the sample is empty")
	}
}

func TestUnknownFormatsAndSamplesSayWhatThereIs(t *testing.T) {
	t.Parallel()
	err := report.Write(&bytes.Buffer{}, "pdf", report.Report{}, report.Limits{})
	if err == nil || !strings.Contains(err.Error(), `"pdf" is no format: use one of table, json, markdown, html, junit`) {
		t.Error(err)
	}
	err = report.WriteSample(&bytes.Buffer{}, mailReport(t), 9999)
	if err == nil || !strings.Contains(err.Error(), "show sample 9999") {
		t.Error(err)
	}
}

func TestACandidateThatSecuresNothingIsSaidWhatToLookAt(t *testing.T) {
	for name, test := range map[string]struct {
		exchanges []shadow.Exchange
		want      string
	}{
		"in TLS, which is told before what comes of it": {
			[]shadow.Exchange{{Endpoint: "GET /", Verdict: shadow.CandidateError, Reason: "no answer: no TLS with it"}, shadow.Secured(shadow.Handshake{}, shadow.Handshake{Failed: "tls: handshake failure"}, clock(0))},
			"first of all TLS: the TLS handshake fails: handshake failure. It has answered nothing yet: see that its port is the right one, and expects what it gets first (identity: a PROXY header or none; TLS), and that its certificate is one that shadow.tls.to_candidate takes.",
		},
		"in clear": {
			[]shadow.Exchange{{Endpoint: "RCPT", Verdict: shadow.CandidateError, Reason: "refused"}},
			"first of all RCPT: refused. It has answered nothing yet: see that its port is the right one, and expects what it gets first (identity: a PROXY header or none).",
		},
	} {
		t.Run(name, func(t *testing.T) {
			counted := tally.New(tally.Options{Protocol: "smtp"})
			for i := range 500 {
				for _, x := range test.exchanges {
					counted.Add(x, shadow.Differences(x, nil), clock(i))
				}
			}
			r := report.Make(counted.State(), report.Options{Candidate: "new"})
			if !strings.Contains(r.Summary, test.want) {
				t.Errorf("the summary is %q, want %q in it", r.Summary, test.want)
			}
		})
	}
}

// Names of two certificates stand beside each other where they are the same, whatever
// stands before them; what was asked for is in words.
func TestASampleHasWhatIsTheSameInOneLine(t *testing.T) {
	shown := func(names ...string) shadow.Handshake {
		h := shadow.Handshake{Version: tls.VersionTLS13, Least: tls.VersionTLS12, Most: tls.VersionTLS13}
		h.Certificate.Names = names
		return h
	}
	x := shadow.Secured(shown("a.example", "b.example", "c.example"), shown("b.example", "c.example", "d.example"), clock(0))
	counted := tally.New(tally.Options{Protocol: "smtp"})
	for i := range 500 {
		counted.Add(x, shadow.Differences(x, nil), clock(i))
	}
	r := report.Make(counted.State(), report.Options{})
	var b bytes.Buffer
	if err := report.WriteSample(&b, r, r.Differences[0].Samples[0]); err != nil {
		t.Fatal(err)
	}
	got := regexp.MustCompile(` {2,}`).ReplaceAllString(b.String(), " | ")
	for _, line := range []string{"versions | TLS 1.2 to TLS 1.3", "name | a.example | d.example\n", "name | b.example | b.example\n", "name | c.example | c.example\n"} {
		if !strings.Contains(got, line) {
			t.Errorf("%q is not in:\n%s", line, got)
		}
	}
}

// A reason stands at the end of a sentence: what cuts it cuts what it is.
func TestWhyACandidateDoesNotAnswerIsToldWhole(t *testing.T) {
	t.Parallel()
	reason := "the TLS handshake fails: its certificate is not trusted: x509: certificate is valid for " + strings.Repeat("a-name-of-some-length.example.org, ", 5) + "not mx.example.org"
	x := shadow.Exchange{Endpoint: "TLS", Verdict: shadow.CandidateError, Reason: reason}
	all := tally.New(tally.Options{Protocol: "smtp"})
	for i := range 50 {
		all.Add(x, shadow.Differences(x, nil), clock(i))
	}
	r := report.Make(all.State(), report.Options{})
	if !strings.Contains(r.Summary, "TLS: "+reason+". It has answered nothing yet") || len(r.NotCompared) != 1 || r.NotCompared[0].Reason != reason {
		t.Errorf("%s\n%+v", r.Summary, r.NotCompared)
	}
	var b strings.Builder
	if err := report.WriteSample(&b, r, r.Differences[0].Samples[0]); err != nil || !strings.Contains(b.String(), reason) {
		t.Errorf("%v\n%s", err, b.String())
	}
	var page strings.Builder
	if err := report.Write(&page, report.Table, r, report.Limits{}); err != nil || !strings.Contains(page.String(), r.Summary) {
		t.Errorf("the table has a part of the summary:\n%s", page.String())
	}
}
