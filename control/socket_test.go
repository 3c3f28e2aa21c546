package control_test

import (
	"errors"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/splitd/splitd/control"
)

func listen(t *testing.T, o control.ServerOptions) *control.Server {
	t.Helper()
	server, err := control.Listen(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = server.Close() })
	return server
}

func modeOf(t *testing.T, path string) fs.FileMode {
	t.Helper()
	info, err := os.Lstat(path)
	if err != nil {
		t.Fatal(err)
	}
	return info.Mode()
}

// only fails the test if the directory holds anything else than these names.
func only(t *testing.T, dir string, names ...string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range entries {
		got = append(got, e.Name())
	}
	if strings.Join(got, " ") != strings.Join(names, " ") {
		t.Errorf("%s holds %q, want %q", dir, got, names)
	}
}

func TestTheSocketIsOpenToAllWhenTheGroupIsMapped(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "run", "splitd")
	path := filepath.Join(dir, "splitd.sock")
	server := listen(t, control.ServerOptions{Path: path, Group: ownGroup(), GroupExplicit: true})
	if got := modeOf(t, path); got != fs.ModeSocket|0o666 {
		t.Errorf("mode = %v, want 0666", got)
	}
	if got := modeOf(t, dir); got.Perm()&0o022 != 0 {
		t.Errorf("mode of the directory = %v: others may write", got)
	}
	if len(server.Warnings) > 0 {
		t.Errorf("Warnings = %q", server.Warnings)
	}
	only(t, dir, "splitd.sock")
}

func TestAMissingDefaultGroupIsAWarningAndTheSocketIsClosed(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	server := listen(t, control.ServerOptions{Path: path, Group: "no-such-group"})
	if got := modeOf(t, path); got != fs.ModeSocket|0o600 {
		t.Errorf("mode = %v, want 0600", got)
	}
	if len(server.Warnings) != 1 || !strings.Contains(server.Warnings[0], `find group "no-such-group"`) || !strings.Contains(server.Warnings[0], "groupadd") {
		t.Errorf("Warnings = %q, want one that tells the cure", server.Warnings)
	}
}

func TestAMissingExplicitGroupIsAnError(t *testing.T) {
	dir := t.TempDir()
	_, err := control.Listen(control.ServerOptions{Path: filepath.Join(dir, "s"), Group: "no-such-group", GroupExplicit: true})
	if err == nil || !strings.Contains(err.Error(), `find group "no-such-group"`) {
		t.Errorf("Listen = %v", err)
	}
	only(t, dir)
}

func TestWithoutAGroupTheSocketIsClosed(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	if server := listen(t, control.ServerOptions{Path: path}); len(server.Warnings) > 0 {
		t.Errorf("Warnings = %q", server.Warnings)
	}
	if got := modeOf(t, path); got != fs.ModeSocket|0o600 {
		t.Errorf("mode = %v, want 0600", got)
	}
}

func TestAStaleSocketIsReplaced(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	stale, err := net.ListenUnix("unix", &net.UnixAddr{Name: path})
	if err != nil {
		t.Fatal(err)
	}
	stale.SetUnlinkOnClose(false)
	if err := stale.Close(); err != nil {
		t.Fatal(err)
	}
	server := listen(t, control.ServerOptions{Path: path})
	run(t, server, control.Handler(operatorOf(split("mx", "new")), quiet()))
	if status, body := ask(t, path, http.MethodGet, "/v1/version", ""); status != http.StatusOK {
		t.Errorf("GET /v1/version = %d %s", status, body)
	}
}

func TestALiveSocketIsLeftAlone(t *testing.T) {
	path := start(t, control.Handler(operatorOf(split("mx", "new")), quiet()))
	_, err := control.Listen(control.ServerOptions{Path: path})
	if err == nil || !strings.Contains(err.Error(), "another splitd answers on ") {
		t.Errorf("Listen = %v", err)
	}
	if status, _ := ask(t, path, http.MethodGet, "/v1/version", ""); status != http.StatusOK {
		t.Errorf("the first daemon answers %d", status)
	}
	only(t, filepath.Dir(path), "s")
}

