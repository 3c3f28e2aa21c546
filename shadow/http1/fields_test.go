package http1

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/splitd/splitd/shadow"
)

// headsOf is how two heads differ, with the built-in rules and in short.
func headsOf(t *testing.T, o Options, request, primary, candidate string) []string {
	t.Helper()
	reply := func(lines string) []byte {
		return crlf("HTTP/1.1 200 OK\nContent-Length: 0\n" + lines + "\n")
	}
	told := newTheatre(o, 4<<10, scene{request: crlf("GET /a/b HTTP/1.1\nHost: example.org\n" + request + "\n"), primary: reply(primary), candidate: reply(candidate)}).play()
	return inShort(shadow.Differences(told[0], Noise()))
}

func TestHeadersAreComparedByWhatTheyMean(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name               string
		primary, candidate string
		want               []string
	}{
		{"dates", "Date: Fri, 20 Nov 2026 14:00:00 GMT\nLast-Modified: Fri, 20 Nov 2026 14:00:00 GMT\n", "Date: Fri, 20 Nov 2026 14:00:01 GMT\nLast-Modified: Thu, 19 Nov 2026 14:00:00 GMT\n", nil},
		{"date that is none", "Date: Fri, 20 Nov 2026 14:00:00 GMT\n", "Date: yesterday\n", []string{"header date value"}},
		{"stale at once", "Date: Fri, 20 Nov 2026 14:00:00 GMT\nExpires: Fri, 20 Nov 2026 15:00:00 GMT\n", "Date: Fri, 20 Nov 2026 14:00:00 GMT\nExpires: 0\n", []string{"header expires value"}},
		{"validators", "ETag: \"a\"\n", "ETag: \"b\"\n", nil},
		{"strong and weak validator", "ETag: \"a\"\n", "ETag: W/\"a\"\n", []string{"header etag value"}},
		{"no validator", "ETag: \"a\"\n", "", []string{"header etag missing"}},
		{"who has answered", "Server: nginx/1.18\nX-Request-Id: 1\nAge: 5\n", "Server: nginx/1.24\nX-Request-Id: 2\nAge: 0\n", nil},
		{"who has answered, by one alone", "Server: nginx/1.18\n", "", []string{"header server missing (ignore header server)"}},
		{"case and order of names", "X-A: 1\nX-B: 2\n", "x-b: 2\nx-a: 1\n", nil},
		{"list in another order, in several lines", "Allow: GET, HEAD\nCache-Control: no-cache, max-age=0\n", "Allow: HEAD\nAllow: get\nCache-Control: Max-Age=0 , no-cache\n", nil},
		{"list that lacks one", "Allow: GET, HEAD\n", "Allow: GET\n", []string{"header allow missing"}},
		{"order that matters", "X-A: 1\nX-A: 2\n", "X-A: 2\nX-A: 1\n", []string{"header x-a order"}},
		{"vary by coding", "Vary: Accept-Encoding, Origin\n", "Vary: Origin\n", nil},
		{"media types", "Content-Type: Text/HTML;charset=UTF-8\n", "Content-Type: text/html; charset=\"utf-8\"\n", nil},
		{"another charset", "Content-Type: text/html; charset=utf-8\n", "Content-Type: text/html\n", []string{"header content-type value"}},
		{"boundaries", "Content-Type: multipart/mixed; boundary=a\n", "Content-Type: multipart/mixed; boundary=b\n", nil},
		{"nonces", "Content-Security-Policy: script-src 'nonce-abc' 'self'; img-src *\nWWW-Authenticate: Digest realm=\"a\", nonce=\"1\"\n", "Content-Security-Policy: img-src *; script-src 'nonce-def' 'self'\nWWW-Authenticate: Digest realm=\"a\", nonce=\"2\"\n", nil},
		{"another policy", "Content-Security-Policy: script-src 'self'\n", "Content-Security-Policy: script-src *\n", []string{"header content-security-policy value"}},
		{"of the connection alone", "Keep-Alive: timeout=5\nConnection: keep-alive\n", "", nil},
		{"cookies' values", "Set-Cookie: id=a3f; Path=/; HttpOnly\n", "Set-Cookie: id=99; httponly; path=/\n", nil},
		{"cookies' attributes", "Set-Cookie: id=a3f; Path=/; Secure\n", "Set-Cookie: id=99; path=/\n", []string{"cookie id value"}},
		{"another cookie", "Set-Cookie: id=a3f\n", "Set-Cookie: sid=99\n", []string{"cookie id missing", "cookie sid extra"}},
		{"cookies that last", "Set-Cookie: id=a; Max-Age=3600\n", "Set-Cookie: id=a; Expires=Fri, 20-Nov-2099 14:00:00 GMT\n", nil},
		{"cookies that are deleted", "Set-Cookie: id=; Max-Age=0\n", "Set-Cookie: id=x; Expires=Thu, 01 Jan 1970 00:00:00 GMT\n", nil},
		{"a cookie that does not last", "Set-Cookie: id=a; Max-Age=3600\n", "Set-Cookie: id=a\n", []string{"cookie id value"}},
		{"unknown headers", "X-Limit: 100\n", "X-Limit: 200\n", []string{"header x-limit value"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			if diff := cmp.Diff(test.want, headsOf(t, Options{}, "", test.primary, test.candidate)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if got := headsOf(t, Options{}, "", test.primary, test.primary); got != nil {
				t.Errorf("the primary differs from itself: %v", got)
			}
		})
	}
}

