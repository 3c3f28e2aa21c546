package client_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/splitd/splitd/control/api"
	"github.com/splitd/splitd/control/client"
)

// serve answers on a socket of the test's own.
func serve(t *testing.T, handler http.HandlerFunc) string {
	t.Helper()
	l := bind(t, filepath.Join(t.TempDir(), "s"))
	server := &http.Server{Handler: handler, ReadHeaderTimeout: time.Minute}
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(l) }()
	t.Cleanup(func() {
		_ = server.Close()
		<-ended
	})
	return l.Addr().String()
}

func bind(t *testing.T, path string) *net.UnixListener {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

func answer(w http.ResponseWriter, status int, body string) {
	w.WriteHeader(status)
	_, _ = io.WriteString(w, body)
}

func TestEveryCallGoesWhereTheAPIHasIt(t *testing.T) {
	var mu sync.Mutex
	var got []string
	path := serve(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		mu.Lock()
		got = append(got, r.Method+" "+r.URL.RequestURI()+" "+string(body))
		mu.Unlock()
		answer(w, http.StatusOK, `{"apiVersion":"splitd/v1","kind":"Any","added":"by a newer daemon"}`)
	})
	c, ctx, ppm := &client.Client{Socket: path}, t.Context(), 50000
	request := api.Request{Reason: "CHG-1"}
	calls := []func() error{
		func() error { _, err := c.Splits(ctx, ""); return err },
		func() error { _, err := c.Splits(ctx, "mx"); return err },
		func() error { _, err := c.History(ctx, "", 0); return err },
		func() error { _, err := c.History(ctx, "mx", 5); return err },
		func() error { _, err := c.Plan(ctx); return err },
		func() error { _, err := c.Doctor(ctx); return err },
		func() error { _, err := c.Version(ctx); return err },
		func() error { _, err := c.Set(ctx, "", api.SetRequest{WeightPPM: &ppm}); return err },
		func() error { _, err := c.Set(ctx, "a/../b", api.SetRequest{Default: true}); return err },
		func() error { _, err := c.Shadow(ctx, "mx", api.ShadowRequest{SamplePPM: &ppm}); return err },
		func() error { _, err := c.Undo(ctx, "mx", request); return err },
		func() error { _, err := c.Off(ctx, "mx", request); return err },
		func() error { _, err := c.OffAll(ctx, request); return err },
		func() error { _, err := c.Apply(ctx, api.ApplyRequest{Text: "splits: []", Name: "x"}); return err },
		func() error { _, err := c.Report(ctx, ""); return err },
		func() error { _, err := c.Report(ctx, "mx"); return err },
		func() error { _, err := c.ResetReport(ctx, "mx", request); return err },
	}
	for i, call := range calls {
		if err := call(); err != nil {
			t.Errorf("call %d: %v", i, err)
		}
	}
	want := []string{
		"GET /v1/splits ",
		"GET /v1/splits/mx ",
		"GET /v1/history ",
		"GET /v1/splits/mx/history?limit=5 ",
		"GET /v1/plan ",
		"GET /v1/doctor ",
		"GET /v1/version ",
		`POST /v1/weight {"weight_ppm":50000}`,
		`POST /v1/splits/a%2F..%2Fb/weight {"default":true}`,
		`POST /v1/splits/mx/shadow {"sample_ppm":50000}`,
		`POST /v1/splits/mx/undo {"reason":"CHG-1"}`,
		`POST /v1/splits/mx/off {"reason":"CHG-1"}`,
		`POST /v1/off?all=true {"reason":"CHG-1"}`,
		`POST /v1/apply {"text":"splits: []","name":"x"}`,
		"GET /v1/report ",
		"GET /v1/splits/mx/report ",
		`POST /v1/splits/mx/report/reset {"reason":"CHG-1"}`,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("requests (-want +got):\n%s", diff)
	}
}

func TestTheDaemonsErrorsKeepTheirCode(t *testing.T) {
	path := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		answer(w, http.StatusConflict, `{"apiVersion":"splitd/v1","kind":"Error","code":"conflict","message":"split \"mx\" is at generation 4"}`)
	})
	_, err := (&client.Client{Socket: path}).Undo(t.Context(), "mx", api.Request{})
	refusal, ok := errors.AsType[*api.Error](err)
	if !ok || refusal.Code != api.CodeConflict || err.Error() != `split "mx" is at generation 4` {
		t.Errorf("Undo = %#v", err)
	}
	if errors.Is(err, client.ErrUnreachable) {
		t.Error("an answer counts as unreachable")
	}
}