func TestWhatIsNoSocketIsLeftAlone(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	if err := os.WriteFile(path, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := control.Listen(control.ServerOptions{Path: path}); err == nil || !strings.Contains(err.Error(), "no socket") {
		t.Errorf("Listen = %v", err)
	}
	if text, err := os.ReadFile(path); string(text) != "precious" || err != nil {
		t.Errorf("the file holds %q, %v", text, err)
	}
}

func TestAPathThatNoSocketCanHaveIsExplained(t *testing.T) {
	path := filepath.Join(t.TempDir(), strings.Repeat("x", 108))
	if _, err := control.Listen(control.ServerOptions{Path: path}); err == nil || !strings.Contains(err.Error(), "over 107") {
		t.Errorf("Listen = %v", err)
	}
}

func TestOfDaemonsThatStartTogetherOneWins(t *testing.T) {
	for range 20 {
		dir := t.TempDir()
		path := filepath.Join(dir, "s")
		stale, err := net.ListenUnix("unix", &net.UnixAddr{Name: path})
		if err != nil {
			t.Fatal(err)
		}
		stale.SetUnlinkOnClose(false)
		_ = stale.Close()

		servers := make([]*control.Server, 4)
		var wg sync.WaitGroup
		for i := range servers {
			wg.Go(func() { servers[i], _ = control.Listen(control.ServerOptions{Path: path}) })
		}
		wg.Wait()
		won := 0
		for _, s := range servers {
			if s != nil {
				won++
				defer func() { _ = s.Close() }()
			}
		}
		if won != 1 {
			t.Fatalf("%d of %d daemons listen on one socket", won, len(servers))
		}
		only(t, dir, "s")
	}
}

func TestTheSocketNeverStandsThereWithWrongRights(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	group := ownGroup()
	stop := make(chan struct{})
	var watch sync.WaitGroup
	seen := 0
	watch.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			info, err := os.Lstat(path)
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			seen++
			if err != nil || info.Mode() != fs.ModeSocket|0o666 {
				t.Errorf("the socket is seen with mode %v, %v", info.Mode(), err)
				return
			}
		}
	})
	for range 300 {
		server, err := control.Listen(control.ServerOptions{Path: path, Group: group, GroupExplicit: true})
		if err != nil {
			t.Error(err)
			break
		}
		if err := server.Close(); err != nil {
			t.Error(err)
		}
	}
	close(stop)
	watch.Wait()
	if seen == 0 {
		t.Error("the socket was never seen")
	}
}

func TestACleanEndRemovesTheSocketIfItIsStillOurs(t *testing.T) {
	handler := control.Handler(operatorOf(split("mx", "new")), quiet())
	dir := t.TempDir()
	path := filepath.Join(dir, "s")
	if err := run(t, listen(t, control.ServerOptions{Path: path}), handler)(); err != nil {
		t.Errorf("Run = %v", err)
	}
	only(t, dir)

	stop := run(t, listen(t, control.ServerOptions{Path: path}), handler)
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	run(t, listen(t, control.ServerOptions{Path: path}), handler)
	if err := stop(); err != nil {
		t.Errorf("Run = %v", err)
	}
	if status, _ := ask(t, path, http.MethodGet, "/v1/version", ""); status != http.StatusOK {
		t.Errorf("the successor's socket answers %d", status)
	}
}

func TestAnEndWithoutItsDirectoryIsClean(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "splitd")
	stop := run(t, listen(t, control.ServerOptions{Path: filepath.Join(dir, "s")}), control.Handler(operatorOf(split("mx", "new")), quiet()))
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	if err := stop(); err != nil {
		t.Errorf("Run = %v", err)
	}
}