func TestLocationsAreResolvedAndHostsMapped(t *testing.T) {
	t.Parallel()
	o := Options{PrimaryHosts: []string{"old.example.org:8080"}, CandidateHosts: []string{"new.example.org"}}
	tests := []struct {
		name, request, primary, candidate string
		same                              bool
	}{
		{"relative and absolute", "", "/x", "http://example.org/x", true},
		{"relative to what was asked for", "", "x", "/a/x", true},
		{"each server's own name", "", "http://old.example.org:8080/x", "http://new.example.org/x", true},
		{"a port that goes without saying", "", "http://example.org:80/x", "http://EXAMPLE.org/x", true},
		{"the other server's name", "", "http://example.org/x", "http://old.example.org:8080/x", false},
		{"another host", "", "http://example.org/x", "http://evil.example/x", false},
		{"another scheme", "", "/x", "https://example.org/x", false},
		{"the scheme that a proxy has taken away", "X-Forwarded-Proto: https\n", "/x", "https://example.org/x", true},
		{"another path", "", "/x", "/y", false},
		{"ids in a query", "", "/x?state=4f0c9a7be31d&a=1", "/x?state=a7be31d4f0c9&a=1", true},
		{"another query", "", "/x?a=1", "/x?a=2", false},
	}
	for _, test := range tests {
		got := headsOf(t, o, test.request, "Location: "+test.primary+"\n", "Location: "+test.candidate+"\n")
		if (len(got) == 0) != test.same {
			t.Errorf("%s: %s and %s differ in %v", test.name, test.primary, test.candidate, got)
		}
	}
}

// Masked or not, a report tells a redirect to the server itself from one elsewhere.
func TestARedirectElsewhereIsShownAsOne(t *testing.T) {
	t.Parallel()
	for _, x := range heardOf(get, "HTTP/1.1 302 Found\nLocation: /home\nContent-Length: 0\n\n") {
		for _, f := range x.Primary.Fields {
			if f.Path == "header location" && shadow.Show(f.Value, f.Plain) != "<own url>" {
				t.Errorf("%q is shown as %s", f.Value, shadow.Show(f.Value, f.Plain))
			}
		}
	}
	if got := shadow.Show("http://wrong.example.net/home", false); got != "<url>" {
		t.Errorf("another host is shown as %s", got)
	}
}

