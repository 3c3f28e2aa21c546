package daemon

import (
	"errors"
	"fmt"
	"sync"

	"github.com/splitd/splitd/state"
)

// Store is the embedded database as the daemon uses it.
type Store interface {
	Records() (map[string]state.Record, error)
	Commit(records []state.Record, entries []state.Entry) ([]state.Entry, error)
	History(split string, limit int) ([]state.Entry, error)
	Running() (state.Running, error)
	CommitRunning(running state.Running, records []state.Record, entries []state.Entry) ([]state.Entry, error)
	Close() error
}

// vault is the store and whether it works. A store that cannot be opened or
// written stops nothing but raising; every use tries it again.
type vault struct {
	open func() (Store, error)

	mu    sync.Mutex
	store Store // nil while it cannot be opened
	err   error // why the newest use failed
}

// use runs fn on the store, opening it first if need be.
func (v *vault) use(fn func(Store) error) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.store == nil {
		if v.store, v.err = v.open(); v.err != nil {
			v.store = nil
			return v.err
		}
	}
	v.err = fn(v.store)
	if errors.Is(v.err, state.ErrCorrupt) {
		_ = v.store.Close() // what it says of closing a corrupt file helps nobody
		v.store = nil
	}
	return v.err
}

func (v *vault) records() (records map[string]state.Record, err error) {
	err = v.use(func(s Store) (err error) { records, err = s.Records(); return err })
	return records, err
}

func (v *vault) running() (running state.Running, err error) {
	err = v.use(func(s Store) (err error) { running, err = s.Running(); return err })
	return running, err
}

// commit records a change; a running definition that is not nil replaces the
// one of the last `apply`.
func (v *vault) commit(running *state.Running, records []state.Record, entries []state.Entry) (numbered []state.Entry, err error) {
	err = v.use(func(s Store) (err error) {
		if running != nil {
			numbered, err = s.CommitRunning(*running, records, entries)
		} else {
			numbered, err = s.Commit(records, entries)
		}
		return err
	})
	return numbered, err
}

func (v *vault) history(split string, limit int) (entries []state.Entry, err error) {
	err = v.use(func(s Store) (err error) { entries, err = s.History(split, limit); return err })
	return entries, err
}

// trouble says why the store does not work, or nil.
func (v *vault) trouble() error {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.err
}

func (v *vault) close() error {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.store == nil {
		return nil
	}
	err := v.store.Close()
	v.store = nil
	if err != nil {
		return fmt.Errorf("close store: %w", err)
	}
	return nil
}
