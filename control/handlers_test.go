package control_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/splitd/splitd/control"
	"github.com/splitd/splitd/control/api"
	"github.com/splitd/splitd/control/controltest"
	"github.com/splitd/splitd/internal/nettest"
)

// decorated is the split of the design's example: 5 % by root for CHG-1.
func decorated(t *testing.T) *controltest.Operator {
	t.Helper()
	operator := operatorOf(split("mx", "new"))
	observed, ten, eight := 49876, uint64(110), uint64(8)
	operator.Decorate = func(s *api.Split) {
		s.Generation = 15
		s.ObservedPPM = &observed
		active := ten + eight
		s.Flows = api.Flows{Total: new(uint64(412330)), Active: &active, AsOf: clock().Add(5 * time.Minute)}
		s.Backends[0].FlowsTotal, s.Backends[0].FlowsActive = new(uint64(391764)), &ten
		s.Backends[1].FlowsTotal, s.Backends[1].FlowsActive = new(uint64(20566)), &eight
	}
	ppm := 50000
	_, err := operator.Set(t.Context(), control.Actor{User: "root"}, "mx",
		api.SetRequest{Request: api.Request{Reason: "CHG-1"}, WeightPPM: &ppm})
	if err != nil {
		t.Fatal(err)
	}
	return operator
}

// TestTheListHoldsWhatTheDesignShows compares with the example of the design:
// every key in it must be there with the same value; more may be.
func TestTheListHoldsWhatTheDesignShows(t *testing.T) {
	path := start(t, control.Handler(decorated(t), quiet()))
	status, body := ask(t, path, http.MethodGet, "/v1/splits", "")
	if status != http.StatusOK {
		t.Fatalf("status %d: %s", status, body)
	}
	text, err := os.ReadFile("testdata/design-splitlist.json")
	if err != nil {
		t.Fatal(err)
	}
	for _, missing := range lacks("", decode[any](t, string(text)), decode[any](t, body)) {
		t.Error(missing)
	}
	golden(t, "splitlist.json", body)
}

// lacks lists where got does not hold what want holds.
func lacks(at string, want, got any) []string {
	var missing []string
	switch w := want.(type) {
	case map[string]any:
		g, ok := got.(map[string]any)
		if !ok {
			return []string{fmt.Sprintf("%s = %v, want an object", at, got)}
		}
		for key, value := range w {
			there, ok := g[key]
			if !ok {
				missing = append(missing, at+"."+key+" is missing")
				continue
			}
			missing = append(missing, lacks(at+"."+key, value, there)...)
		}
	case []any:
		g, ok := got.([]any)
		if !ok || len(g) < len(w) {
			return []string{fmt.Sprintf("%s = %v, want %v", at, got, want)}
		}
		for i, value := range w {
			missing = append(missing, lacks(fmt.Sprintf("%s[%d]", at, i), value, g[i])...)
		}
	default:
		if diff := cmp.Diff(want, got); diff != "" {
			missing = append(missing, fmt.Sprintf("%s (-want +got):\n%s", at, diff))
		}
	}
	return missing
}

// whoever is what an entry of the history has of who runs this test, and when.
var whoever = regexp.MustCompile(`,"(time|user)":"[^"]*"|,"(uid|pid)":\d+`)

