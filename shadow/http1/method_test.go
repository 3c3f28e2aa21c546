package http1

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/splitd/splitd/shadow"
)

// A server may go by any of the methods that a request names, and most by that of
// its line: each has to be allowed.
func TestARequestIsSentOnlyWhereEachOfItsMethodsIsAllowed(t *testing.T) {
	t.Parallel()
	tests := []struct {
		line, headers string
		allow         []Allow
		want          string // the reason; empty: it is sent
	}{
		{line: "GET /pay"},
		{line: "GET /pay", headers: "X-HTTP-Method-Override: get\n"},
		{line: "GET /pay?method=DELETE&x_method=DELETE"},
		{line: "GET /pay?_method=GET"},
		{line: "GET /pay?_method="},
		{line: "POST /pay", headers: "X-HTTP-Method-Override: GET\n", want: "POST is not allowed for its path"},
		{line: "POST /pay?_method=GET", want: "POST is not allowed for its path"},
		{line: "GET /pay", headers: "X-HTTP-Method-Override: GET\nX-HTTP-Method-Override: DELETE\n", want: "DELETE is not allowed for its path"},
		{line: "GET /pay", headers: "X-HTTP-Method-Override: GET\nX-Method-Override: put\n", want: "PUT is not allowed for its path"},
		{line: "GET /pay", headers: "X-HTTP-Method: GET, PATCH\n", want: "PATCH is not allowed for its path"},
		{line: "GET /pay", headers: "X_HTTP_Method_Override: DELETE\n", want: "DELETE is not allowed for its path"},
		{line: "GET /pay", headers: "X-HTTP-Method-Override: GET;x\n", want: "a method of its own is not allowed for its path"},
		{line: "GET /pay?_method=delete", want: "DELETE is not allowed for its path"},
		{line: "GET /pay?a=b;%5fmethod=%44ELETE", want: "DELETE is not allowed for its path"},
		{line: "GET /pay?.Method=DELETE", want: "DELETE is not allowed for its path"},
		{line: "GET http://a/pay?_method=DELETE", want: "DELETE is not allowed for its path"},
		{line: "POST /pay", headers: "X-HTTP-Method-Override: GET\n", allow: []Allow{{"POST", "/pay"}}},
		{line: "POST /pay", headers: "X-HTTP-Method-Override: PUT\n", allow: []Allow{{"POST", "/pay"}}, want: "PUT is not allowed for its path"},
		{line: "POST /pay", headers: "X-HTTP-Method-Override: PUT\n", allow: []Allow{{"PUT", "/pay"}}, want: "POST is not allowed for its path"},
		{line: "POST /pay", headers: "X-HTTP-Method-Override: PUT\n", allow: []Allow{{"PUT", "/pay"}, {"POST", "/**"}}},
	}
	for _, test := range tests {
		request := test.line + " HTTP/1.1\n" + test.headers + "\n"
		s := newTheatre(Options{Allow: test.allow}, 1<<10, both(request, hello))
		told := s.play()
		want, sent := []shadow.Verdict{shadow.Match}, string(crlf(request))
		if test.want != "" {
			want, sent = []shadow.Verdict{shadow.Skipped}, ""
		}
		if diff := cmp.Diff(want, verdictsOf(told)); diff != "" || told[0].Reason != test.want {
			t.Errorf("%q: reason %q, want %q; verdicts (-want +got):\n%s", request, told[0].Reason, test.want, diff)
		}
		if got := string(s.sent[0]); got != sent {
			t.Errorf("%q: sent %q, want %q", request, got, sent)
		}
		if safe := strings.HasPrefix(test.line, "GET") && test.want == ""; told[0].Safe != safe {
			t.Errorf("%q: safe %v, want %v", request, told[0].Safe, safe)
		}
	}
}
