package control_test

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/splitd/splitd/control"
	"github.com/splitd/splitd/control/api"
	"github.com/splitd/splitd/control/controltest"
)

// sampled has a report with a sample of each kind: masked, payload, and one that
// does not say.
func sampled() *controltest.Operator {
	operator := operatorOf(split("mx", "new"))
	operator.ReportOf = func(string) (json.RawMessage, error) {
		return json.RawMessage(`{"apiVersion":"splitd/v1","kind":"ShadowReport","split":"mx",
			"window":{"from":"2026-11-20T13:00:00Z","to":"2026-11-20T13:59:00Z"},"coverage":{"eligible":1000,"compared":940},
			"samples":[{"id":1,"endpoint":"RCPT","masked":true,"request":[{"path":"command","value":"<text>"}]},
				{"id":2,"at":"2026-11-20T13:30:00Z","endpoint":"RCPT","masked":false,"request":[{"path":"command","value":"RCPT TO:<alice@example.com>"}],"differences":[{"got":"no alice here"}]},
				{"id":3,"endpoint":"RCPT","primary":[{"path":"text","value":"alice"}]}]}`), nil
	}
	return operator
}

func TestPayloadIsForThoseWhoMayChangeAndNeverOverTCP(t *testing.T) {
	const daemon, alice = 999, 1000
	owner := control.Owner{UID: daemon}
	whole := control.Handler(sampled(), quiet())
	for name, test := range map[string]struct {
		handler http.Handler
		want    bool
	}{
		"root":                            {control.As(whole, control.Peer{UID: 0}, owner, ""), true},
		"the daemon's own user":           {control.As(whole, control.Peer{UID: daemon}, owner, ""), true},
		"somebody":                        {control.As(whole, control.Peer{UID: alice}, owner, ""), false},
		"nobody known":                    {whole, false},
		"over TCP":                        {control.ReadOnly(sampled()), false},
		"over TCP, with root's own right": {control.As(control.ReadOnly(sampled()), control.Peer{UID: 0}, owner, ""), false},
	} {
		for _, target := range []string{"/v1/splits/mx/report", "/v1/report"} {
			answer := httptest.NewRecorder()
			test.handler.ServeHTTP(answer, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "http://127.0.0.1"+target, nil))
			body := answer.Body.String()
			if answer.Code != http.StatusOK || strings.Contains(body, "alice") != test.want {
				t.Errorf("%s: %d, payload wanted: %v\n%s", name, answer.Code, test.want, body)
			}
			if !strings.Contains(body, `"value":"<text>"`) && !strings.Contains(body, `\u003ctext\u003e`) {
				t.Errorf("%s: the masked sample is missing: %s", name, body)
			}
		}
	}
}

func TestASampleThatIsWithheldKeepsItsNumberAndSaysSo(t *testing.T) {
	answer := httptest.NewRecorder()
	control.ReadOnly(sampled()).ServeHTTP(answer, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "http://127.0.0.1/v1/report", nil))
	got := decode[map[string]any](t, answer.Body.String())
	samples, _ := got["samples"].([]any)
	want := []any{
		map[string]any{"id": 1.0, "endpoint": "RCPT", "masked": true, "request": []any{map[string]any{"path": "command", "value": "<text>"}}},
		map[string]any{"id": 2.0, "at": "2026-11-20T13:30:00Z", "endpoint": "RCPT", "masked": false, "withheld": true},
		map[string]any{"id": 3.0, "at": nil, "endpoint": "RCPT", "masked": false, "withheld": true},
	}
	if diff := cmp.Diff(want, samples); diff != "" {
		t.Errorf("samples (-want +got):\n%s", diff)
	}
	if got["coverage"] == nil || got["split"] != "mx" {
		t.Errorf("the rest of the report is missing: %v", got)
	}
}

func TestAReportThatCannotBeReadIsAnErrorAndNoPayload(t *testing.T) {
	for _, text := range []string{`[]`, `{"samples":"alice"}`, `{"samples":[{"masked":"alice"}]}`, `{"samples":["alice"]}`} {
		operator := operatorOf(split("mx", "new"))
		operator.ReportOf = func(string) (json.RawMessage, error) { return json.RawMessage(text), nil }
		answer := httptest.NewRecorder()
		control.ReadOnly(operator).ServeHTTP(answer, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "http://127.0.0.1/v1/report", nil))
		if answer.Code != http.StatusInternalServerError || strings.Contains(answer.Body.String(), "alice") {
			t.Errorf("%s: %d %s", text, answer.Code, answer.Body)
		}
	}
}

func TestAResetSaysWhatWasForgotten(t *testing.T) {
	path := start(t, control.Handler(sampled(), quiet()))
	status, body := ask(t, path, http.MethodPost, "/v1/splits/mx/report/reset", `{"reason":"new release"}`)
	change := decode[api.Change](t, body)
	from, to := time.Date(2026, 11, 20, 13, 0, 0, 0, time.UTC), time.Date(2026, 11, 20, 13, 59, 0, 0, time.UTC)
	want := api.Change{
		Envelope: api.Of(api.KindChange), Split: "mx", Changed: true, Generation: 1,
		Forgotten: &api.Forgotten{Exchanges: 1000, Compared: 940, From: &from, To: &to},
	}
	if diff := cmp.Diff(want, change); diff != "" || status != http.StatusOK {
		t.Errorf("%d (-want +got):\n%s", status, diff)
	}
	_, body = ask(t, path, http.MethodPost, "/v1/report/reset", "")
	if change := decode[api.Change](t, body); change.Changed || change.Forgotten.Exchanges != 0 {
		t.Errorf("again: %+v", change)
	}
}

func TestReportsNameSplitsAsEverythingDoes(t *testing.T) {
	path := start(t, control.Handler(operatorOf(split("dns", "new"), split("mx", "new")), quiet()))
	for _, test := range []struct {
		method, target string
		want           int
		code           api.Code
	}{
		{http.MethodGet, "/v1/report", http.StatusBadRequest, api.CodeInvalid},
		{http.MethodPost, "/v1/report/reset", http.StatusBadRequest, api.CodeInvalid},
		{http.MethodGet, "/v1/splits/web/report", http.StatusNotFound, api.CodeNotFound},
		{http.MethodGet, "/v1/splits/mx/report?format=pdf", http.StatusBadRequest, api.CodeInvalid},
	} {
		status, body := ask(t, path, test.method, test.target, "")
		if refusal := decode[api.Error](t, body); status != test.want || refusal.Code != test.code {
			t.Errorf("%s %s = %d %s", test.method, test.target, status, body)
		}
	}
}
