package daemon

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/splitd/splitd/state"
)

// Store is the embedded database as the daemon uses it, on one goroutine.
type Store interface {
	Records() (map[string]state.Record, error)
	Commit(records []state.Record, entries []state.Entry) ([]state.Entry, error)
	CommitRunning(running state.Running, records []state.Record, entries []state.Entry) ([]state.Entry, error)
	History(split string, limit int) ([]state.Entry, error)
	Running() (state.Running, error)
	SaveReports(reports ...state.Report) error
	KeptReports() ([]state.KeptReport, error)
	Reports(wanted func(split string) bool) (reports map[string]state.Report, broken map[string]error, err error)
	DropReport(split string) error
	// Gone is the error when the store's file is not at its path any more; Made
	// says that there was none when it was opened.
	Gone() error
	Made() bool
	Close() error
}

// errDisk is what a caller gets whose patience with the disk has ended; what it
// asked for is still done, in its turn, should the disk answer.
var errDisk = errors.New("the disk does not answer")

// scribe does all that the daemon writes to disk, and reads from the store, on
// one goroutine and in order: whoever must not wait for a disk gives it a job
// and goes on. A store that cannot be opened or written stops nothing but
// raising; every job tries it again.
type scribe struct {
	open func() (Store, error)
	jobs chan job
	stop func()        // ends the goroutine after what it was given; again: nothing
	quit chan struct{} // closed by stop
	over chan struct{} // closed when the goroutine has ended

	store Store // the goroutine's alone; nil while it cannot be opened
	fault atomic.Pointer[fault]
	last  []func() error // what the goroutine closes at its end

	had  bool                  // the store was open before; the goroutine's alone
	lost atomic.Pointer[fault] // why the store does not have what is in force, see reunite
	tell func(lost error)      // of a store that was lost; nil: nobody
}

// fault is why the newest use of the store failed.
type fault struct{ err error }

type job struct {
	do   func() error
	done chan<- outcome // holds one
}

type outcome struct {
	err      error
	panicked any
}

// ticket is for something that was given to the scribe.
type ticket struct {
	scribe *scribe // nil: nothing was given
	done   <-chan outcome
	full   error // why it was not even taken
	store  bool  // it needs the store: waiting in vain for it is the store's fault
}

// newScribe starts the goroutine; close ends it.
func newScribe(open func() (Store, error)) *scribe {
	s := &scribe{open: open, jobs: make(chan job, 256), quit: make(chan struct{}), over: make(chan struct{})}
	s.stop = sync.OnceFunc(func() { close(s.quit) })
	go s.work()
	return s
}

func (s *scribe) work() {
	defer close(s.over)
	for s.step() {
	}
	if s.store != nil {
		s.last = append(s.last, s.store.Close)
	}
	for _, closing := range s.last {
		if err := closing(); err != nil {
			s.fault.Store(&fault{fmt.Errorf("close: %w", err)})
		}
	}
}

// step does one job; false when it was told to stop and none is left.
func (s *scribe) step() bool {
	select {
	case j := <-s.jobs:
		j.done <- carryOut(j.do)
		return true
	case <-s.quit:
	}
	select {
	case j := <-s.jobs:
		j.done <- carryOut(j.do)
		return true
	default:
		return false
	}
}

// carryOut brings a panic to who gave the job: it is that caller's bug.
func carryOut(do func() error) (o outcome) {
	defer func() { o.panicked = recover() }()
	return outcome{err: do()}
}

// submit gives a job and does not wait for it. Jobs are done in the order in
// which they were submitted.
func (s *scribe) submit(do func() error) ticket {
	done := make(chan outcome, 1)
	select {
	case s.jobs <- job{do, done}:
		return ticket{scribe: s, done: done}
	default:
		return ticket{scribe: s, full: fmt.Errorf("%w: %d things wait to be written already", errDisk, len(s.jobs))}
	}
}

// submitStore submits what needs the store.
func (s *scribe) submitStore(fn func(Store) error) ticket {
	t := s.submit(s.withStore(fn))
	t.store = true
	return t
}

