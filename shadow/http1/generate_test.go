package http1

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/splitd/splitd/shadow"
)

// The generator plants k differences in n exchanges at random, and noise in all: so
// nobody can tune the comparer to the truth set.

// A plant is a difference that may be planted in replies of some kinds.
type plant struct {
	name string
	want string   // "KIND | PATH"
	in   []string // kinds of pages; none is all
}

func plants() []plant {
	return []plant{
		{"class", "value | class", nil},
		{"header less", "missing | header x-frame-options", nil},
		{"header", "value | header x-limit", nil},
		{"cookie", "value | cookie session", nil},
		{"validator", "value | header etag", nil},
		{"type", "value | header content-type", nil},
		{"close", "value | connection", nil},
		{"no reply", "availability | reply", nil},
		{"cut reply", "availability | reply", nil},
		{"json value", "value | body $.items[].price", []string{"json"}},
		{"json type", "class | body $.name", []string{"json"}},
		{"json less", "missing | body $.owner.id", []string{"json"}},
		{"json more", "extra | body $.debug", []string{"json"}},
		{"html text", "value | body <h1>", []string{"html"}},
		{"html less", "missing | body <p>", []string{"html"}},
		{"html link", "value | body <a href>", []string{"html"}},
		{"text", "value | body text", []string{"text"}},
		{"bytes", "value | body bytes", []string{"bytes"}},
		{"location", "value | header location", []string{"redirect"}},
	}
}

// A page is what there is to be answered: drawn once, and rendered by each server
// with noise of its own.
type page struct {
	kind   string
	price  int
	words  []string
	items  int
	target string
	name   string // of the endpoint
}

func somePage(r *rand.Rand) page {
	p := page{kind: []string{"json", "html", "text", "bytes", "redirect"}[r.IntN(5)], price: r.IntN(1000), items: 1 + r.IntN(20)}
	for range 3 + r.IntN(5) {
		p.words = append(p.words, []string{"apple", "pear", "blue", "house", "tree", "seven", "late", "early"}[r.IntN(8)])
	}
	p.target, p.name = fmt.Sprintf("/%s/%d?x=%d", p.kind, r.IntN(1000), r.IntN(9)), "GET /"+p.kind+"/{id}"
	return p
}

func uuid(r *rand.Rand) string {
	return fmt.Sprintf("%08x-%04x-4%03x-8%03x-%012x", r.Uint32(), r.IntN(1<<16), r.IntN(1<<12), r.IntN(1<<12), r.Uint64()>>16)
}

// render is the page as one server says it.
func (p page) render(r *rand.Rand, planted string, encoders map[string]func([]byte) []byte) []byte {
	at := time.Date(2026, 11, 20, 14, 0, r.IntN(60), 0, time.UTC)
	pick := func(b bool, yes, no string) string {
		if b {
			return yes
		}
		return no
	}
	status := pick(p.kind == "redirect", "302 Found", "200 OK")
	status = pick(planted == "class", "503 Service Unavailable", status)
	types := map[string]string{"json": "application/json", "html": "text/html; charset=utf-8", "text": "text/plain", "bytes": "image/png", "redirect": "text/plain"}
	contentType := pick(planted == "type", "application/x-other", types[p.kind])
	if planted == "type" && p.kind != "bytes" {
		contentType = types[p.kind] + "; charset=utf-16" // the kind of body stays
	}
	head := []string{
		"Date: " + at.Format("Mon, 02 Jan 2006 15:04:05 GMT"),
		fmt.Sprintf("Server: web/%d", r.IntN(9)),
		"X-Request-Id: " + uuid(r),
		"ETag: " + pick(planted == "validator", "W/", "") + `"` + uuid(r)[:8] + `"`,
		"X-Limit: " + pick(planted == "header", "200", "100"),
		"Set-Cookie: session=" + uuid(r) + "; Path=/" + pick(planted == "cookie", "", "; HttpOnly"),
		"Content-Type: " + contentType,
		pick(r.IntN(2) == 0, "Cache-Control: private, max-age=60", "Cache-Control: max-age=60,private"),
	}
	if planted != "header less" {
		head = append(head, "X-Frame-Options: DENY")
	}
	if planted == "close" {
		head = append(head, "Connection: close")
	}
	if p.kind == "redirect" {
		path := pick(planted == "location", "/elsewhere", "/there")
		head = append(head, "Location: "+pick(r.IntN(2) == 0, path, "http://example.org"+path))
	}
	body := p.body(r, planted, at)
	return frame(r, encoders, status, head, body)
}