func TestBodiesAreComparedByTheirKind(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, kind         string
		primary, candidate string
		want               []string
	}{
		{"JSON's order and white space", "application/json", `{"a":1,"b":[1.0,2]}`, `{ "b": [1, 2e0], "a": 1 }`, nil},
		{"JSON's numbers", "application/json", `[1000000.0,-0,1.50]`, `[1000000,0,15e-1]`, nil},
		{"a decimal is one also where it is whole", "application/json", `{"p":10.0}`, `{"p":12.5}`, []string{"body $.p value"}},
		{"an integer that becomes a decimal", "application/json", `{"p":10}`, `{"p":12.5}`, []string{"body $.p class"}},
		{"the same number written in two ways, in lists", "application/json", `[10.0,5,7]`, `[5,10,7.0]`, []string{"body $[] order"}},
		{"a string that looks like one", "application/json", `{"v":"1.0"}`, `{"v":"1"}`, []string{"body $.v value"}},
		{"JSON's types", "application/json", `{"a":5}`, `{"a":"5"}`, []string{"body $.a class"}},
		{"one item of many", "application/json", `{"items":[{"id":1,"p":2},{"id":2,"p":3}]}`, `{"items":[{"id":1,"p":2},{"id":2,"p":4}]}`, []string{"body $.items[].p value"}},
		{"many items, one path", "application/json", `[{"p":1},{"p":2},{"p":3}]`, `[{"p":4},{"p":5},{"p":6}]`, []string{"body $[].p value"}},
		{"a field less and one more", "application/problem+json", `{"a":1}`, `{"b":1}`, []string{"body $.a missing", "body $.b extra"}},
		{"null is no absence", "application/json", `{"a":null}`, `{}`, []string{"body $.a missing", "body $ extra"}},
		{"an empty list", "application/json", `{"a":[]}`, `{"a":[1]}`, []string{"body $.a missing", "body $.a[] extra"}},
		{"long integers", "application/json", `{"id":9007199254740993}`, `{"id":9007199254740992}`, []string{"body $.id value"}},
		{"keys that are data are no paths", "application/json", `{"u":{"1":{"n":"a"},"2":{"n":"b"}}}`, `{"u":{"1":{"n":"a"},"3":{"n":"b"}}}`, []string{"body $.u{key} missing", "body $.u{key} extra"}},
		{"an error page instead of JSON", "application/json", `{"a":1}`, `<html>oops</html>`, []string{"body $.a missing", "body kind value", "body text extra"}},
		{"HTML's text", "text/html", "<p>Hello <b>Anna</b></p>", "<p>Hello\n <b>Otto</b></p><!-- served in 5 ms -->", []string{"body <b> value"}},
		{"HTML's tokens", "text/html", `<script nonce="a">var t=1</script><input type=hidden name=csrf value=a1b2c3d4e5f6><p>Hi</p>`, `<script nonce="b">var t=2</script><input type=hidden name=csrf value=f6e5d4c3b2a1><p>Hi</p>`, nil},
		{"HTML's links", "text/html", `<a href="/a?x=1">A</a>`, `<a href="/b?x=2">A</a>`, []string{"body <a href> value"}},
		{"times and ids in text", "text/plain", "done at 2026-11-20T14:00:00Z by 6f1c2a9e-7b1d-4c39-9f7e-2d6a1b0c3e4f\n", "done at 2026-11-20T14:00:09Z by 0c3e4f6f-1c2a-4e7b-8d4c-399f7e2d6a1b\n", nil},
		{"words in text", "text/plain", "5 apples\n", "6 apples\n", []string{"body text value"}},
		{"bytes", "image/png", "\x89\x00a", "\x89\x00b", []string{"body bytes value"}},
		{"boundaries", "multipart/mixed; boundary=X", "--X\r\n\r\na\r\n--X--", "--X\r\n\r\na\r\n--X--", nil},
		{"JSON that says nothing of itself", "", `{"a":1}`, `{"a":2}`, []string{"body $.a value"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			reply := func(body string) []byte {
				return append(crlf(fmt.Sprintf("HTTP/1.1 200 OK\nContent-Type: %s\nContent-Length: %d\n\n", test.kind, len(body))), body...)
			}
			told := newTheatre(Options{}, 4<<10, scene{request: crlf(get), primary: reply(test.primary), candidate: reply(test.candidate)}).play()
			if diff := cmp.Diff(test.want, inShort(shadow.Differences(told[0], Noise()))); diff != "" {
				t.Errorf("(-want +got):\n%s\n%v", diff, told[0].Candidate.Fields)
			}
		})
	}
}