// wait returns what became of the job, or errDisk after patience or when ctx
// ends before; the job is done all the same, should the disk answer.
func (t ticket) wait(ctx context.Context, patience time.Duration) error {
	if t.scribe == nil || t.full != nil {
		return t.full
	}
	timeout := time.NewTimer(patience)
	defer timeout.Stop()
	select {
	case o := <-t.done:
		return o.open()
	case <-t.scribe.over:
		select {
		case o := <-t.done: // it was the last
			return o.open()
		default:
			return fmt.Errorf("%w: splitd is stopping", errDisk)
		}
	case <-ctx.Done():
		return fmt.Errorf("%w: %w", errDisk, ctx.Err())
	case <-timeout.C:
		err := fmt.Errorf("%w after %v", errDisk, patience)
		if t.store {
			t.scribe.fault.Store(&fault{err}) // until a later use of the store succeeds
		}
		return err
	}
}

// open is the job's error; its panic goes on in who waited for it.
func (o outcome) open() error {
	if o.panicked != nil {
		panic(o.panicked)
	}
	return o.err
}

// withStore makes a job of what needs the store, opened first if need be, and
// notes whether the store works.
func (s *scribe) withStore(fn func(Store) error) func() error {
	return func() error {
		err := s.tryStore(fn)
		if err != nil && !errors.Is(err, errAbandoned) {
			s.fault.Store(&fault{err})
		} else {
			s.fault.Store(nil)
		}
		return err
	}
}

// errAbandoned is what a job answers that nobody wanted any more.
var errAbandoned = errors.New("given up before it was written")

func (s *scribe) tryStore(fn func(Store) error) (err error) {
	if err := s.look(); err != nil {
		return err
	}
	if s.store == nil {
		if s.store, err = s.open(); err != nil {
			s.store = nil
			return err
		}
		if s.had && s.store.Made() { // a damaged one was moved away
			s.lose(fmt.Errorf("the store was %w: the next raise writes what is in force into the new one", state.ErrGone))
		}
		s.had = true
	}
	if err = fn(s.store); errors.Is(err, state.ErrCorrupt) {
		_ = s.store.Close() // what it says of closing a corrupt file helps nobody
		s.store = nil
	}
	return err
}

// look is the job that finds out whether the open store is where it was. One
// that is not is given up: what is written there is lost.
func (s *scribe) look() error {
	if s.store == nil {
		return nil
	}
	err := s.store.Gone()
	if !errors.Is(err, state.ErrGone) {
		return err
	}
	_ = s.store.Close() // nobody finds it any more
	s.store = nil
	s.fault.Store(&fault{err})
	s.lose(err)
	return err
}

// lose notes that the store does not have what is in force.
func (s *scribe) lose(why error) {
	s.lost.Store(&fault{why})
	if s.tell != nil {
		s.tell(why)
	}
}

// trouble says why the store does not work, or nil. It never waits.
func (s *scribe) trouble() error {
	if f := s.fault.Load(); f != nil {
		return f.err
	}
	return nil
}

// close ends the goroutine after what it was given. A disk that does not answer
// is not waited for.
func (s *scribe) close() error {
	s.stop()
	select {
	case <-s.over:
		return nil
	case <-time.After(stopPatience):
		return fmt.Errorf("close store: %w after %v", errDisk, stopPatience)
	}
}

// How long callers wait for the disk: who raises, until it is sure; who lowers
// has what it wanted already; who reads may try again.
const (
	raisePatience = 10 * time.Second
	lowerPatience = 300 * time.Millisecond
	readPatience  = 10 * time.Second
	stopPatience  = 5 * time.Second
)

// ask does fn with the store and returns what it found. The answer travels by
// a channel because it may come after the caller has gone.
func ask[T any](ctx context.Context, s *scribe, fn func(Store) (T, error)) (answer T, err error) {
	got := make(chan T, 1)
	err = s.submitStore(func(store Store) error {
		answer, err := fn(store)
		got <- answer
		return err
	}).wait(ctx, readPatience)
	if err == nil {
		answer = <-got
	}
	return answer, err
}

func (s *scribe) records(ctx context.Context) (map[string]state.Record, error) {
	return ask(ctx, s, Store.Records)
}

func (s *scribe) running(ctx context.Context) (state.Running, error) {
	return ask(ctx, s, Store.Running)
}

func (s *scribe) history(ctx context.Context, split string, limit int) ([]state.Entry, error) {
	return ask(ctx, s, func(store Store) ([]state.Entry, error) { return store.History(split, limit) })
}

// write records a change and returns its entries with their numbers; a running
// definition that is not nil replaces the one of the last `apply`.
func write(store Store, running *state.Running, records []state.Record, entries []state.Entry) ([]state.Entry, error) {
	if running != nil {
		return store.CommitRunning(*running, records, entries)
	}
	return store.Commit(records, entries)
}
