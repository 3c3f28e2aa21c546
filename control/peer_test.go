package control_test

import (
	"context"
	"encoding/json"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/splitd/splitd/control"
	"github.com/splitd/splitd/control/api"
)

// TestMain lets the test binary stand for another user's program too: it
// posts `off` to the socket it is given and prints the answer.
func TestMain(m *testing.M) {
	if path := os.Getenv("CONTROL_TEST_SOCKET"); path != "" {
		os.Exit(post(path))
	}
	os.Exit(m.Run())
}

func post(path string) int {
	request, err := http.NewRequestWithContext(context.Background(), http.MethodPost, "http://splitd/v1/off", strings.NewReader("{}"))
	if err != nil {
		return 1
	}
	answer, err := unixClient(path).Do(request)
	if err != nil {
		_, _ = os.Stdout.WriteString(err.Error())
		return 1
	}
	defer func() { _ = answer.Body.Close() }()
	if _, err := os.Stdout.ReadFrom(answer.Body); err != nil {
		return 1
	}
	return 0
}

func TestTheKernelSaysWhoIsThere(t *testing.T) {
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(t.TempDir(), "s")})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	c, err := net.Dial("unix", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	accepted, err := l.AcceptUnix()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = accepted.Close() }()
	got, err := control.PeerOf(accepted)
	if err != nil {
		t.Fatal(err)
	}
	groups, err := os.Getgroups()
	if err != nil {
		t.Fatal(err)
	}
	want := control.Peer{PID: os.Getpid(), UID: uint32(os.Geteuid()), GID: uint32(os.Getegid()), Groups: []uint32{}}
	for _, g := range groups {
		want.Groups = append(want.Groups, uint32(g))
	}
	slices.Sort(want.Groups)
	slices.Sort(got.Groups)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("PeerOf (-want +got):\n%s", diff)
	}
}

// TestOtherUsersChangeThroughTheGroupAlone starts other users' processes,
// which only root can; who is not root sees its own two sides.
func TestOtherUsersChangeThroughTheGroupAlone(t *testing.T) {
	operator := operatorOf(split("mx", "new"))
	dir := openDir(t)
	path := filepath.Join(dir, "s")
	server := listen(t, control.ServerOptions{Path: path, Group: ownGroup(), GroupExplicit: true})
	run(t, server, control.Handler(operator, quiet()))
	group := uint32(os.Getegid())
	many := []uint32{}
	for n := range uint32(200) { // more than fit into one question to the kernel
		many = append(many, 5000+n)
	}
	for _, test := range []struct {
		name       string
		credential *syscall.Credential
		code       api.Code
	}{
		{"the daemon's own user", nil, ""},
		{"primary group", &syscall.Credential{Uid: 4711, Gid: group}, ""},
		{"supplementary group", &syscall.Credential{Uid: 4711, Gid: 4711, Groups: []uint32{5, group}}, ""},
		{"last of many groups", &syscall.Credential{Uid: 4711, Gid: 4711, Groups: append(slices.Clone(many), group)}, ""},
		{"stranger", &syscall.Credential{Uid: 4711, Gid: 4711}, api.CodeForbidden},
		{"stranger of many groups", &syscall.Credential{Uid: 4711, Gid: 4711, Groups: many}, api.CodeForbidden},
	} {
		if test.credential != nil && os.Geteuid() != 0 {
			continue
		}
		t.Run(test.name, func(t *testing.T) {
			self, err := os.Executable()
			if err != nil {
				t.Fatal(err)
			}
			cmd := exec.CommandContext(t.Context(), self)
			if test.credential != nil {
				cmd = exec.CommandContext(t.Context(), copyOf(t, self, dir))
				cmd.SysProcAttr = &syscall.SysProcAttr{Credential: test.credential}
			}
			cmd.Env, cmd.Dir = []string{"CONTROL_TEST_SOCKET=" + path}, "/"
			out, err := cmd.CombinedOutput()
			if err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			var refusal api.Error
			if err := json.Unmarshal(out, &refusal); err != nil {
				t.Fatalf("answer %q: %v", out, err)
			}
			if refusal.Code != test.code {
				t.Errorf("answer = %s, want code %q", out, test.code)
			}
		})
	}
}

// openDir is a directory that other users may look into.
func openDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "splitd-control-") //nolint:usetesting // t.TempDir is below a directory closed to others
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

func copyOf(t *testing.T, program, dir string) string {
	t.Helper()
	to := filepath.Join(dir, "program")
	text, err := os.ReadFile(program)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(to); err != nil {
		if err := os.WriteFile(to, text, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return to
}