func TestWhatIsNoSplitdIsToldSo(t *testing.T) {
	for _, test := range []struct {
		name, body string
		status     int
		want       string
	}{
		{"a web server", "<html>", 200, "it is no splitd's"},
		{"a web server's 404", "not found", 404, "it is no splitd's"},
		{"JSON", `{"items":[]}`, 200, "it is no splitd's"},
		{"a later API", `{"apiVersion":"splitd/v2","kind":"SplitList"}`, 200, "it speaks splitd/v2, this program splitd/v1"},
		{"a refusal without a reason", `{"apiVersion":"splitd/v1","kind":"SplitList"}`, 500, "HTTP status 500 without a reason"},
		{"another shape", `{"apiVersion":"splitd/v1","items":7}`, 200, "cannot unmarshal"},
	} {
		t.Run(test.name, func(t *testing.T) {
			path := serve(t, func(w http.ResponseWriter, _ *http.Request) { answer(w, test.status, test.body) })
			_, err := (&client.Client{Socket: path}).Splits(t.Context(), "")
			if err == nil || !strings.Contains(err.Error(), test.want) || errors.Is(err, client.ErrUnreachable) {
				t.Errorf("Splits = %v, want %q", err, test.want)
			}
		})
	}
}

func env(values map[string]string) func(string) string {
	return func(name string) string { return values[name] }
}

func TestTheSocketIsLookedForInItsOrder(t *testing.T) {
	all := map[string]string{"SPLITD_CONTROL_SOCKET": "/env.sock", "XDG_RUNTIME_DIR": "/xdg"}
	for _, test := range []struct {
		name   string
		client client.Client
		want   []string
	}{
		{"named", client.Client{Socket: "/named.sock", Getenv: env(all)}, []string{"/named.sock"}},
		{"environment", client.Client{Getenv: env(all)}, []string{"/env.sock"}},
		{"system, then user", client.Client{Getenv: env(map[string]string{"XDG_RUNTIME_DIR": "/xdg"})}, []string{"/run/splitd/splitd.sock", "/xdg/splitd/splitd.sock"}},
		{"system", client.Client{Getenv: env(nil)}, []string{"/run/splitd/splitd.sock"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			if diff := cmp.Diff(test.want, test.client.Paths()); diff != "" {
				t.Errorf("Paths (-want +got):\n%s", diff)
			}
		})
	}
}

func TestAnAbsentDaemonIsUnreachableAndTheTextSaysWhatToDo(t *testing.T) {
	dir := t.TempDir()
	stale := bind(t, filepath.Join(dir, "stale"))
	stale.SetUnlinkOnClose(false)
	_ = stale.Close()
	for name, path := range map[string]string{"missing": filepath.Join(dir, "no"), "stale": filepath.Join(dir, "stale")} {
		_, err := (&client.Client{Socket: path}).Version(t.Context())
		missing, ok := errors.AsType[*client.Unreachable](err)
		if !errors.Is(err, client.ErrUnreachable) || !ok || missing.Hung {
			t.Fatalf("%s: Version = %#v", name, err)
		}
		for _, want := range []string{"no daemon listens on", path, "systemctl start splitd", "--socket"} {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%s: %q does not say %q", name, err, want)
			}
		}
	}
	for cause, want := range map[error]string{
		syscall.EACCES:           "use sudo",
		io.ErrUnexpectedEOF:      "systemctl status splitd",
		context.DeadlineExceeded: "systemctl status splitd",
	} {
		u := &client.Unreachable{Socket: "/s", Cause: cause}
		if !strings.Contains(u.Error(), want) {
			t.Errorf("%v: %q does not say %q", cause, u, want)
		}
	}
}

