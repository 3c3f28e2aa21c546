package daemon

import (
	"context"
	"errors"
	"slices"

	"github.com/splitd/splitd/shadow/shadower"
	"github.com/splitd/splitd/state"
)

// goneMost is how many bytes of reports of splits that are no more are held, should they
// come back. The disk has more, until they are forgotten by name.
const goneMost = 8 << 20

// keptReport is what was counted of a split that has no play.
type keptReport struct {
	text []byte // nil: the disk alone has it
	gone uint64 // the later the greater; 0: its split is there
}

// loadReports takes up what an earlier run has counted: of the splits of the view, and of
// others as much as is held. What cannot be read begins anew: it keeps nothing from
// starting.
func (d *Daemon) loadReports(ctx context.Context, v *view) {
	type found struct {
		all     []state.KeptReport
		reports map[string]state.Report
		broken  map[string]error
	}
	f, err := ask(ctx, d.scribe, func(store Store) (f found, err error) {
		if f.all, err = store.KeptReports(); err != nil {
			return f, err
		}
		held := heldOf(f.all, v.records.has)
		f.reports, f.broken, err = store.Reports(func(split string) bool { return held[split] })
		return f, err
	})
	if err != nil {
		d.log.Warn("reports of shadows begin anew", "error", err)
		return
	}
	for name, why := range f.broken {
		d.log.Warn("report begins anew: what the store has of it cannot be read", "split", name, "error", why)
	}
	d.shadows.mu.Lock()
	defer d.shadows.mu.Unlock()
	for _, k := range slices.Backward(f.all) { // the oldest first
		switch text := f.reports[k.Split].Text; {
		case f.broken[k.Split] != nil:
		case v.records.has(k.Split):
			d.shadows.kept[k.Split] = keptReport{text: text}
		default:
			d.shadows.shelve(k.Split, text)
		}
	}
}

// heldOf says of which reports the text is held, of all that there are, the newest first:
// of splits that are there, and of others as many as there is room for.
func heldOf(all []state.KeptReport, there func(split string) bool) map[string]bool {
	held, size := map[string]bool{}, 0
	for _, k := range all {
		if there(k.Split) {
			held[k.Split] = true
			continue
		}
		size += k.Bytes
		held[k.Split] = size <= goneMost
	}
	return held
}

// shelve holds the report of a split that is no more, in the place of older ones where
// there is no room; s.mu is held.
func (s *shadows) shelve(name string, text []byte) {
	s.shelved++
	s.kept[name] = keptReport{text: text, gone: s.shelved}
	size := 0
	for _, k := range s.kept {
		if k.gone > 0 {
			size += len(k.text)
		}
	}
	for size > goneMost { // seldom, and of few
		oldest, at := "", s.shelved+1
		for name, k := range s.kept {
			if k.gone > 0 && k.text != nil && k.gone < at {
				oldest, at = name, k.gone
			}
		}
		size -= len(s.kept[oldest].text)
		s.kept[oldest] = keptReport{gone: at}
	}
}

// letGo closes the plays of splits that are no more, whose flows have ended and whose
// reports the disk has as they are. Of these the text is held, should they come back.
func (d *Daemon) letGo() {
	for name, one := range d.shadows.all() {
		switch {
		case one.gone == 0:
			continue
		case one.play == nil:
			d.shadows.letGo(name, one, nil)
			continue
		case one.play.Edition() != one.saved.Load():
			continue
		}
		if n := one.play.Numbers(); n.Away != "" || n.Open > 0 {
			continue
		}
		text, edition, err := one.play.Bytes()
		switch {
		case errors.Is(err, shadower.ErrLate), errors.Is(err, shadower.ErrGone):
			return // the others would wait as long
		case err == nil && edition == one.saved.Load():
			d.shadows.letGo(name, one, text)
		}
	}
}

// letGo lets go of the play of a split that is no more, as it was when its text was read.
func (s *shadows) letGo(name string, was shadowed, text []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	one := s.splits[name]
	if one == nil || one.gone == 0 || one.gone != was.gone {
		return // it has come back since
	}
	delete(s.splits, name)
	s.retire(one.inside)
	if one.play != nil {
		s.shelve(name, text)
		s.retired.Go(one.play.Close)
	}
	s.show()
}
