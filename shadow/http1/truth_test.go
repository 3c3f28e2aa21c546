package http1

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/splitd/splitd/shadow"
)

// A truth is a pair of sessions and what is true of it: see the README beside them.
type truth struct {
	name     string
	want     []string // "KIND ENDPOINT | PATH"
	verdicts []string // "VERDICT ENDPOINT"
	rules    []shadow.Ignore
	options  Options
	scenes   []scene
}

// A score counts what was found and what should have been.
type score struct{ right, wrong, missed int }

func (s score) precision() float64 { return float64(s.right) / float64(max(s.right+s.wrong, 1)) }
func (s score) recall() float64    { return float64(s.right) / float64(max(s.right+s.missed, 1)) }

func (s *score) add(want, got []string) {
	want = slices.Clone(want)
	for _, g := range got {
		if i := slices.Index(want, g); i >= 0 {
			want = slices.Delete(want, i, i+1)
			s.right++
		} else {
			s.wrong++
		}
	}
	s.missed += len(want)
}

func (s score) check(t *testing.T) {
	t.Helper()
	t.Logf("precision %.4f, recall %.4f (%d right, %d wrong, %d missed)", s.precision(), s.recall(), s.right, s.wrong, s.missed)
	if s.precision() < 0.99 || s.recall() < 0.99 {
		t.Error("precision and recall must be 0.99 at least")
	}
}

func TestTruthIsFoundAndNoiseIsNot(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("../testdata/http/*.txt")
	if err != nil {
		t.Fatal(err)
	}
	var total score
	pairs := 0
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, truth := range readTruths(t, string(text)) {
			pairs++
			got, verdicts := truth.play()
			total.add(truth.want, got)
			if diff := cmp.Diff(truth.want, got); diff != "" {
				t.Errorf("%s: %s (-want +got):\n%s", filepath.Base(file), truth.name, diff)
			}
			if diff := cmp.Diff(truth.verdicts, verdicts); diff != "" {
				t.Errorf("%s: %s: not compared (-want +got):\n%s", filepath.Base(file), truth.name, diff)
			}
		}
	}
	t.Logf("%d pairs of sessions", pairs)
	if pairs < 60 {
		t.Errorf("%d pairs, want 60 at least", pairs)
	}
	total.check(t)
}

// play returns the heaviest difference of each exchange that no rule excuses and
// that was not learnt, and what was not compared.
func (tr truth) play() (differences, verdicts []string) {
	const keep = 16 << 10
	against := newTheatre(tr.options, keep, tr.scenes...).play()
	for i, x := range against {
		if x.Verdict != "" && x.Verdict != shadow.CandidateError {
			verdicts = append(verdicts, string(x.Verdict)+" "+x.Endpoint)
			continue
		}
		var learnt []shadow.Difference
		if i < len(tr.scenes) && tr.scenes[i].control != nil {
			again := tr.scenes[i]
			again.candidate, again.candidateEnds = again.control, shadow.Open
			learnt = shadow.Differences(newTheatre(tr.options, keep, again).play()[0], nil)
		}
		if d, ok := heaviest(shadow.Differences(x, slices.Concat(Noise(), tr.rules)), learnt); ok {
			differences = append(differences, fmt.Sprintf("%s %s | %s", d.Kind, x.Endpoint, d.Path))
		}
	}
	return differences, verdicts
}

// heaviest is what a tally would charge an exchange to.
func heaviest(all, learnt []shadow.Difference) (shadow.Difference, bool) {
	for _, d := range all {
		noise := slices.ContainsFunc(learnt, func(l shadow.Difference) bool { return l.Path == d.Path && l.Kind == d.Kind })
		if d.Excuse == "" && !noise {
			return d, true
		}
	}
	return shadow.Difference{}, false
}

// lines are what is said of one exchange, by the sign before it.
type lines struct{ request, primary, candidate, control []string }

func readTruths(t *testing.T, text string) []truth {
	t.Helper()
	var all []truth
	var l lines
	end := func() {
		if len(l.request) > 0 {
			last := &all[len(all)-1]
			last.scenes = append(last.scenes, l.scene(t))
		}
		l = lines{}
	}
	for line := range strings.SplitSeq(text, "\n") {
		sign, rest, _ := strings.Cut(line, " ")
		switch sign {
		case "":
		case "==":
			end()
			all = append(all, truth{name: rest})
		case ">":
			if len(l.primary) > 0 {
				end()
			}
			l.request = append(l.request, rest)
		case "=":
			l.primary, l.candidate, l.control = append(l.primary, rest), append(l.candidate, rest), append(l.control, rest)
		case "-":
			l.primary = append(l.primary, rest)
		case "+":
			l.candidate = append(l.candidate, rest)
		case "~":
			l.control = append(l.control, rest, "~")
		default:
			all[len(all)-1].says(t, sign, rest)
		}
	}
	end()
	return all
}