func TestAChangeLooksAsTheDesignShows(t *testing.T) {
	path := start(t, control.Handler(operatorOf(split("mx", "new")), quiet()))
	for _, step := range []struct{ target, body, want string }{
		{"/v1/splits/mx/weight", `{"weight_ppm":50000,"reason":"CHG-1"}`, `{"apiVersion":"splitd/v1","kind":"Change","split":"mx","changed":true,"generation":2,"previous_ppm":0,"weight_ppm":50000,"confirm_before":null}`},
		{"/v1/splits/mx/weight", `{"weight_ppm":50000}`, `{"apiVersion":"splitd/v1","kind":"Change","split":"mx","changed":false,"generation":2,"previous_ppm":50000,"weight_ppm":50000,"confirm_before":null}`},
		{"/v1/weight", `{"weights":{"new":250000}}`, `{"apiVersion":"splitd/v1","kind":"Change","split":"mx","changed":true,"generation":3,"previous_ppm":50000,"weight_ppm":250000,"confirm_before":null}`},
		{"/v1/undo", ``, `{"apiVersion":"splitd/v1","kind":"Change","split":"mx","changed":true,"generation":4,"previous_ppm":250000,"weight_ppm":50000,"confirm_before":null,"undone":{"sequence":2,"split":"mx","generation":3,"action":"set","previous_ppm":50000,"weight_ppm":250000,"weights":{"new":250000}}}`},
		{"/v1/splits/mx/shadow", `{"sample_ppm":1000000,"reason":"CHG-2"}`, `{"apiVersion":"splitd/v1","kind":"Change","split":"mx","changed":true,"generation":5,"previous_ppm":50000,"weight_ppm":50000,"confirm_before":null,"sample_ppm":1000000}`},
		{"/v1/shadow", `{"default":true}`, `{"apiVersion":"splitd/v1","kind":"Change","split":"mx","changed":true,"generation":6,"previous_ppm":50000,"weight_ppm":50000,"confirm_before":null,"previous_sample_ppm":1000000}`},
		{"/v1/splits/mx/off", `{}`, `{"apiVersion":"splitd/v1","kind":"Change","split":"mx","changed":true,"generation":7,"previous_ppm":50000,"weight_ppm":0,"confirm_before":null}`},
		{"/v1/off?all=true", ``, `{"apiVersion":"splitd/v1","kind":"ChangeList","items":[{"apiVersion":"splitd/v1","kind":"Change","split":"mx","changed":false,"generation":7,"previous_ppm":0,"weight_ppm":0,"confirm_before":null}]}`},
		{"/v1/apply", ``, `{"apiVersion":"splitd/v1","kind":"Apply","changed":false,"items":[]}`},
	} {
		status, body := ask(t, path, http.MethodPost, step.target, step.body)
		if status != http.StatusOK {
			t.Errorf("POST %s = %d", step.target, status)
		}
		if diff := cmp.Diff(step.want+"\n", whoever.ReplaceAllString(body, "")); diff != "" {
			t.Errorf("POST %s (-want +got):\n%s", step.target, diff)
		}
	}
}

func TestTheHistoryKnowsWhoFromTheKernel(t *testing.T) {
	path := start(t, control.Handler(operatorOf(split("mx", "new")), quiet()))
	_, _ = ask(t, path, http.MethodPost, "/v1/weight", `{"weight_ppm":1000,"command":"splitctl set 0.1%\u001b[31m","reason":"a\nb","sudo_user":"alice"}`)
	_, _ = ask(t, path, http.MethodPost, "/v1/off", ``)
	_, body := ask(t, path, http.MethodGet, "/v1/splits/mx/history?limit=5", "")
	history := decode[api.History](t, body)
	if len(history.Items) != 2 || history.Items[0].Action != "off" {
		t.Fatalf("history = %s, want the newest first", body)
	}
	got := history.Items[1]
	want := api.Entry{
		Sequence: 1, Time: clock(), Split: "mx", Generation: 2, Action: "set", WeightPPM: 1000, Weights: map[string]int{"new": 1000},
		UID: os.Geteuid(), User: got.User, SudoUser: "alice", PID: os.Getpid(), Command: "splitctl set 0.1% [31m", Reason: "a b",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("entry (-want +got):\n%s", diff)
	}
	_, body = ask(t, path, http.MethodGet, "/v1/history?limit=1", "")
	if history := decode[api.History](t, body); len(history.Items) != 1 {
		t.Errorf("history with limit 1 = %s", body)
	}
}

