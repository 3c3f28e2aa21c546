//go:build e2ereal

package real

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/splitd/splitd/internal/nettest"
)

// TestGoldenRulesetsLoadAndListTheSame holds the texts that the tests of
// netfilter compare with against nft itself: it loads each and lists it byte
// for byte.
func TestGoldenRulesetsLoadAndListTheSame(t *testing.T) {
	for _, kind := range []string{"splits", "returns", "mirrors", "legs"} {
		files, err := filepath.Glob("../../netfilter/testdata/" + kind + "/*.nft")
		if err != nil || len(files) == 0 {
			t.Fatalf("no golden files of %s: %v", kind, err)
		}
		for _, file := range files {
			t.Run(kind+"/"+strings.TrimSuffix(filepath.Base(file), ".nft"), func(t *testing.T) {
				want, err := os.ReadFile(file)
				if err != nil {
					t.Fatal(err)
				}
				ns := nettest.New(t, "router")
				ns.Run("nft", "-f", file)
				if diff := cmp.Diff(string(want), ours(ns)); diff != "" {
					t.Errorf("%s (-file +nft):\n%s", file, diff)
				}
			})
		}
	}
}
