// Package programs has the built binaries for end-to-end tests: it builds them
// where make has not, says where they are, and keeps what they print.
package programs

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"

	"github.com/splitd/splitd/internal/netns"
	"github.com/splitd/splitd/internal/nettest"
)

// Env names the folder of the binaries to test; make sets it. Without it they
// are built for the run.
const Env = "SPLITD_BIN"

// Run runs the tests of a package inside namespaces (nettest.Run), with the
// binaries at hand, and returns the exit code.
func Run(m *testing.M) int {
	if os.Getenv(Env) == "" && !netns.Inside() {
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
	dir, err := os.MkdirTemp("", "splitd-programs-")
	if err != nil {
		return "", err
	}
	const module = "github.com/splitd/splitd/cmd/"
	cmd := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-o", dir, module+"splitd", module+"splitctl")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if output, err := cmd.CombinedOutput(); err != nil {
		return dir, fmt.Errorf("build the binaries: %w\n%s", err, output)
	}
	return dir, os.Setenv(Env, dir)
}

// Path is where a built program is: "splitd" or "splitctl". It fails the test
// when it is not there.
func Path(t testing.TB, name string) string {
	t.Helper()
	path := filepath.Join(os.Getenv(Env), name)
	if _, err := os.Stat(path); err != nil {
		t.Fatalf("find binary: %v: run `make build`", err)
	}
	return path
}

// Output keeps what a process writes while the test reads it. The zero Output
// is empty.
type Output struct {
	mu sync.Mutex
	b  bytes.Buffer
}

// Write adds p.
func (o *Output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.Write(p)
}

// String is all that was written.
func (o *Output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}
