package http1

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// A message is one as both parsers see it.
type message struct {
	Start    string
	Headers  map[string][]string
	Body     string
	Trailers map[string][]string
}

// well is a well-formed message at random, as bytes.
func well(r *rand.Rand, start string, bodiless bool) []byte {
	var b strings.Builder
	b.WriteString(start + "\r\n")
	for i := range r.IntN(6) {
		fmt.Fprintf(&b, "X-%c%d:%s%s%s\r\n", 'A'+rune(r.IntN(3)), i, strings.Repeat(" ", r.IntN(3)), text(r, r.IntN(20)), strings.Repeat("\t", r.IntN(2)))
	}
	body := text(r, r.IntN(200))
	switch kind := r.IntN(3); {
	case bodiless:
		b.WriteString("\r\n")
	case kind == 0:
		fmt.Fprintf(&b, "Content-Length: %d\r\n\r\n%s", len(body), body)
	case kind == 1:
		b.WriteString("Transfer-Encoding: chunked\r\n\r\n")
		for len(body) > 0 {
			n := 1 + r.IntN(len(body))
			fmt.Fprintf(&b, "%s%x%s\r\n%s\r\n", strings.Repeat("0", r.IntN(3)), n, []string{"", ";a=b", ";c"}[r.IntN(3)], body[:n])
			body = body[n:]
		}
		b.WriteString("0\r\n")
		for i := range r.IntN(3) {
			fmt.Fprintf(&b, "X-T%d: %s\r\n", i, text(r, 5))
		}
		b.WriteString("\r\n")
	default:
		b.WriteString("Content-Length: 0\r\n\r\n")
	}
	return []byte(b.String())
}

func text(r *rand.Rand, n int) string {
	b := make([]byte, n)
	for i := range b {
		b[i] = "abcdefghijklmnopqrstuvwxyz0123456789-=;,"[r.IntN(40)]
	}
	return string(b)
}

// ours reads messages with the framer, fed by pieces.
func ours(t *testing.T, b []byte, replies bool, pieces [][]byte, length func(*head) (length, *fault)) []message {
	t.Helper()
	f := framer{replies: replies, most: len(b)}
	var all []message
	var m message
	for _, piece := range pieces {
		for {
			n, p, err := f.next(piece)
			piece = piece[n:]
			if err != nil {
				t.Fatalf("%s in %q", err, b)
			}
			if p.kind == partial {
				break
			}
			switch p.kind {
			case headed:
				m = message{Start: f.head.method + " " + f.head.target, Headers: asMap(f.head.headers), Trailers: map[string][]string{}}
				if replies {
					m.Start = fmt.Sprint(f.head.status)
				}
				l, err := length(&f.head)
				if err != nil {
					t.Fatalf("%s in %q", err, b)
				}
				f.body(l)
			case payload:
				m.Body += string(p.raw)
			case whole:
				m.Trailers = asMap(f.trailer)
				all = append(all, m)
			case partial, framing:
			}
		}
	}
	return all
}

func asMap(lines []header) map[string][]string {
	all := map[string][]string{}
	for _, line := range lines {
		switch line.name {
		case "transfer-encoding", "content-length", "host": // net/http keeps these elsewhere
			continue
		}
		all[line.name] = append(all[line.name], line.value)
	}
	return all
}

func lower(h http.Header) map[string][]string {
	all := map[string][]string{}
	for name, values := range h {
		if name != "Content-Length" {
			all[strings.ToLower(name)] = values
		}
	}
	return all
}

func randomly(r *rand.Rand) func([]byte) [][]byte {
	return func(b []byte) [][]byte {
		var all [][]byte
		for len(b) > 0 {
			n := 1 + r.IntN(min(len(b), 1+r.IntN(40)))
			all = append(all, b[:n])
			b = b[n:]
		}
		return all
	}
}

func TestWellFormedRequestsAreReadAsNetHTTPReadsThem(t *testing.T) {
	t.Parallel()
	for seed := range uint64(500) {
		r := rand.New(rand.NewPCG(seed, 1))
		var b []byte
		for range 1 + r.IntN(4) {
			method := []string{"GET", "POST", "OPTIONS", "PURGE"}[r.IntN(4)]
			b = append(b, well(r, fmt.Sprintf("%s /%s?q=%s HTTP/1.1\r\nHost: example.org", method, text(r, 5), text(r, 3)), r.IntN(3) == 0)...)
		}
		var want []message
		for from := bufio.NewReader(bytes.NewReader(b)); ; {
			req, err := http.ReadRequest(from)
			if err == io.EOF { //nolint:errorlint // it is the reader's own
				break
			}
			if err != nil {
				t.Fatalf("net/http: %v in %q", err, b)
			}
			body, err := io.ReadAll(req.Body)
			if err != nil {
				t.Fatalf("net/http: %v in %q", err, b)
			}
			want = append(want, message{req.Method + " " + req.RequestURI, lower(req.Header), string(body), lower(req.Trailer)})
		}
		got := ours(t, b, false, randomly(r)(b), func(h *head) (length, *fault) { return requestLength(h, 0) })
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatalf("seed %d (-net/http +ours):\n%s\n%q", seed, diff, b)
		}
	}
}

