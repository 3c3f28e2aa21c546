package control_test

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/splitd/splitd/control"
	"github.com/splitd/splitd/control/api"
)

func TestReadOnlyHasNoChangingRoute(t *testing.T) {
	// Root's own credentials in the context make no difference.
	handler := control.As(control.ReadOnly(operatorOf(split("mx", "new"))), control.Peer{}, control.Owner{}, "")
	for _, r := range control.ChangeRoutes() {
		answer := httptest.NewRecorder()
		request := httptest.NewRequestWithContext(t.Context(), r[0], "http://127.0.0.1:9480"+strings.ReplaceAll(r[1], "{split}", "mx"), strings.NewReader("{}"))
		handler.ServeHTTP(answer, request)
		if answer.Code != http.StatusNotFound {
			t.Errorf("%s %s = %d %s, want 404", r[0], r[1], answer.Code, answer.Body)
		}
	}
	for _, r := range control.ReadRoutes() {
		for _, method := range []string{http.MethodGet, http.MethodHead} {
			answer := httptest.NewRecorder()
			handler.ServeHTTP(answer, httptest.NewRequestWithContext(t.Context(), method, "http://[::1]:9480"+strings.ReplaceAll(r[1], "{split}", "mx"), nil))
			if answer.Code != http.StatusOK {
				t.Errorf("%s %s = %d %s", method, r[1], answer.Code, answer.Body)
			}
			for _, header := range []string{"Content-Security-Policy", "X-Content-Type-Options", "X-Frame-Options", "Referrer-Policy"} {
				if answer.Header().Get(header) == "" {
					t.Errorf("%s %s: header %s is missing", method, r[1], header)
				}
			}
		}
		answer := httptest.NewRecorder()
		handler.ServeHTTP(answer, httptest.NewRequestWithContext(t.Context(), http.MethodPost, "http://[::1]"+strings.ReplaceAll(r[1], "{split}", "mx"), nil))
		if answer.Code != http.StatusMethodNotAllowed || answer.Header().Get("Allow") != "GET, HEAD" {
			t.Errorf("POST %s = %d, Allow %q", r[1], answer.Code, answer.Header().Get("Allow"))
		}
	}
}

func TestReadOnlyRefusesOtherNamesThanOurAddresses(t *testing.T) {
	handler := control.ReadOnly(operatorOf(split("mx", "new")))
	for host, want := range map[string]int{
		"127.0.0.1:9480":              200,
		"127.0.0.1":                   200,
		"[::1]:9480":                  200,
		"[::1]":                       200,
		"192.0.2.1:9480":              200,
		"localhost":                   200,
		"LOCALHOST:9480":              200,
		"evil.example":                421,
		"evil.example:9480":           421,
		"127.0.0.1.evil.example":      421,
		"localhost.evil.example":      421,
		"":                            421,
		"[evil.example]":              421,
		"2130706433":                  421, // 127.0.0.1 to a browser
		"0x7f.1":                      421,
		"127.0.0.1:9480@evil.example": 421,
		"[::1]:9480:evil.example":     421,
		"localhost.":                  421,
		"127.0.0.1.":                  421,
	} {
		request := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/v1/splits", nil)
		request.Host = host
		answer := httptest.NewRecorder()
		handler.ServeHTTP(answer, request)
		if answer.Code != want {
			t.Errorf("Host %q = %d, want %d", host, answer.Code, want)
		}
		if answer.Code != http.StatusOK {
			if refusal := decode[api.Error](t, answer.Body.String()); refusal.Code != api.CodeForbidden {
				t.Errorf("Host %q: %+v", host, refusal)
			}
		}
	}
}
