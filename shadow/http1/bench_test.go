package http1

import (
	"fmt"
	"strings"
	"testing"

	"github.com/splitd/splitd/shadow"
)

// BenchmarkExchange is what one exchange costs, comparing included: with replies
// that are the same on the wire, and with such that have to be understood.
func BenchmarkExchange(b *testing.B) {
	item := `{"id":%d,"name":"apple","price":9.5,"tags":["a","b"],"owner":{"id":7,"mail":null}}`
	var items []string
	for i := range 20 {
		items = append(items, fmt.Sprintf(item, i))
	}
	json := `{"items":[` + strings.Join(items, ",") + `]}`
	html := "<h1>Apples</h1>" + strings.Repeat("<p>They are <b>red</b> and <i>round</i>.</p>", 40)
	for _, bench := range []struct{ name, kind, primary, candidate string }{
		{"same", "application/json", json, json},
		{"json", "application/json", json, json + " "},
		{"html", "text/html", html, html + " "},
		{"bytes", "image/png", "\x89" + html, "\x89" + html + " "},
	} {
		b.Run(bench.name, func(b *testing.B) {
			reply := func(body string) []byte {
				return append(crlf(fmt.Sprintf("HTTP/1.1 200 OK\nDate: Fri, 20 Nov 2026 14:00:00 GMT\nServer: nginx\nContent-Type: %s\nETag: \"a\"\nCache-Control: no-cache\nContent-Length: %d\n\n", bench.kind, len(body))), body...)
			}
			request, primary, candidate := crlf("GET /items/7?a=1 HTTP/1.1\nHost: example.org\nAccept: */*\nUser-Agent: bench\n\n"), reply(bench.primary), reply(bench.candidate)
			d, rules := New(Options{})(shadow.Session{Keep: 64 << 10}), Noise()
			b.SetBytes(int64(len(primary)))
			b.ReportAllocs()
			for b.Loop() {
				d.Hear(shadow.Event{From: shadow.Client, Bytes: request})
				d.Hear(shadow.Event{From: shadow.Primary, Bytes: primary})
				moves := d.Hear(shadow.Event{From: shadow.Candidate, Bytes: candidate})
				if len(moves.Exchanges) != 1 {
					b.Fatal("no exchange")
				}
				shadow.Differences(moves.Exchanges[0], rules)
			}
		})
	}
}
