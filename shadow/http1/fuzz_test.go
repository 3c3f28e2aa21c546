package http1

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/splitd/splitd/shadow"
)

// script writes events as the fuzz target reads them.
func script(events ...shadow.Event) []byte {
	var b []byte
	for _, e := range events {
		for first := true; first || len(e.Bytes) > 0; first = false {
			n := min(len(e.Bytes), 255)
			end := byte(0)
			for i, known := range ends() {
				if n == len(e.Bytes) && known == e.End {
					end = byte(i)
				}
			}
			b = append(b, byte(e.From)|end<<2, byte(n))
			b = append(b, e.Bytes[:n]...)
			e.Bytes = e.Bytes[n:]
		}
	}
	return b
}

func ends() []shadow.End {
	return []shadow.End{shadow.Open, shadow.Closed, shadow.Reset, shadow.Refused, shadow.TimedOut}
}

func says(from shadow.Party, text string) shadow.Event {
	return shadow.Event{From: from, Bytes: crlf(text)}
}

// FuzzSession: whatever the parties do, the driver does not panic, holds no more
// than it may, and returns each exchange that has begun once. Where nothing is
// allowed, no connection of the candidate gets a request that changes something.
func FuzzSession(f *testing.F) {
	const upgrade, switched = "GET /chat HTTP/1.1\nConnection: Upgrade\nUpgrade: websocket\n\n", "HTTP/1.1 101 Switching Protocols\nUpgrade: websocket\n\nraw"
	const expect = "POST /orders HTTP/1.1\nExpect: 100-continue\nContent-Length: 5\n\n"
	for _, events := range [][]shadow.Event{
		{says(shadow.Client, get), says(shadow.Primary, hello), says(shadow.Candidate, hello), {From: shadow.Client, End: shadow.Closed}},
		{says(shadow.Client, get+post+get), says(shadow.Primary, hello+hello+hello), says(shadow.Candidate, hello), says(shadow.Candidate, hello), says(shadow.Candidate, hello)},
		{says(shadow.Client, upgrade), says(shadow.Primary, switched), says(shadow.Candidate, switched), says(shadow.Client, "x"), {From: shadow.Primary, End: shadow.Closed}, {From: shadow.Candidate, End: shadow.Reset}},
		{says(shadow.Client, expect), says(shadow.Primary, "HTTP/1.1 100 Continue\n\n"), says(shadow.Client, "hello"), says(shadow.Candidate, "HTTP/1.1 100 Continue\n\n"), says(shadow.Primary, hello), says(shadow.Candidate, "HTTP/1.1 500 Oh\n\nx"), {From: shadow.Candidate, End: shadow.Closed}},
		{says(shadow.Client, get), says(shadow.Candidate, hello), {From: shadow.Candidate, End: shadow.Closed}, says(shadow.Primary, hello), says(shadow.Client, get), says(shadow.Candidate, hello), {From: shadow.Candidate, End: shadow.Closed}},
		{says(shadow.Client, get), says(shadow.Primary, "HTTP/1.1 200 OK\nTransfer-Encoding: chunked\nContent-Encoding: gzip\n\n3\n\x1f\x8b\x08\n0\nA: b\n\n"), says(shadow.Candidate, "HTTP/1.1 200 OK\nContent-Type: application/json\nContent-Length: 7\n\n{\"a\":1}")},
		{says(shadow.Client, get), {From: shadow.Candidate, End: shadow.Refused}, says(shadow.Primary, "HTTP/1.0 200 OK\nContent-Type: text/html\n\n<p>"), {From: shadow.Primary, End: shadow.Closed}},
		{says(shadow.Client, "\x16\x03\x01")},
		{says(shadow.Client, post+"GET / HTTP/1.1\nX-HTTP-Method-Override: PUT\n\nGET /?_method=DELETE HTTP/1.1\n\n"+get), says(shadow.Primary, hello+hello+hello+hello), says(shadow.Candidate, hello)},
		{says(shadow.Client, "HEAD / HTTP/1.1\nTransfer-Encoding: chunked\n\n5\nPOST \n0\n\nOPTIONS * HTTP/1.0\n\n"), says(shadow.Candidate, hello), {From: shadow.Candidate, End: shadow.Closed}},
	} {
		f.Add(script(events...), uint16(512), true)
		f.Add(script(events...), uint16(512), false)
		f.Add(script(events...), uint16(60), false)
	}
	f.Fuzz(func(t *testing.T, b []byte, keep uint16, allowed bool) {
		var o Options
		if allowed {
			o = Options{Allow: []Allow{{"POST", "/**"}, {Upgraded, "/**"}}, LoopGuard: "X-Loop"}
		}
		s := newSession(o, newTemplates(), shadow.Session{Keep: int(keep)})
		told, begun := 0, 0
		var sent []byte // on this connection of the candidate
		for len(b) >= 2 {
			e := shadow.Event{From: shadow.Party(b[0] & 3 % 3), End: ends()[int(b[0]>>2)%5]}
			n := min(int(b[1]), len(b)-2)
			e.Bytes = bytes.Clone(b[2 : 2+n])
			b = b[2+n:]
			moves := s.Hear(e)
			if moves.Redial {
				sent = nil
			}
			if sent = append(sent, moves.Send...); len(moves.Send) > 0 && !allowed {
				harmless(t, sent)
			}
			for i := range e.Bytes {
				e.Bytes[i] = 0
			}
			told += len(moves.Exchanges)
			checkExchanges(t, moves.Exchanges)
			if now := told + len(s.queue); now < begun {
				t.Fatalf("%d exchanges had begun, now there are %d", begun, now)
			} else {
				begun = now
			}
			if most := (len(s.queue) + 4) * (overhead + 64*int(keep)); s.Held() > most {
				t.Fatalf("holds %d bytes with %d exchanges, want at most %d", s.Held(), len(s.queue), most)
			}
			if moves.Done {
				break
			}
		}
		rest := s.Stop(shadow.Dropped, "test")
		checkExchanges(t, rest)
		if told += len(rest); told < max(begun, 1) || told > begun+2 {
			t.Fatalf("%d exchanges are returned, %d have begun", told, begun)
		}
		if again := s.Stop(shadow.Dropped, "test"); len(again) > 0 {
			t.Fatalf("a second Stop returns %v", again)
		}
	})
}

