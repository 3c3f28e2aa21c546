package state_test

import (
	"path/filepath"
	"testing"

	"github.com/splitd/splitd/state"
	"github.com/splitd/splitd/traffic"
)

// BenchmarkCommitWithAFullHistory is what a `set` waits for.
func BenchmarkCommitWithAFullHistory(b *testing.B) {
	s := openStore(b, filepath.Join(b.TempDir(), "state.db"))
	entries := make([]state.Entry, 1000)
	for i := range entries {
		entries[i] = set("mx", traffic.Generation(i))
	}
	commit(b, s, nil, entries)
	generation := traffic.Generation(len(entries))
	for b.Loop() {
		generation++
		commit(b, s, []state.Record{record("mx", generation)}, []state.Entry{set("mx", generation)})
	}
}