func (p page) body(r *rand.Rand, planted string, at time.Time) []byte {
	words := slices.Clone(p.words)
	switch p.kind {
	case "json":
		items := make([]any, p.items)
		for i := range items {
			items[i] = map[string]any{"id": i, "price": p.price + i, "tags": p.words[:i%3]}
		}
		tree := map[string]any{"items": items, "name": words[0], "owner": map[string]any{"id": p.price, "mail": nil}, "ok": true, "at": at.Format(time.RFC3339), "trace": uuid(r)}
		switch planted {
		case "json value":
			items[r.IntN(len(items))].(map[string]any)["price"] = p.price + 5000
		case "json type":
			tree["name"] = p.price
		case "json less":
			delete(tree["owner"].(map[string]any), "id")
		case "json more":
			tree["debug"] = "on"
		}
		return shuffled(r, tree)
	case "html":
		if planted == "html text" {
			words[1] = "changed"
		}
		less := fmt.Sprintf("<p>%d in stock</p>", p.price)
		if planted == "html less" {
			less = ""
		}
		link := "/cart"
		if planted == "html link" {
			link = "/basket"
		}
		return fmt.Appendf(nil, `<!doctype html><title>%s</title><!-- %s --><h1>%s %s</h1>%s<p>made at %s by %s</p><form><input name=csrf value=%q></form><a href="%s?t=%d">go</a><script>var x=%d</script>`,
			words[0], uuid(r), words[1], strings.Repeat(" ", r.IntN(4)), less, at.Format(time.RFC3339), uuid(r), uuid(r), link, r.IntN(100), r.IntN(100))
	case "text":
		if planted == "text" {
			words[2] = "changed"
		}
		return fmt.Appendf(nil, "%s\n%s\n%d apples at %s, id=%s\n", words[1], words[2], p.price, at.Format(time.RFC3339), uuid(r))
	case "bytes":
		b := bytes.Repeat([]byte{0x89, byte(p.price), 0, byte(p.items)}, 20*p.items)
		if planted == "bytes" {
			b[r.IntN(len(b))] ^= 1
		}
		return b
	default:
		return nil
	}
}

// shuffled writes JSON with its keys in any order and white space anywhere.
func shuffled(r *rand.Rand, value any) []byte {
	var b bytes.Buffer
	space := func() { b.WriteString(strings.Repeat(" ", r.IntN(2))) }
	switch v := value.(type) {
	case map[string]any:
		b.WriteByte('{')
		keys := make([]string, 0, len(v))
		for key := range v {
			keys = append(keys, key)
		}
		slices.Sort(keys)
		r.Shuffle(len(keys), func(i, j int) { keys[i], keys[j] = keys[j], keys[i] })
		for i, key := range keys {
			if i > 0 {
				b.WriteByte(',')
			}
			space()
			fmt.Fprintf(&b, "%q:", key)
			space()
			b.Write(shuffled(r, v[key]))
		}
		b.WriteByte('}')
	case []any:
		b.WriteByte('[')
		for i, item := range v {
			if i > 0 {
				b.WriteByte(',')
			}
			b.Write(shuffled(r, item))
		}
		b.WriteByte(']')
	case int:
		b.WriteString([]string{fmt.Sprint(v), fmt.Sprintf("%d.0", v), fmt.Sprintf("%de0", v)}[r.IntN(3)])
	default:
		text, _ := json.Marshal(v)
		b.Write(text)
	}
	return b.Bytes()
}

// frame writes a reply, with its headers in any order and case, coded and cut as
// may be.
func frame(r *rand.Rand, encoders map[string]func([]byte) []byte, status string, head []string, body []byte) []byte {
	if coding := []string{"gzip", "deflate", "br", "zstd"}[r.IntN(4)]; r.IntN(5) == 0 && len(body) > 0 {
		body = encoders[coding](body)
		head = append(head, "Content-Encoding: "+coding, "Vary: Accept-Encoding")
	}
	if r.IntN(2) == 0 {
		body = chunked(body, 1+r.IntN(50))
		head = append(head, "Transfer-Encoding: chunked")
	} else {
		head = append(head, fmt.Sprintf("Content-Length: %d", len(body)))
	}
	r.Shuffle(len(head), func(i, j int) { head[i], head[j] = head[j], head[i] })
	for i, line := range head {
		if name, value, _ := strings.Cut(line, ":"); r.IntN(2) == 0 {
			head[i] = strings.ToLower(name) + ":" + value
		}
	}
	return append(crlf("HTTP/1.1 "+status+"\n"+strings.Join(head, "\n")+"\n\n"), body...)
}