// harmless reads what one connection of a candidate was sent, as the driver reads a
// client and as net/http does: a server that reads it otherwise than the driver
// must not find a request in it either that was not to be sent. What net/http
// refuses, it answers with 400 and closes.
func harmless(t *testing.T, sent []byte) {
	t.Helper()
	for reader, b := (framer{most: len(sent)}), sent; ; {
		n, p, err := reader.next(b)
		b = b[n:]
		if err != nil {
			t.Fatalf("%q is sent, which is no request: %v", sent, err)
		}
		if p.kind == partial {
			break
		}
		if p.kind != headed {
			continue
		}
		for _, method := range methods(&reader.head) {
			if !isHarmless(method) {
				t.Fatalf("%q is sent, which has a %s", sent, method)
			}
		}
		l, err := requestLength(&reader.head, reader.at)
		if err != nil {
			t.Fatalf("%q is sent, which has no end: %v", sent, err)
		}
		reader.body(l)
	}
	for b := bufio.NewReader(bytes.NewReader(sent)); ; {
		r, err := http.ReadRequest(b)
		if err != nil {
			return
		}
		if !isHarmless(r.Method) {
			t.Fatalf("%q is sent, of which net/http reads a %s", sent, r.Method)
		}
		if _, err := io.Copy(io.Discard, r.Body); err != nil {
			return
		}
	}
}

// isHarmless is the rule as it is written down, not as the driver has it.
func isHarmless(method string) bool {
	return slices.Contains([]string{"GET", "HEAD", "OPTIONS"}, method)
}

func checkExchanges(t *testing.T, all []shadow.Exchange) {
	t.Helper()
	for _, x := range all {
		if x.Endpoint == "" {
			t.Fatalf("exchange without an endpoint: %+v", x)
		}
		if x.Verdict == "" && len(x.Primary.Fields) == 0 {
			t.Fatalf("exchange without a verdict or values: %+v", x)
		}
		shadow.Differences(x, Noise())
	}
}

// TestWhereBytesAreCutChangesNothing is the property: what is sent and what is told
// depend on what the parties say, not on how it comes.
func TestWhereBytesAreCutChangesNothing(t *testing.T) {
	t.Parallel()
	for seed := range uint64(400) {
		r := rand.New(rand.NewPCG(seed, 3))
		var scenes []scene
		for range 1 + r.IntN(5) {
			scenes = append(scenes, anyScene(r))
		}
		o := Options{Allow: []Allow{{"POST", "/**"}, {Upgraded, "/**"}}}
		whole, cut := newTheatre(o, 300, scenes...), newTheatre(o, 300, scenes...)
		whole.pipelined = r.IntN(3) == 0
		cut.pipelined, cut.cut = whole.pipelined, randomly(r)
		if diff := cmp.Diff(whole.play(), cut.play()); diff != "" {
			t.Fatalf("seed %d: told (-whole +cut):\n%s\n%q", seed, diff, scenes)
		}
		if diff := cmp.Diff(whole.sent, cut.sent); diff != "" {
			t.Fatalf("seed %d: sent (-whole +cut):\n%s\n%q", seed, diff, scenes)
		}
	}
}

func anyScene(r *rand.Rand) scene {
	method := []string{"GET", "HEAD", "POST", "PUT"}[r.IntN(4)]
	c := scene{request: well(r, fmt.Sprintf("%s /%s HTTP/1.1", method, text(r, 3)), method != "POST")}
	reply := func() []byte {
		status := []string{"200 OK", "200 OK", "200 OK", "204 No Content", "304 Not Modified", "404 Not Found"}[r.IntN(6)]
		b := well(r, "HTTP/1.1 "+status, method == "HEAD" || status[0] == '3' || status[:3] == "204")
		if r.IntN(8) == 0 {
			b = append(crlf("HTTP/1.1 100 Continue\n\n"), b...)
		}
		if r.IntN(12) == 0 {
			b = append([]byte(nil), b[:r.IntN(len(b))]...)
		}
		return b
	}
	c.primary, c.candidate = reply(), reply()
	if r.IntN(2) == 0 {
		c.candidate = c.primary
	}
	if r.IntN(10) == 0 {
		c.candidateEnds = ends()[1+r.IntN(4)]
	}
	if r.IntN(30) == 0 {
		c.request = append(c.request, "BAD REQUEST\r\n"...)
	}
	return c
}