func TestWellFormedRepliesAreReadAsNetHTTPReadsThem(t *testing.T) {
	t.Parallel()
	for seed := range uint64(500) {
		r := rand.New(rand.NewPCG(seed, 2))
		var b []byte
		var methods []string
		for range 1 + r.IntN(4) {
			method, status := []string{"GET", "HEAD", "POST"}[r.IntN(3)], []string{"200 OK", "204 No Content", "304 Not Modified", "404 Not Found", "500"}[r.IntN(5)]
			methods = append(methods, method)
			bodiless := method == "HEAD" || status[0] == '3' || status[:3] == "204"
			reply := well(r, "HTTP/1.1 "+status, bodiless)
			if !bodiless && !bytes.Contains(reply, []byte("\r\nContent-Length")) && !bytes.Contains(reply, []byte("\r\nTransfer-Encoding")) {
				t.Fatalf("a body without a length: %q", reply)
			}
			b = append(b, reply...)
		}
		var want []message
		from := bufio.NewReader(bytes.NewReader(b))
		for _, method := range methods {
			res, err := http.ReadResponse(from, &http.Request{Method: method})
			if err != nil {
				t.Fatalf("net/http: %v in %q", err, b)
			}
			body, err := io.ReadAll(res.Body)
			if err != nil {
				t.Fatalf("net/http: %v in %q", err, b)
			}
			want = append(want, message{fmt.Sprint(res.StatusCode), lower(res.Header), string(body), lower(res.Trailer)})
		}
		next := 0
		got := ours(t, b, true, randomly(r)(b), func(h *head) (length, *fault) {
			next++
			return replyLength(h, methods[next-1], 0)
		})
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatalf("seed %d (-net/http +ours):\n%s\n%q", seed, diff, b)
		}
	}
}

// FuzzFramer: what ours takes for a request, net/http takes for the same, or for
// none at all: nothing gets past that a server may read in another way.
func FuzzFramer(f *testing.F) {
	for _, seed := range []string{
		"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
		"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabcGET / HTTP/1.0\r\n\r\n",
		"POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3;e=f\r\nabc\r\n0\r\nT: u\r\n\r\n",
		"GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding : chunked\r\n\r\n",
		"\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
	} {
		f.Add([]byte(seed), uint8(1))
		f.Add([]byte(seed), uint8(200))
	}
	f.Fuzz(func(t *testing.T, b []byte, size uint8) {
		whole, wholeFault := readAll(b, [][]byte{b})
		cut, cutFault := readAll(b, pieces(max(int(size), 1))(b))
		if diff := cmp.Diff(whole, cut); diff != "" || wholeFault != cutFault {
			t.Fatalf("in pieces of %d: %q, whole: %q; (-whole +cut):\n%s", size, cutFault, wholeFault, diff)
		}
		from := bufio.NewReader(bytes.NewReader(b))
		for i, m := range whole {
			req, err := http.ReadRequest(from)
			if err != nil {
				return // it is stricter there
			}
			body, err := io.ReadAll(req.Body)
			if err != nil {
				return
			}
			if req.Method+" "+req.RequestURI != m.Start || string(body) != m.Body {
				t.Fatalf("request %d is %q %q for us, %s %s %q for net/http", i, m.Start, m.Body, req.Method, req.RequestURI, body)
			}
		}
	})
}

func readAll(b []byte, pieces [][]byte) (all []message, failed string) {
	f := framer{most: len(b)}
	var m message
	for _, piece := range pieces {
		for {
			n, p, err := f.next(piece)
			piece = piece[n:]
			if err != nil {
				return all, err.String()
			}
			if p.kind == partial {
				break
			}
			switch p.kind {
			case headed:
				m = message{Start: f.head.method + " " + f.head.target}
				l, err := requestLength(&f.head, f.at)
				if err != nil {
					return all, err.String()
				}
				f.body(l)
			case payload:
				m.Body += string(p.raw)
			case whole:
				all = append(all, m)
			case partial, framing:
			}
		}
	}
	return all, ""
}
