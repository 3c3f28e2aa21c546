package netfilter

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/splitd/splitd/traffic"
)

// The line to include is for files that flush the ruleset: over a table that an
// owner has left the kernel takes no `add table` without the flag persist, which
// nft learnt in 1.1, and the load changes nothing at all.
func TestTheTextToIncludeReplacesATableThatAnOwnerLeftAfterAFlushAlone(t *testing.T) {
	lab := newSplitLab(t)
	lab.openOwner()
	s := remoteSplit(1, traffic.Whole)
	lab.apply(s)
	lab.router.Do(func() error {
		text, err := lab.kernel.Include(t.Context(), []traffic.Split{s}, nil)
		if err != nil {
			return err
		}
		if err := lab.kernel.Close(); err != nil {
			return err
		}
		load := func(head string) (string, error) {
			path := filepath.Join(t.TempDir(), "nftables.conf")
			if err := os.WriteFile(path, []byte(head+text), 0o600); err != nil {
				return "", err
			}
			said, err := exec.CommandContext(t.Context(), "nft", "-f", path).CombinedOutput()
			return string(said), err
		}
		if said, err := load(""); err == nil || !strings.Contains(said, "Operation not supported") {
			t.Errorf("without a flush nft says %q, %v, want it to be refused", said, err)
		}
		for _, after := range []string{"of what an owner left", "again"} {
			if said, err := load("flush ruleset\n"); err != nil {
				t.Errorf("after a flush %s: %s%v", after, said, err)
			}
		}
		if said, err := load(""); err != nil {
			t.Errorf("over a table without the flag: %s%v", said, err)
		}
		return nil
	})
}