func TestAStoppedDaemonHangsNobodyAndItsPIDIsKnown(t *testing.T) {
	// A listener that accepts nothing is what a stopped process looks like.
	path := bind(t, filepath.Join(t.TempDir(), "s")).Addr().String()
	c := &client.Client{Socket: path, Timeout: 50 * time.Millisecond}
	begin := time.Now()
	_, err := c.Off(t.Context(), "mx", api.Request{})
	missing, ok := errors.AsType[*client.Unreachable](err)
	if !ok || !missing.Hung || !errors.Is(err, client.ErrUnreachable) {
		t.Errorf("Off = %v, want that it hangs", err)
	}
	if took := time.Since(begin); took > 5*time.Second {
		t.Errorf("Off took %v", took)
	}
	pid, err := c.PeerPID(t.Context())
	if pid != os.Getpid() || err != nil {
		t.Errorf("PeerPID = %d, %v, want %d", pid, err, os.Getpid())
	}
}

func TestAFullQueueOfConnectionsHangsNobody(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	fd, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = syscall.Close(fd) }()
	if err := errors.Join(syscall.Bind(fd, &syscall.SockaddrUnix{Name: path}), syscall.Listen(fd, 0)); err != nil {
		t.Fatal(err)
	}
	first, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = first.Close() }()
	_, err = (&client.Client{Socket: path, Timeout: 100 * time.Millisecond}).Version(t.Context())
	if missing, ok := errors.AsType[*client.Unreachable](err); !ok || !missing.Hung {
		t.Errorf("Version = %v, want that it hangs", err)
	}
}

func TestADaemonThatDiesWhileItAnswersIsUnreachable(t *testing.T) {
	l := bind(t, filepath.Join(t.TempDir(), "s"))
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = c.Read(make([]byte, 1))
			_ = c.Close()
		}
	}()
	_, err := (&client.Client{Socket: l.Addr().String()}).Version(t.Context())
	if missing, ok := errors.AsType[*client.Unreachable](err); !ok || missing.Hung {
		t.Errorf("Version = %v", err)
	}
}

func TestACallerThatGivesUpIsNoMissingDaemon(t *testing.T) {
	path := bind(t, filepath.Join(t.TempDir(), "s")).Addr().String()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := (&client.Client{Socket: path}).Version(ctx)
	if !errors.Is(err, context.Canceled) || errors.Is(err, client.ErrUnreachable) {
		t.Errorf("Version = %v, want that it was cancelled", err)
	}
}

func TestTheFirstSocketWithADaemonIsTaken(t *testing.T) {
	dir := t.TempDir()
	missing, stale, live := filepath.Join(dir, "missing"), filepath.Join(dir, "stale"), filepath.Join(dir, "live")
	l := bind(t, stale)
	l.SetUnlinkOnClose(false)
	_ = l.Close()
	bind(t, live)
	for _, paths := range [][]string{{live}, {missing, live}, {stale, live}, {live, stale}} {
		if got, err := client.Dial(t.Context(), paths...); got != live || err != nil {
			t.Errorf("of %q the client takes %q, %v", paths, got, err)
		}
	}
	// When there is none, what stands there is more telling than what does not.
	_, err := client.Dial(t.Context(), missing, stale)
	if failed, ok := errors.AsType[*client.Unreachable](err); !ok || failed.Socket != stale {
		t.Errorf("error = %v, want one about %q", err, stale)
	}
	_, err = client.Dial(t.Context(), missing, missing+"2")
	if failed, ok := errors.AsType[*client.Unreachable](err); !ok || failed.Socket != missing {
		t.Errorf("error = %v, want one about %q", err, missing)
	}
}

func TestADaemonThatIsAtWorkIsWaitedForLongerThanOneThatIsSilent(t *testing.T) {
	const patience = 100 * time.Millisecond
	for name, test := range map[string]struct {
		working bool
		want    error
	}{"at work": {true, nil}, "silent": {false, client.ErrUnreachable}} {
		late := make(chan struct{})
		path := serve(t, func(w http.ResponseWriter, r *http.Request) {
			if test.working && r.Header.Get(api.ProgressHeader) != "" {
				w.WriteHeader(http.StatusProcessing)
			}
			<-late
			answer(w, http.StatusOK, `{"apiVersion":"splitd/v1","kind":"ChangeList","items":[]}`)
		})
		wake := time.AfterFunc(3*patience, func() { close(late) })
		defer wake.Stop()
		_, err := (&client.Client{Socket: path, Timeout: patience}).OffAll(t.Context(), api.Request{})
		if !errors.Is(err, test.want) {
			t.Errorf("%s: OffAll = %v, want %v", name, err, test.want)
		}
	}
}
