package control_test

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/splitd/splitd/control"
	"github.com/splitd/splitd/control/api"
	"github.com/splitd/splitd/control/controltest"
	"github.com/splitd/splitd/traffic"
)

var update = flag.Bool("update", false, "write the golden files")

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

func clock() time.Time { return time.Date(2026, 11, 20, 14, 0, 0, 0, time.UTC) }

func split(name string, candidates ...string) traffic.Split {
	s := traffic.Split{
		Name: name, Protocol: "smtp", Mode: traffic.ModeKernel,
		Service: traffic.Service{
			Addresses: []netip.Addr{netip.MustParseAddr("192.0.2.25")},
			Ports:     []traffic.Port{{Number: 25, Transport: traffic.TCP}},
		},
		Primary: traffic.Backend{Name: "old", Local: true},
	}
	if len(candidates) == 1 {
		s.Shadow.To = candidates[0]
	}
	for _, c := range candidates {
		s.Candidates = append(s.Candidates, traffic.Backend{
			Name: c, Addresses: []traffic.Address{{IP: netip.MustParseAddr("10.0.0.12")}},
		})
	}
	return s
}

// ownGroup is a group that this process may give to a file: its own.
func ownGroup() string { return strconv.Itoa(os.Getegid()) }

// start serves the handler on a socket of the test's own until it ends.
func start(t *testing.T, handler http.Handler) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "s")
	server, err := control.Listen(control.ServerOptions{Path: path})
	if err != nil {
		t.Fatal(err)
	}
	run(t, server, handler)
	return path
}

// run runs the server until the test ends, or until the returned function,
// which returns Run's error.
func run(t *testing.T, server *control.Server, handler http.Handler) (stop func() error) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	ended := make(chan error, 1)
	go func() { ended <- server.Run(ctx, handler) }()
	done := false
	stop = func() error {
		if done {
			return nil
		}
		done = true
		cancel()
		return <-ended
	}
	t.Cleanup(func() {
		if err := stop(); err != nil {
			t.Errorf("Run = %v", err)
		}
	})
	return stop
}

func unixClient(path string) *http.Client {
	return &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", path)
		},
	}}
}

// ask sends a request and returns status and body.
func ask(t *testing.T, path, method, target, body string) (int, string) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), method, "http://splitd"+target, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	answer, err := unixClient(path).Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = answer.Body.Close() }()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer.StatusCode, string(text)
}

func decode[T any](t *testing.T, text string) T {
	t.Helper()
	var value T
	if err := json.Unmarshal([]byte(text), &value); err != nil {
		t.Fatalf("decode %q: %v", text, err)
	}
	return value
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", path, diff)
	}
}

// operatorOf is a daemon in memory with these splits.
func operatorOf(splits ...traffic.Split) *controltest.Operator {
	return controltest.New(clock, splits...)
}

func asAPIError(t *testing.T, err error) *api.Error {
	t.Helper()
	refusal, ok := errors.AsType[*api.Error](err)
	if !ok {
		t.Fatalf("error %v is no *api.Error", err)
	}
	return refusal
}