func TestRefusals(t *testing.T) {
	operator := operatorOf(split("dns", "new"), split("mx", "new", "other"))
	path := start(t, control.Handler(operator, quiet()))
	for _, test := range []struct {
		method, target, body string
		status               int
		code                 api.Code
		message              string
	}{
		{"GET", "/", "", 404, api.CodeNotFound, "there is no /"},
		{"GET", "/v1/split", "", 404, api.CodeNotFound, "there is no /v1/split"},
		{"GET", "/v1/splits/web", "", 404, api.CodeNotFound, `no split "web"`},
		{"DELETE", "/v1/splits/mx", "", 405, api.CodeInvalid, "takes GET, HEAD"},
		{"GET", "/v1/splits/mx/off", "", 405, api.CodeInvalid, "takes POST"},
		{"POST", "/v1/off", "", 400, api.CodeInvalid, "name one of dns, mx"},
		{"POST", "/v1/splits/mx/off?all=1", "", 400, api.CodeInvalid, "ask for one of them"},
		{"POST", "/v1/off?all=perhaps", "", 400, api.CodeInvalid, "neither true nor false"},
		{"POST", "/v1/off?al=true", "", 400, api.CodeInvalid, `unknown query parameter "al"`},
		{"GET", "/v1/history?limit=-1", "", 400, api.CodeInvalid, `limit "-1"`},
		{"GET", "/v1/history?limit=ten", "", 400, api.CodeInvalid, `limit "ten"`},
		{"GET", "/v1/splits?limit=1", "", 400, api.CodeInvalid, "unknown query"},
		{"POST", "/v1/splits/mx/weight", "", 400, api.CodeInvalid, "needs one of"},
		{"POST", "/v1/splits/mx/weight", `{"weight":5}`, 400, api.CodeInvalid, `unknown field "weight"`},
		{"POST", "/v1/splits/mx/weight", `{"weight_ppm":1,"weight_ppm":2}`, 400, api.CodeInvalid, "stands twice"},
		{"POST", "/v1/splits/mx/weight", `{"weight_ppm":1} {}`, 400, api.CodeInvalid, "something follows"},
		{"POST", "/v1/splits/mx/weight", `{"weight_ppm":1000001}`, 400, api.CodeInvalid, "between 0 and 1000000"},
		{"POST", "/v1/splits/mx/weight", `{"weights":{"new":-1}}`, 400, api.CodeInvalid, `weights."new" is -1`},
		{"POST", "/v1/splits/mx/weight", `{"weight_ppm":1,"default":true}`, 400, api.CodeInvalid, "needs one of"},
		{"POST", "/v1/splits/mx/weight", `{"default":true,"ttl_seconds":5}`, 400, api.CodeInvalid, "ttl_seconds goes with a weight"},
		{"POST", "/v1/splits/mx/weight", `{"weight_ppm":1,"ttl_seconds":-5}`, 400, api.CodeInvalid, "ttl_seconds -5"},
		{"POST", "/v1/splits/mx/weight", `{"weight_ppm":0.5}`, 400, api.CodeInvalid, "decode request"},
		{"POST", "/v1/splits/mx/weight", `[]`, 400, api.CodeInvalid, "must be a JSON object"},
		{"POST", "/v1/splits/mx/weight", `{"weight_ppm":1}`, 400, api.CodeInvalid, "several candidates"},
		{"POST", "/v1/splits/dns/shadow", "", 400, api.CodeInvalid, "needs one of sample_ppm and default"},
		{"POST", "/v1/splits/dns/shadow", `{"sample_ppm":1,"default":true}`, 400, api.CodeInvalid, "needs one of sample_ppm and default"},
		{"POST", "/v1/splits/dns/shadow", `{"sample_ppm":1000001}`, 400, api.CodeInvalid, "sample_ppm is 1000001"},
		{"POST", "/v1/splits/dns/shadow", `{"default":true,"ttl_seconds":5}`, 400, api.CodeInvalid, "ttl_seconds goes with a sample"},
		{"POST", "/v1/splits/dns/shadow", `{"weight_ppm":1}`, 400, api.CodeInvalid, `unknown field "weight_ppm"`},
		{"POST", "/v1/splits/mx/shadow", `{"sample_ppm":1}`, 400, api.CodeInvalid, "shadow.to does not say which candidate"},
		{"POST", "/v1/splits/dns/shadow", `{"sample_ppm":1,"expect_generation":7}`, 409, api.CodeConflict, "at generation 1, not 7"},
		{"POST", "/v1/splits/dns/weight", `{"weight_ppm":1,"expect_generation":7}`, 409, api.CodeConflict, "at generation 1, not 7"},
		{"POST", "/v1/splits/dns/undo", `{}`, 500, api.CodeFailed, "nothing is left to undo"},
		{"POST", "/v1/splits/dns/off", `{"reason":"` + strings.Repeat("x", control.MaxBody) + `"}`, 400, api.CodeInvalid, "over 1048576 bytes"},
	} {
		t.Run(test.method+" "+test.target, func(t *testing.T) {
			status, body := ask(t, path, test.method, test.target, test.body)
			refusal := decode[api.Error](t, body)
			if status != test.status || refusal.Code != test.code || !strings.Contains(refusal.Message, test.message) {
				t.Errorf("= %d %s, want %d %s with %q", status, body, test.status, test.code, test.message)
			}
			if refusal.Kind != api.KindError || refusal.APIVersion != api.Version {
				t.Errorf("envelope = %+v", refusal.Envelope)
			}
		})
	}
	if history, _ := operator.History(t.Context(), "", 0); len(history.Items) > 0 {
		t.Errorf("a refused request changed something: %+v", history.Items)
	}
}

