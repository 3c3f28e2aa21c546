package daemon

import (
	"errors"
	"time"

	"github.com/splitd/splitd/netfilter"
	"github.com/splitd/splitd/state"
)

// saver writes what `splitd restore` puts in place at the next boot. It is the
// scribe's alone.
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
		inKernel, _ := byMode(changed)
		change = state.SnapshotChange{SavedAt: at(), Splits: inKernel}
		err := s.file.Append(change)
		if err == nil {
			s.saved = v
		}
		if !errors.Is(err, state.ErrWriteWhole) {
			return err
		}
	}
	s.saved = nil
	inKernel, _ := byMode(v.splits())
	err := s.file.Replace(state.Snapshot{
		SavedAt: at(), Splits: inKernel, ReturnPaths: v.paths,
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
