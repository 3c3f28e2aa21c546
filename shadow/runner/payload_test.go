package runner_test

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/splitd/splitd/shadow"
	"github.com/splitd/splitd/shadow/report"
	"github.com/splitd/splitd/shadow/runner"
	"github.com/splitd/splitd/shadow/tally"
)

// Nothing that a client or a server says for people is in what is kept or reported,
// in no form that it is told in, unless samples are full.
func TestNoPayloadIsKeptOrReportedUnlessSamplesAreFull(t *testing.T) {
	const secret, other = "hunter2secret", "hunter3secret"
	dialogues := map[string][4]string{ // request, the primary's answer, the candidate's, what of it may be shown
		"raw":  {"login " + secret + "\n", "hello " + secret + "\n", "hello " + other + "\n", ""},
		"http": {"GET /a?token=" + secret + " HTTP/1.1\r\nHost: a\r\nCookie: s=" + secret + "\r\n\r\n", page(secret), page(other), ""},
		"smtp": {"VRFY " + secret + "\r\n", "252 2.0.0 " + secret + "\r\n", "252 2.0.0 " + other + " is here\r\n", ""},
	}
	for _, p := range protocols() {
		said := dialogues[p.name]
		for _, full := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s full %t", p.name, full), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					sink := counting(p.name, p.noise, tally.Options{Full: full})
					r := stage(t, p, sink, func(o *runner.Options) {
						o.Dial = dials(func(w wire) {
							spoken := protocol{name: p.name, greeting: p.greeting, request: said[0]}
							spoken.serve(w, func(int) (string, bool) { return said[2], true })
						})
					})
					for range 5 {
						tap := r.Open(flow())
						says(tap, "", p.greeting)
						says(tap, said[0], said[1])
						synctest.Wait()
						tap.End(shadow.Closed, time.Now())
					}
					time.Sleep(time.Minute)
					synctest.Wait()
					made := sink.report()
					if len(made.Differences) == 0 || len(made.Samples) == 0 {
						t.Fatalf("nothing differs: %+v, %q", made.Cover, sink.failures)
					}
					text := kept(t, sink, made)
					found := ""
					for _, word := range forms(secret, other) {
						if strings.Contains(text, word) {
							found = word
						}
					}
					if full != (found != "") {
						t.Errorf("it has %q", found)
					}
				})
			})
		}
	}
}

func page(word string) string {
	body := fmt.Sprintf(`{"word":%q}`, word)
	return fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\nSet-Cookie: s=%s\r\nX-Word: %s\r\n\r\n%s", len(body), word, word, body)
}

// forms are a word as it is, in hex, and as a hash of it.
func forms(words ...string) []string {
	var all []string
	for _, w := range words {
		sum := fnv.New64a()
		_, _ = sum.Write([]byte("hello " + w[:6]))
		all = append(all, w, hex.EncodeToString([]byte(w[:6])), hex.EncodeToString(sum.Sum(nil)))
	}
	return all
}

// kept is all that leaves a tally: for the disk, and in every form of a report.
func kept(t *testing.T, sink *counter, made report.Report) string {
	t.Helper()
	state, err := json.Marshal(sink.state())
	if err != nil {
		t.Fatal(err)
	}
	text := bytes.NewBuffer(state)
	for _, format := range report.Formats() {
		if err := report.Write(text, format, made, report.Limits{}); err != nil {
			t.Fatal(err)
		}
	}
	for _, s := range made.Samples {
		if err := report.WriteSample(text, made, s.ID); err != nil {
			t.Fatal(err)
		}
	}
	return text.String()
}

// A field that differs by itself in every exchange hides no value of another kind:
// neither a class that it never has, nor that it is missing.
func TestAFieldThatIsAlwaysNoiseHidesNoOtherClassOfValue(t *testing.T) {
	p := protocols()[1]
	id := func(n int) string { return fmt.Sprintf(`{"id":"%08x-1111-4111-8111-%012x"}`, n, n) }
	answer := func(body string) string {
		return fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
	}
	for name, test := range map[string]struct {
		says  func(n int) string
		kinds []shadow.Kind
	}{
		"another value": {func(n int) string { return answer(id(n + 5000)) }, nil},
		"an error":      {func(int) string { return answer(`{"id":"no such thing here"}`) }, []shadow.Kind{shadow.Retyped}},
		"null":          {func(int) string { return answer(`{"id":null}`) }, []shadow.Kind{shadow.Retyped}},
		"nothing":       {func(int) string { return answer(`{}`) }, []shadow.Kind{shadow.Missing}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				sink := counting(p.name, p.noise, tally.Options{})
				n := 0
				r := stage(t, p, sink, func(o *runner.Options) {
					o.Learns = func() bool { return true }
					o.Dial = dials(func(w wire) { p.serve(w, func(int) (string, bool) { return test.says(n), true }) })
					o.Control = dials(func(w wire) { p.serve(w, func(int) (string, bool) { return answer(id(n + 9000)), true }) })
				})
				for n = range 200 {
					tap := r.Open(flow())
					says(tap, p.request, answer(id(n)))
					synctest.Wait()
					tap.End(shadow.Closed, time.Now())
					synctest.Wait()
				}
				made := sink.report()
				var kinds []shadow.Kind
				for _, d := range made.Differences {
					kinds = append(kinds, d.Kind)
				}
				if fmt.Sprint(kinds) != fmt.Sprint(test.kinds) || len(made.Suspects) > 0 {
					t.Errorf("reported are %v, want %v; suspects %+v", kinds, test.kinds, made.Suspects)
				}
				if len(made.Masked) == 0 || made.Controls != 200 {
					t.Errorf("masked is %+v, %d controls", made.Masked, made.Controls)
				}
			})
		})
	}
}
