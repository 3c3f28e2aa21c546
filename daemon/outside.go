package daemon

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/splitd/splitd/netfilter"
	"github.com/splitd/splitd/state"
	"github.com/splitd/splitd/traffic"
)

// A standing is what is in force of a split by the word of somebody else than
// the store.
type standing struct {
	netfilter.SplitState
	reason string // for overrides that come of it
}

// outside is what is known beside the store of what is, or was, in force.
type outside struct {
	kernel map[string]netfilter.SplitState
	saved  map[string]netfilter.SplitState // for what the kernel does not have
	// told says that saved has all there was; lost, that there was a store which
	// is not there any more or cannot be read.
	told, lost bool
}

// outside looks for it. Bare says that the store has no record of any split.
func (d *Daemon) outside(kernel map[string]netfilter.SplitState, bare bool) outside {
	o := outside{kernel: kernel, saved: map[string]netfilter.SplitState{}}
	snapshot, err := state.ReadSnapshot(d.snapshotPath())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		d.log.Error("read what was in force", "error", err)
	}
	unread := d.scribe.trouble() != nil
	saved := slices.Clone(snapshot.Relayed)
	if !unread { // else the kernel's word is the last: what it has not is not raised
		saved = append(saved, snapshot.Splits...)
	}
	for _, split := range saved {
		o.saved[split.Name] = savedState(split)
	}
	o.told = snapshot.Relayed != nil
	o.lost = bare && (unread || !errors.Is(err, fs.ErrNotExist) || d.hasHistory())
	return o
}

// hasHistory says that somebody has changed something here before.
func (d *Daemon) hasHistory() bool {
	info, err := os.Stat(filepath.Join(d.options.Config.StateDir, journalFile))
	return err == nil && info.Size() > 0
}

// savedState is a saved split as the kernel would tell it.
func savedState(split traffic.Split) netfilter.SplitState {
	s := netfilter.SplitState{Generation: split.Generation, Weights: split.Weights(), Sample: split.Sample, Slots: split.Slots, Clients: map[string]traffic.Clients{}}
	for _, c := range split.Candidates {
		s.Clients[c.Name] = c.Clients
		if c.Closed {
			s.Closed = append(s.Closed, c.Name)
		}
	}
	return s
}

// of is what stands of a split; nil: nothing is known.
func (o outside) of(name string) *standing {
	if s, ok := o.kernel[name]; ok {
		return &standing{s, reasonAdopted}
	}
	if s, ok := o.saved[name]; ok {
		return &standing{s, reasonSaved}
	}
	return nil
}

// silent says that a split was perhaps there, and nobody knows how.
func (o outside) silent(name string) bool {
	return o.lost && !o.told && o.of(name) == nil
}
