package http1

import "testing"

func TestTheRuleSaysWhatTheCandidateGets(t *testing.T) {
	t.Parallel()
	o := Options{Allow: []Allow{{"POST", "/search"}, {"PUT", "/x/*/y"}, {"POST", "/api/**"}}}
	if got, want := o.Rule(), "http: GET, HEAD and OPTIONS, POST /search, PUT /x/*/y, POST /api/**; no other method"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	for path, want := range map[string]bool{
		"/search": true, "/search/": false, "/Search": false, "/api/": true, "/api/a/b": true, "/api": false,
		"/api/../x": false, "/api/%2e%2e/x": false, "/api//x": false, "/api/a;b": false,
	} {
		if got := o.allows("POST", path); got != want {
			t.Errorf("POST %s is allowed: %v", path, got)
		}
	}
	if !o.allows("PUT", "/x/1/y") || o.allows("PUT", "/x/1/2/y") || o.allows("PUT", "/search") {
		t.Error("PUT is not allowed as it is said")
	}
}

func TestOptionsThatMakeNoSenseAreRefused(t *testing.T) {
	t.Parallel()
	tests := []struct {
		options Options
		want    string
	}{
		{Options{Allow: []Allow{{"POST", "/a/*/b"}, {Upgraded, "/**"}}, PrimaryHosts: []string{"a.example:80"}, LoopGuard: "X-Loop"}, ""},
		{Options{Allow: []Allow{{"post", "/a"}}}, `allow "post /a": "post" is no method: write one in capitals, such as POST, or UPGRADE`},
		{Options{Allow: []Allow{{"CONNECT", "/"}}}, `allow "CONNECT /": a tunnel cannot be compared: leave it out`},
		{Options{Allow: []Allow{{"POST", "a"}}}, `allow "POST a": "a" is no path: write one from / on, without a query, with * for a segment and /** for all below`},
		{Options{Allow: []Allow{{"POST", "/a/../b"}}}, `allow "POST /a/../b": "/a/../b" is no path: write one from / on, without a query, with * for a segment and /** for all below`},
		{Options{Allow: []Allow{{"POST", "/**/b"}}}, `allow "POST /**/b": ** stands at the end alone: write * for a segment`},
		{Options{CandidateHosts: []string{"http://a"}}, `host "http://a": write a name, with a port where it has one: example.org:8080`},
		{Options{Allow: []Allow{{"POST", "/a?b"}}}, `allow "POST /a?b": "/a?b" is no path: write one from / on, without a query, with * for a segment and /** for all below`},
		{Options{LoopGuard: "Content-Length"}, `loop guard "Content-Length": it means something to servers: write a name of your own, such as X-Shadow`},
		{Options{LoopGuard: "X Loop"}, `loop guard "X Loop": it is no name of a header: write one such as X-Shadow`},
	}
	for _, test := range tests {
		got := ""
		if err := test.options.Check(); err != nil {
			got = err.Error()
		}
		if got != test.want {
			t.Errorf("got %q, want %q", got, test.want)
		}
	}
}

func TestAnAllowIsReadAsItIsWritten(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]Allow{
		"POST /search": {"POST", "/search"}, " PUT  /api/** ": {"PUT", "/api/**"}, "UPGRADE /chat": {Upgraded, "/chat"},
	} {
		got, err := ParseAllow(text)
		if err != nil || got != want {
			t.Errorf("%q: %v, %v", text, got, err)
		}
		if again, err := ParseAllow(got.String()); err != nil || again != got {
			t.Errorf("%q read back: %v, %v", got, again, err)
		}
	}
	for _, text := range []string{"", "POST", "/search", "post /search", "POST search", "POST /a /b", "CONNECT /"} {
		if got, err := ParseAllow(text); err == nil {
			t.Errorf("%q is read as %v", text, got)
		}
	}
}
