// Package e2e tests splitd from outside, as a user sees it: the built binaries,
// their files, the control socket, and a real kernel in namespaces.
package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/splitd/splitd/internal/netns"
	"github.com/splitd/splitd/internal/nettest"
)

// binEnv names the folder of the binaries to test; make sets it. Without it
// they are built for this run.
const binEnv = "SPLITD_BIN"

func TestMain(m *testing.M) {
	if os.Getenv(forbidEnv) != "" {
		fmt.Fprintln(os.Stderr, execWithoutNamespaces(os.Args[1:]))
		os.Exit(1)
	}
	os.Exit(run(m))
}

func run(m *testing.M) int {
	if os.Getenv(binEnv) == "" && !netns.Inside() {
		dir, err := build()
		defer func() { _ = os.RemoveAll(dir) }()
		if err != nil {
			fmt.Fprintf(os.Stderr, "FAIL: %v\n", err)
			return 1
		}
	}
	return nettest.Run(m)
}

// build builds both programs as make does, and names their folder in the
// environment for the tests inside the namespaces.
func build() (string, error) {
	dir, err := os.MkdirTemp("", "splitd-e2e-")
	if err != nil {
		return "", err
	}
	cmd := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-o", dir, "../cmd/splitd", "../cmd/splitctl")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if output, err := cmd.CombinedOutput(); err != nil {
		return dir, fmt.Errorf("build the binaries: %w\n%s", err, output)
	}
	return dir, os.Setenv(binEnv, dir)
}

// binary is the path of a built program: "splitd" or "splitctl".
func binary(t testing.TB, name string) string {
	t.Helper()
	path := filepath.Join(os.Getenv(binEnv), name)
	if _, err := os.Stat(path); err != nil {
		t.Fatalf("find binary: %v: run `make build`", err)
	}
	return path
}

// forbidEnv makes this test binary a command that forbids further namespaces
// to itself and becomes another program: a list of settings is its value.
const forbidEnv = "E2E_FORBID_NAMESPACES"

// execWithoutNamespaces runs in a user namespace of its own, whose limits it may
// set (user_namespaces(7), /proc/sys/user).
func execWithoutNamespaces(args []string) error {
	for _, setting := range filepath.SplitList(os.Getenv(forbidEnv)) {
		name, value, _ := strings.Cut(setting, "=")
		if err := os.WriteFile("/proc/sys/user/"+name, []byte(value), 0o644); err != nil {
			return err
		}
	}
	if err := os.Unsetenv(forbidEnv); err != nil {
		return err
	}
	return syscall.Exec(args[0], args, os.Environ())
}