func TestFieldsOfABodyAreBoundedInNumberAndLength(t *testing.T) {
	t.Parallel()
	b := body{kind: "text", data: []byte(strings.Repeat("word\n", 3*mostFields) + strings.Repeat("long ", longValue))}
	fields := b.fields()
	if len(fields) != mostFields+1 || fields[mostFields].Path != "body rest" {
		t.Errorf("%d fields, the last is %v", len(fields), fields[len(fields)-1])
	}
	for _, f := range fields {
		if len(f.Value) > longValue {
			t.Errorf("value of %d bytes", len(f.Value))
		}
	}
	other := body{kind: "text", data: []byte(strings.Repeat("word\n", 3*mostFields) + "other")}
	if last := other.fields()[mostFields]; last == fields[mostFields] {
		t.Error("what is beyond the bound is not compared")
	}
}

func TestEndpointsAreTemplatedAndBounded(t *testing.T) {
	t.Parallel()
	tests := []struct{ method, target, want string }{
		{"GET", "/", "GET /"},
		{"GET", "/users/12?x=1", "GET /users/{id}"},
		{"GET", "http://example.org/users/12", "GET /users/{id}"},
		{"GET", "/users/6f1c2a9e-7b1d-4c39-9f7e-2d6a1b0c3e4f/orders", "GET /users/{uuid}/orders"},
		{"GET", "/static/app.3f2a1b9c0d.js", "GET /static/{token}.js"},
		{"GET", "/static/3f2a1b9c0d.js", "GET /static/{hex}.js"},
		{"GET", "/v2/items", "GET /v2/items"},
		{"GET", "/log/2026-11-20", "GET /log/{time}"},
		{"GET", "/a/b/c/d/e/f/g/h", "GET /a/b/c/d/e/f/{rest}"},
		{"GET", "/s/%e4%bd%a0", "GET /s/{text}"},
		{"BREW", "/pot", "OTHER /pot"},
		{"OPTIONS", "*", "OPTIONS *"},
		{"CONNECT", "a:443", "CONNECT *"},
	}
	names := newTemplates()
	for _, test := range tests {
		if got := names.endpoint(test.method, pathOf(test.target)); got != test.want {
			t.Errorf("%s %s: %q, want %q", test.method, test.target, got, test.want)
		}
	}
	slugs := newTemplates()
	for i := range mostChildren {
		slugs.endpoint("GET", "/wiki/page-"+strings.Repeat("x", i%10)+strings.Repeat("y", i/10))
	}
	if got := slugs.endpoint("GET", "/wiki/one-more"); got != "GET /wiki/{name}" {
		t.Errorf("behind %d names of one place the next is %q", mostChildren, got)
	}
	all := make(map[string]bool)
	word := func(n int) string {
		return string(rune('a'+n%26)) + string(rune('a'+n/26%26)) + string(rune('a'+n/676%26))
	}
	for i := range 20000 {
		all[names.endpoint("GET", "/"+word(i)+"/"+word(i/3)+"/"+word(i/7))] = true
	}
	if len(all) > 2*mostNodes {
		t.Errorf("%d endpoints", len(all))
	}
	if got := names.endpoint("GET", "/one-more-name"); got != "GET /{name}" {
		t.Errorf("a name too many is %q", got)
	}
	if got := names.endpoint("GET", "/users/7"); got != "GET /users/{id}" {
		t.Errorf("a known name is %q", got)
	}
}

func TestWhatWantsALoginBecauseTheCandidateKnowsNoSessionSaysSo(t *testing.T) {
	t.Parallel()
	for _, reply := range []string{"HTTP/1.1 401 Unauthorized\nContent-Length: 0\n\n", "HTTP/1.1 302 Found\nLocation: /login?next=/\nContent-Length: 0\n\n"} {
		told := newTheatre(Options{}, 1<<10, scene{request: crlf("GET / HTTP/1.1\nCookie: id=1\n\n"), primary: crlf(hello), candidate: crlf(reply)}).play()
		if told[0].Verdict != "" || !strings.HasPrefix(told[0].Reason, "the candidate does not know the client's session") {
			t.Errorf("%q, %q", told[0].Verdict, told[0].Reason)
		}
	}
}
