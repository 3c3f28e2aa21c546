package client_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/splitd/splitd/control"
	"github.com/splitd/splitd/control/api"
	"github.com/splitd/splitd/control/client"
)

func TestADaemonThatEndsIsNotCalledMissing(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "s")
	c := &client.Client{Socket: socket}
	ask := func() string {
		t.Helper()
		_, err := c.Version(t.Context())
		if !errors.Is(err, client.ErrUnreachable) {
			t.Fatalf("a daemon that does not listen is asked: %v", err)
		}
		return err.Error()
	}
	if got := ask(); !strings.HasPrefix(got, "no daemon listens on") {
		t.Errorf("with nobody there: %s", got)
	}
	notice, err := control.Notify(socket)
	if err != nil {
		t.Fatal(err)
	}
	noon := time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)
	want := api.Ending{PID: 4711, Flows: 12, AsOf: noon, Until: new(noon.Add(time.Minute)), Kernel: true}
	for _, e := range []api.Ending{{PID: 4711, Flows: 1000, AsOf: noon}, want} { // the second is shorter
		if err := notice.Say(e); err != nil {
			t.Fatal(err)
		}
	}
	got, ok := c.Ending()
	if diff := cmp.Diff(want, got); diff != "" || !ok {
		t.Errorf("Ending, found %v (-want +got):\n%s", ok, diff)
	}
	if got := ask(); !strings.Contains(got, "splitd (pid 4711) is ending") || !strings.Contains(got, "`kill 4711`") {
		t.Errorf("while it ends: %s", got)
	}
	if _, err := control.Notify(socket); err == nil {
		t.Error("two daemons end at one socket")
	}
	left, err := os.ReadFile(socket + api.EndingSuffix)
	if err != nil {
		t.Fatal(err)
	}
	if err := notice.Close(); err != nil {
		t.Fatal(err)
	}
	if got := ask(); !strings.HasPrefix(got, "no daemon listens on") {
		t.Errorf("after its end: %s", got)
	}
	// One that was killed leaves its notice, and nobody holds it.
	if err := os.WriteFile(socket+api.EndingSuffix, left, 0o600); err != nil {
		t.Fatal(err)
	}
	if got, ok := c.Ending(); ok {
		t.Errorf("a daemon that was killed is ending: %+v", got)
	}
}

func TestWhatADaemonSaysAtItsEnd(t *testing.T) {
	noon := time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)
	for _, tt := range []struct {
		ending api.Ending
		want   string
	}{
		{api.Ending{PID: 7, Flows: 5, AsOf: noon, Until: new(noon.Add(30 * time.Second))}, "splitd (pid 7) is ending: it begins no flows, answers nobody and takes no change, and " +
			"5 open flows of its relay drain until 12:00:30 at the latest (as of 12:00:00): wait, or `kill 7` resets them and ends it at once"},
		{api.Ending{PID: 7, Flows: 1, AsOf: noon}, "splitd (pid 7) is ending: it begins no flows, answers nobody and takes no change, and " +
			"1 open flow of its relay drains without a limit (as of 12:00:00): wait, or `kill 7` resets them and ends it at once"},
	} {
		if diff := cmp.Diff(tt.want, tt.ending.Text(time.UTC)); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	}
}
