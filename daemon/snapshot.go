package daemon

import (
	"errors"
	"time"

	"github.com/splitd/splitd/netfilter"
	"github.com/splitd/splitd/state"
	"github.com/splitd/splitd/traffic"
)

// saver writes what is in force beside the store: `splitd restore` puts the
// kernel's part in place at the next boot, and a start without the store begins
// from it, see outside. It is the scribe's alone.
type saver struct {
	file     *state.SnapshotFile
	settings netfilter.Settings
	saved    *view // nil: none that the file has
}

// save brings the file to the view: what differs from the view before is
// appended, if that is all there is and the file has not grown too much, or
// cannot be written whole.
func (s *saver) save(v *view, at func() time.Time) error {
	changed, only := v.since(s.saved)
	var change state.SnapshotChange
	if only {
		inKernel, relayed := byMode(changed)
		change = state.SnapshotChange{SavedAt: at(), Splits: inKernel, Relayed: relayed}
		err := s.file.Append(change)
		if err == nil {
			s.saved = v
		}
		if !errors.Is(err, state.ErrWriteWhole) {
			return err
		}
	}
	s.saved = nil
	inKernel, relayed := byMode(v.splits())
	if relayed == nil {
		relayed = []traffic.Split{} // known to be none
	}
	err := s.file.Replace(state.Snapshot{
		SavedAt: at(), Splits: inKernel, Relayed: relayed, ReturnPaths: v.paths,
		MarkMask: s.settings.MarkMask, RouteTable: s.settings.RouteTable, RulePriority: s.settings.RulePriority,
	})
	if err != nil && only && s.file.Extend(change) == nil {
		err = nil // a full disk has room for a line where it has none for a second file
	}
	if err == nil {
		s.saved = v
	}
	return err
}
