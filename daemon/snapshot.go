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
// appended, if that is all there is.
func (s *saver) save(v *view, at func() time.Time) error {
	if changed, ok := v.since(s.saved); ok {
		inKernel, _ := byMode(changed)
		err := s.file.Append(state.SnapshotChange{SavedAt: at(), Splits: inKernel})
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
	if err == nil {
		s.saved = v
	}
	return err
}
