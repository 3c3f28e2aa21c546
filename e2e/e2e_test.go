// Package e2e tests splitd from outside, as a user sees it: the built binaries,
// their files, the control socket, and a real kernel in namespaces.
package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/splitd/splitd/internal/programs"
)

func TestMain(m *testing.M) {
	if os.Getenv(forbidEnv) != "" {
		fmt.Fprintln(os.Stderr, execWithoutNamespaces(os.Args[1:]))
		os.Exit(1)
	}
	// Other tests have the processors meanwhile: what plays shadows is to have some too.
	if err := os.Setenv("SPLITD_SHADOW_PRIORITY", "normal"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(programs.Run(m))
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
