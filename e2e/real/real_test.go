//go:build e2ereal

// Package real tests splitd with the programs that it stands between in real
// life, as Debian ships them: Postfix and nginx serve, smtp-source, swaks, curl, openssl
// and keep-alive clients ask, keepalived and conntrackd make one router of two,
// nft, ip and conntrack say what the kernel does.
// It needs root and the packages of packages.sh, and starts every program in
// namespaces of its own: nothing of the machine's own services, ruleset, rules
// and routes is touched, and nothing is sent out of the namespaces.
package real

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/splitd/splitd/internal/programs"
)

func TestMain(m *testing.M) { os.Exit(enter(m)) }

func enter(m *testing.M) int {
	if os.Geteuid() != 0 {
		fmt.Fprintln(os.Stderr, "FAIL: Postfix and other users need root: sudo make e2e-real")
		return 1
	}
	// The PATH of su and of some sudoers has no programs for administrators.
	if err := os.Setenv("PATH", os.Getenv("PATH")+":/usr/sbin:/sbin"); err != nil {
		fmt.Fprintf(os.Stderr, "FAIL: %v\n", err)
		return 1
	}
	return programs.Run(m)
}

// openDir is a temporary directory that other users can reach.
func openDir(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	for _, d := range []string{dir, filepath.Dir(dir)} {
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// write makes a file that other users can read.
func write(t testing.TB, path, text string) string {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

// uidOf and gidOf are the numbers of a user and of a group of this machine.
func uidOf(t testing.TB, name string) uint32 {
	t.Helper()
	u, err := user.Lookup(name)
	if err != nil {
		t.Fatal(err)
	}
	return number(t, u.Uid)
}

func gidOf(t testing.TB, name string) uint32 {
	t.Helper()
	g, err := user.LookupGroup(name)
	if err != nil {
		t.Fatal(err)
	}
	return number(t, g.Gid)
}

func number(t testing.TB, text string) uint32 {
	t.Helper()
	n, err := strconv.ParseUint(text, 10, 32)
	if err != nil {
		t.Fatal(err)
	}
	return uint32(n)
}

// result is what a command printed and how it ended.
type result struct {
	stdout, stderr string
	code           int
}

// finish waits for a command that was started with these buffers.
func finish(cmd *exec.Cmd, stdout, stderr *bytes.Buffer) (result, error) {
	err := cmd.Wait()
	if exit, ok := errors.AsType[*exec.ExitError](err); err != nil && (!ok || exit.ExitCode() < 0) {
		return result{}, fmt.Errorf("run %q: %w\n%s", cmd.Args, err, stderr)
	}
	return result{stdout.String(), stderr.String(), cmd.ProcessState.ExitCode()}, nil
}
