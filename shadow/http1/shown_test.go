package http1

import (
	"slices"
	"strings"
	"testing"

	"github.com/splitd/splitd/shadow"
)

// What reports show of masked samples, paths of fields, endpoints and reasons, has no
// word of a client or a server, wherever they put it.
func TestNothingThatIsShownHasAWordOfAClientOrAServer(t *testing.T) {
	t.Parallel()
	const hi = "HTTP/1.1 200 OK\nContent-Length: 2\n"
	json := func(body string) string { return "HTTP/1.1 200 OK\nContent-Type: application/json\n\n" + body }
	for name, said := range map[string][2]string{ // a request, and what both answer
		"method":                       {"SECRET / HTTP/1.1\nHost: a\n\n", hi + "\nhi"},
		"override":                     {"GET / HTTP/1.1\nHost: a\nX-HTTP-Method-Override: SECRET\n\n", hi + "\nhi"},
		"attribute of a cookie":        {get, hi + "Set-Cookie: a=b; secretword\n\nhi"},
		"same site of a cookie":        {get, hi + "Set-Cookie: a=b; SameSite=secretword\n\nhi"},
		"name of a cookie":             {get, hi + "Set-Cookie: s_9secret8x7=b\n\nhi"},
		"path of a cookie":             {get, hi + "Set-Cookie: a=b; Path=/users/secret@example.com\n\nhi"},
		"parameter of a type":          {get, hi + "Content-Type: text/plain; name=secret.txt\n\nhi"},
		"coding":                       {get, hi + "Content-Encoding: secret\n\nhi"},
		"token as a key":               {get, json(`{"sessions":{"tok_9f8a7secret6c5d":{}}}`)},
		"id as a key":                  {get, json(`{"5ec2e7aa5ec2e7aa":1}`)},
		"address as a key":             {get, json(`{"secret@example.com":{"n":1}}`)},
		"many names as keys":           {get, json(`{"users":{` + manyKeys("secret", 60) + `}}`)},
		"upgrade to what nobody knows": {"GET / HTTP/1.1\nHost: a\nUpgrade: x\nConnection: upgrade\n\n", "HTTP/1.1 101 Go\nUpgrade: secret\nConnection: upgrade\n\n"},
	} {
		for _, x := range heardOf(said[0], said[1]) {
			for _, text := range shownOf(x) {
				if lower := strings.ToLower(text); strings.Contains(lower, "secret") || strings.Contains(lower, "5ec2e7aa") {
					t.Errorf("%s: it shows %q", name, text)
				}
			}
		}
	}
}

// Of a short body a hash tells what it is.
func TestNoHashOfABodyIsShown(t *testing.T) {
	t.Parallel()
	for _, x := range heardOf(get, "HTTP/1.1 200 OK\nContent-Type: image/png\n\n\x00secret") {
		found := false
		for _, f := range x.Primary.Fields {
			found = found || f.Path == "body bytes"
			if f.Path == "body bytes" && f.Plain {
				t.Errorf("%q is shown as it is", f.Value)
			}
		}
		if !found {
			t.Errorf("no bytes are compared: %+v", x)
		}
	}
}

func manyKeys(name string, n int) string {
	keys := make([]string, n)
	for i := range keys {
		keys[i] = `"` + name + strings.Repeat("x", i) + `":1`
	}
	return strings.Join(keys, ",")
}

func heardOf(request, reply string) []shadow.Exchange {
	other := strings.Replace(reply, "200", "201", 1)
	if !strings.Contains(reply, "Content-Length") {
		other += " " // bodies of the same bytes are not looked into
	}
	s := newTheatre(Options{}, 64<<10, scene{
		request: crlf(request), primary: crlf(reply), candidate: crlf(other),
		primaryEnds: shadow.Closed, candidateEnds: shadow.Closed,
	})
	return append(s.play(), s.driver.Stop(shadow.Dropped, "over")...)
}

// shownOf is all of an exchange that reports show as it is.
func shownOf(x shadow.Exchange) []string {
	shown := []string{x.Endpoint, x.Reason}
	for _, f := range slices.Concat(x.Request, x.Primary.Fields, x.Candidate.Fields) {
		shown = append(shown, f.Path, shadow.Show(f.Value, f.Plain))
	}
	return shown
}