// errorOperator fails as told.
type errorOperator struct {
	*controltest.Operator
	err error
}

func (o errorOperator) Plan(context.Context) (api.Plan, error) {
	if o.err == nil {
		panic("no plan")
	}
	return api.Plan{}, o.err
}

func TestEveryErrorKeepsItsCode(t *testing.T) {
	for _, test := range []struct {
		err     error
		status  int
		code    api.Code
		message string
	}{
		{errors.New("open store: disk on fire"), 500, api.CodeFailed, "open store: disk on fire"},
		{&api.Error{Code: api.CodeUnavailable, Message: "later"}, 501, api.CodeUnavailable, "later"},
		{fmt.Errorf("plan: %w", &api.Error{Code: api.CodeConflict, Message: "stale"}), 409, api.CodeConflict, "plan: stale"},
		{context.DeadlineExceeded, 500, api.CodeFailed, "splitd is busy"},
		{nil, 500, api.CodeFailed, "splitd made a mistake"}, // it panics
	} {
		path := start(t, control.Handler(errorOperator{operatorOf(split("mx", "new")), test.err}, quiet()))
		status, body := ask(t, path, http.MethodGet, "/v1/plan", "")
		refusal := decode[api.Error](t, body)
		if status != test.status || refusal.Code != test.code || !strings.Contains(refusal.Message, test.message) {
			t.Errorf("%v: %d %s", test.err, status, body)
		}
		if status, _ := ask(t, path, http.MethodGet, "/v1/version", ""); status != http.StatusOK {
			t.Errorf("%v: afterwards the server answers %d", test.err, status)
		}
	}
}

