package netfilter

import (
	"flag"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/splitd/splitd/internal/nettest"
)

var (
	update = flag.Bool("update", false, "rewrite the golden files in testdata")
	effort = flag.Float64("effort", usualEffort, "part of the load that the load tests make: less for an emulated machine")
)

// load is how much of n the tests do with their effort.
func load(n int) int { return int(float64(n) * *effort) }

func TestMain(m *testing.M) {
	if deed := os.Getenv(strangerEnv); deed != "" {
		os.Exit(beStranger(deed))
	}
	nettest.Main(m)
}

// golden compares got with the file of that name in testdata.
func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", path, diff)
	}
}