func (tr *truth) says(t *testing.T, word, rest string) {
	t.Helper()
	words := strings.Fields(rest)
	switch word {
	case "want":
		tr.want = append(tr.want, rest)
	case "verdict":
		tr.verdicts = append(tr.verdicts, rest)
	case "rule":
		rule, err := shadow.ParseIgnore(rest)
		if err != nil {
			t.Fatal(err)
		}
		tr.rules = append(tr.rules, rule)
	case "allow":
		tr.options.Allow = append(tr.options.Allow, Allow{words[0], words[1]})
	case "hosts":
		tr.options.PrimaryHosts, tr.options.CandidateHosts = words[:1], words[1:]
	default:
		t.Fatalf("%s: no line begins with %q", tr.name, word)
	}
}

func (l lines) scene(t *testing.T) scene {
	t.Helper()
	head := strings.HasPrefix(l.request[0], "HEAD ")
	c := scene{request: requestOf(l.request)}
	c.primary, c.primaryEnds = replyOf(t, l.primary, head, 7)
	c.candidate, c.candidateEnds = replyOf(t, l.candidate, head, 11)
	if slices.Contains(l.control, "~") {
		c.control, _ = replyOf(t, slices.DeleteFunc(l.control, func(s string) bool { return s == "~" }), head, 13)
	}
	return c
}

func requestOf(said []string) []byte {
	head, body := split(said)
	if strings.Count(head[0], " ") == 1 {
		head[0] += " HTTP/1.1"
	}
	if !hasLine(head, "Host") {
		head = append(head, "Host: example.org")
	}
	if len(body) > 0 && !hasLine(head, "Content-Length") {
		head = append(head, fmt.Sprintf("Content-Length: %d", len(body)))
	}
	return append(crlf(strings.Join(head, "\n")+"\n\n"), body...)
}

func replyOf(t *testing.T, said []string, toHead bool, chunk int) ([]byte, shadow.End) {
	t.Helper()
	end := shadow.Open
	said = slices.Clone(said)
	if n := len(said) - 1; strings.HasPrefix(said[n], "!") {
		end, said = shadow.End(said[n][1:]), said[:n]
	}
	if len(said) == 0 {
		return nil, end
	}
	if !strings.HasPrefix(said[0], "HTTP/") {
		return crlf(strings.Join(said, "\n") + "\n"), end
	}
	head, body := split(said)
	if strings.HasPrefix(head[0], "HTTP/1.1 1") {
		rest, end := replyOf(t, strings.Split(string(body), "\n"), toHead, chunk)
		return append(crlf(strings.Join(head, "\n")+"\n\n"), rest...), end
	}
	for _, coding := range []string{"gzip", "deflate", "br", "zstd"} {
		if slices.Contains(head, "Content-Encoding: "+coding) {
			body = coded(t, coding, body)
		}
	}
	status := strings.Fields(head[0])[1]
	switch {
	case hasLine(head, "Transfer-Encoding"):
		body = chunked(body, chunk)
	case !hasLine(head, "Content-Length") && end == shadow.Open && !toHead && status != "204" && status != "304":
		head = append(head, fmt.Sprintf("Content-Length: %d", len(body)))
	}
	return append(crlf(strings.Join(head, "\n")+"\n\n"), body...), end
}

func chunked(b []byte, size int) []byte {
	var out []byte
	for _, piece := range pieces(size)(b) {
		out = fmt.Appendf(out, "%x\r\n%s\r\n", len(piece), piece)
	}
	return append(out, "0\r\n\r\n"...)
}

func hasLine(head []string, name string) bool {
	return slices.ContainsFunc(head, func(line string) bool { return strings.HasPrefix(line, name+":") })
}

// split is a head and a body, in which escapes are replaced.
func split(said []string) (head []string, body []byte) {
	blank := slices.Index(said, "")
	if blank < 0 {
		return slices.Clone(said), nil
	}
	lines := slices.Clone(said[blank+1:])
	for i, line := range lines {
		if rest, ok := strings.CutPrefix(line, "@"); ok {
			times, text, _ := strings.Cut(rest, " ")
			n, _ := strconv.Atoi(times)
			lines[i] = strings.Repeat(text, n)
		}
	}
	text := regexp.MustCompile(`\\x[0-9a-f]{2}`).ReplaceAllStringFunc(strings.Join(lines, "\n"), func(s string) string {
		n, _ := strconv.ParseUint(s[2:], 16, 8)
		return string([]byte{byte(n)})
	})
	return slices.Clone(said[:blank]), []byte(text)
}