func TestEveryChangingRouteIsRefusedToReaders(t *testing.T) {
	operator := operatorOf(split("mx", "new"))
	whole := control.Handler(operator, quiet())
	stranger := control.Peer{PID: 7, UID: 4711, GID: 4711}
	for name, handler := range map[string]http.Handler{
		"a stranger":          control.As(whole, stranger, control.Owner{UID: 999, GID: 998, HasGroup: true}, "splitd"),
		"a connection of TCP": whole,
	} {
		for _, r := range control.ChangeRoutes() {
			answer := httptest.NewRecorder()
			// A body that would be refused: who may not is told so first.
			target := strings.ReplaceAll(r[1], "{split}", "mx")
			handler.ServeHTTP(answer, httptest.NewRequestWithContext(t.Context(), r[0], target, strings.NewReader("not JSON")))
			refusal := decode[api.Error](t, answer.Body.String())
			if answer.Code != http.StatusForbidden || refusal.Code != api.CodeForbidden {
				t.Errorf("%s: %s %s = %d %s", name, r[0], target, answer.Code, answer.Body)
			}
		}
		for _, r := range control.ReadRoutes() {
			answer := httptest.NewRecorder()
			target := strings.ReplaceAll(r[1], "{split}", "mx")
			handler.ServeHTTP(answer, httptest.NewRequestWithContext(t.Context(), r[0], target, nil))
			if answer.Code != http.StatusOK {
				t.Errorf("%s: %s %s = %d %s", name, r[0], target, answer.Code, answer.Body)
			}
		}
	}
	answer := httptest.NewRecorder()
	handler := control.As(whole, stranger, control.Owner{UID: 999, GID: 998, HasGroup: true}, "splitd")
	handler.ServeHTTP(answer, httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/v1/off", nil))
	want := `{"apiVersion":"splitd/v1","kind":"Error","code":"forbidden","message":"uid 4711 may read but not change: changing is for root, the daemon's own user and the group \"splitd\": use sudo, or ` + "`sudo usermod -aG splitd uid 4711`" + ` and log in again"}` + "\n"
	want = strings.Replace(want, "splitd uid 4711`", "splitd USER`", 1)
	if diff := cmp.Diff(want, answer.Body.String()); diff != "" {
		t.Errorf("refusal (-want +got):\n%s", diff)
	}
}

// slowOperator says when a change begins and waits for leave to end it.
type slowOperator struct {
	*controltest.Operator
	begun, leave chan struct{}
}

func (o slowOperator) Off(ctx context.Context, who control.Actor, name string, request api.Request) (api.Change, error) {
	close(o.begun)
	<-o.leave
	if err := ctx.Err(); err != nil {
		return api.Change{}, err
	}
	return o.Operator.Off(ctx, who, name, request)
}

func TestAChangeIsNotCutOffWithItsCaller(t *testing.T) {
	operator := slowOperator{operatorOf(split("mx", "new")), make(chan struct{}), make(chan struct{})}
	ppm := 1000
	if _, err := operator.Set(t.Context(), control.Actor{}, "mx", api.SetRequest{WeightPPM: &ppm}); err != nil {
		t.Fatal(err)
	}
	path := start(t, control.Handler(operator, quiet()))
	ctx, cancel := context.WithCancel(t.Context())
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://splitd/v1/off", nil)
	if err != nil {
		t.Fatal(err)
	}
	gone := make(chan error, 1)
	go func() {
		answer, err := unixClient(path).Do(request)
		if err == nil {
			_ = answer.Body.Close()
		}
		gone <- err
	}()
	<-operator.begun
	cancel()
	if err := <-gone; err == nil {
		t.Fatal("the caller was answered")
	}
	close(operator.leave)
	nettest.Eventually(t, "the change is made", func() bool {
		list, err := operator.Splits(t.Context(), "mx")
		return err == nil && list.Items[0].WeightPPM == 0
	})
}

func TestChangesFromManyCallersSerialise(t *testing.T) {
	operator := operatorOf(split("mx", "new"))
	path := start(t, control.Handler(operator, quiet()))
	const callers, changes = 8, 25
	var wg sync.WaitGroup
	var mu sync.Mutex
	seen := map[uint64]bool{}
	for caller := range callers {
		wg.Go(func() {
			for n := range changes {
				// Every weight differs from every other, so each is a change.
				_, body := ask(t, path, http.MethodPost, "/v1/weight", fmt.Sprintf(`{"weight_ppm":%d}`, 1+caller*changes+n))
				change := decode[api.Change](t, body)
				mu.Lock()
				if seen[change.Generation] || !change.Changed {
					t.Errorf("generation %d twice, or no change: %s", change.Generation, body)
				}
				seen[change.Generation] = true
				mu.Unlock()
				_, _ = ask(t, path, http.MethodGet, "/v1/splits", "")
			}
		})
	}
	wg.Wait()
	list, err := operator.Splits(t.Context(), "mx")
	if err != nil || list.Items[0].Generation != 1+callers*changes {
		t.Errorf("generation = %d, %v, want %d", list.Items[0].Generation, err, 1+callers*changes)
	}
}

func TestADeadlineThatIsNoTimeIsRefused(t *testing.T) {
	operator := operatorOf(split("mx", "new"))
	path := start(t, control.Handler(operator, quiet()))
	for header, want := range map[string]int{"soon": http.StatusBadRequest, "2999-01-01T00:00:00Z": http.StatusOK} {
		client := http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", path)
		}, DisableKeepAlives: true}}
		request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://splitd/v1/splits/mx/off", strings.NewReader("{}"))
		if err != nil {
			t.Fatal(err)
		}
		request.Header.Set("Content-Type", "application/json")
		request.Header.Set(api.DeadlineHeader, header)
		answer, err := client.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		_ = answer.Body.Close()
		if answer.StatusCode != want {
			t.Errorf("off until %q: status %d, want %d", header, answer.StatusCode, want)
		}
	}
}