func TestPlantedDifferencesAreFoundAmongNoise(t *testing.T) {
	t.Parallel()
	encoders := make(map[string]func([]byte) []byte)
	for _, coding := range []string{"gzip", "deflate", "br", "zstd"} {
		encoders[coding] = func(b []byte) []byte { return coded(t, coding, b) }
	}
	var total score
	learnt := make(map[string]bool) // what any reply of an endpoint differed in by itself
	for seed := range uint64(16) {
		r := rand.New(rand.NewPCG(seed, 4))
		const n = 60
		k := r.IntN(n / 3)
		places := r.Perm(n)[:k]
		var want []string
		var found []finding
		for at := 0; at < n; {
			session := 1 + r.IntN(8)
			var scenes []scene
			var names []string
			for ; session > 0 && at < n; session, at = session-1, at+1 {
				p := somePage(r)
				c := scene{request: crlf("GET " + p.target + " HTTP/1.1\nHost: example.org\nAccept-Encoding: gzip, deflate, br, zstd\n\n")}
				c.primary, c.candidate, c.control = p.render(r, "", encoders), p.render(r, "", encoders), p.render(r, "", encoders)
				if slices.Contains(places, at) {
					planted := somePlant(r, p.kind)
					want = append(want, p.name+" "+planted.want)
					c.candidate = p.render(r, planted.name, encoders)
					switch planted.name {
					case "close":
						c.candidateEnds = shadow.Closed
					case "no reply":
						c.candidate, c.candidateEnds = nil, ends()[1+r.IntN(4)]
					case "cut reply":
						c.candidate, c.candidateEnds = c.candidate[:1+r.IntN(len(c.candidate)-1)], shadow.Reset
					}
				}
				scenes, names = append(scenes, c), append(names, p.name)
			}
			found = append(found, findings(t, r, scenes, names, learnt)...)
		}
		got := heaviestOf(found, learnt)
		slices.Sort(want)
		slices.Sort(got)
		before := total
		total.add(want, got)
		if total.wrong > before.wrong || total.missed > before.missed {
			t.Logf("seed %d: want %q, got %q", seed, want, got)
		}
	}
	total.check(t)
}

func somePlant(r *rand.Rand, kind string) plant {
	for {
		p := plants()[r.IntN(len(plants()))]
		if len(p.in) == 0 || slices.Contains(p.in, kind) {
			return p
		}
	}
}

// A finding is all that one exchange differs in.
type finding struct {
	endpoint    string
	differences []shadow.Difference
}

// heaviestOf is what is reported of each: the heaviest that is no noise.
func heaviestOf(found []finding, learnt map[string]bool) []string {
	var got []string
	for _, f := range found {
		for _, d := range f.differences {
			if name := fmt.Sprintf("%s %s | %s", f.endpoint, d.Kind, d.Path); d.Excuse == "" && !learnt[name] {
				got = append(got, name)
				break
			}
		}
	}
	return got
}

// findings plays a session, and learns from what its primary says when it is asked
// again.
func findings(t *testing.T, r *rand.Rand, scenes []scene, names []string, learnt map[string]bool) []finding {
	t.Helper()
	s := newTheatre(Options{}, 64<<10, scenes...)
	s.cut, s.pipelined = randomly(r), r.IntN(3) == 0
	told := s.play()
	again := slices.Clone(scenes)
	for i := range again {
		again[i].candidate, again[i].candidateEnds = again[i].control, shadow.Open
	}
	for _, x := range newTheatre(Options{}, 64<<10, again...).play() {
		for _, d := range shadow.Differences(x, nil) {
			learnt[fmt.Sprintf("%s %s | %s", x.Endpoint, d.Kind, d.Path)] = true
		}
	}
	var found []finding
	for i, x := range told {
		if i >= len(names) || x.Endpoint != names[i] {
			t.Fatalf("exchange %d is %q, want %q", i, x.Endpoint, names)
		}
		found = append(found, finding{x.Endpoint, shadow.Differences(x, Noise())})
	}
	return found
}
