package state

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"syscall"

	"go.etcd.io/bbolt"
)

// schema is the number of the layout below; a change that an older splitd
// would read wrongly raises it.
//
//	meta     schema -> 1
//	records  name of the split -> sealed Record
//	history  historyKey -> sealed Entry
//	order    sequence -> historyKey
//	running  text -> sealed Running
//	reports  name of the split -> when it was saved, sealed Report; not there before the first
const schema = 1

var (
	bucketMeta    = []byte("meta")
	bucketRecords = []byte("records")
	bucketHistory = []byte("history")
	bucketOrder   = []byte("order")
	bucketRunning = []byte("running")
	bucketReports = []byte("reports")

	keySchema = []byte("schema")
	keyText   = []byte("text")
)

// Store is the record of all splits. Its methods may be called from many
// goroutines; changes serialise. After an error that is ErrCorrupt and came
// from the file's pages, every later call returns the same; Close and Open
// judge the file anew.
type Store struct {
	path string
	file *os.File // the lock lives on it; bbolt uses the same
	db   *bbolt.DB
	made bool

	// mu stands before bbolt's own locks, which a panic may leave locked.
	mu     sync.RWMutex
	broken atomic.Pointer[error]
}

// Open opens the store at path, and makes it, with its directory (mode 0750),
// where there is none. It waits at most 300 ms for another process to let go.
// The errors are ErrLocked, ErrCorrupt, or the file system's own; each says
// what to do.
func Open(path string) (*Store, error) {
	s, err := open(path)
	if err != nil {
		return nil, storeError("open store", path, err)
	}
	return s, nil
}

func open(path string) (*Store, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
		return nil, err
	}
	_, missing := os.Stat(path)
	made := errors.Is(missing, os.ErrNotExist)
	if made {
		if err := create(path); err != nil {
			return nil, err
		}
	}
	file, err := openLocked(path)
	if err != nil {
		return nil, err
	}
	s := &Store{path: path, file: file, made: made}
	if err := s.load(); err != nil {
		s.abandon()
		return nil, err
	}
	return s, nil
}

// load judges the pages first: bbolt trusts them, and recurses or allocates
// without end on some that are damaged.
func (s *Store) load() error {
	if err := checkFile(s.file); err != nil {
		return err
	}
	return recovered(func() error {
		db, err := bbolt.Open(s.path, 0o600, &bbolt.Options{
			FreelistType: bbolt.FreelistMapType,
			NoStatistics: true,
			OpenFile:     func(string, int, os.FileMode) (*os.File, error) { return s.file, nil },
		})
		if _, system := errors.AsType[syscall.Errno](err); system {
			return err
		}
		if err != nil {
			return corrupt("%w", err)
		}
		s.db = db
		return db.View(checkSchema)
	})
}

func checkSchema(tx *bbolt.Tx) error {
	for _, name := range [][]byte{bucketMeta, bucketRecords, bucketHistory, bucketOrder, bucketRunning} {
		if tx.Bucket(name) == nil {
			return corrupt("it is a database, but not one of splitd: it has no bucket %q", name)
		}
	}
	text := tx.Bucket(bucketMeta).Get(keySchema)
	var found int
	if err := json.Unmarshal(text, &found); err != nil || found < 1 {
		return corrupt("its schema number is %q", text)
	}
	if found > schema {
		return corrupt("a newer splitd wrote it, schema %d, and this one knows %d (run the newer one, or do without its record)", found, schema)
	}
	return nil
}

// Made says that Open found none and made this one.
func (s *Store) Made() bool { return s.made }

// Gone returns ErrGone when the path does not lead to this store any more: what
// is recorded here nobody would find.
func (s *Store) Gone() error {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.broken.Load() != nil {
		return nil // the next use says it
	}
	ours, err := s.file.Stat()
	if err != nil {
		return storeError("look for store", s.path, err)
	}
	there, err := os.Stat(s.path)
	if errors.Is(err, os.ErrNotExist) || err == nil && !os.SameFile(ours, there) {
		return storeError("look for store", s.path, ErrGone)
	}
	return nil // what cannot be looked at may be there
}

// GoOn has the sequence of the history go on after a number, unless it is there
// already: a new store's goes on where the one before has ended.
func (s *Store) GoOn(after uint64) error {
	var now uint64
	err := s.view("read history of store", func(tx *bbolt.Tx) error {
		now = tx.Bucket(bucketOrder).Sequence()
		return nil
	})
	if err != nil || now >= after {
		return err
	}
	return s.update("record state in store", func(tx *bbolt.Tx) error { return tx.Bucket(bucketOrder).SetSequence(after) })
}

// Close gives the store up. It never waits on a store that is broken.
func (s *Store) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.broken.Load() != nil {
		s.abandon()
		return nil
	}
	if err := recovered(s.db.Close); err != nil {
		s.abandon()
		return storeError("close store", s.path, err)
	}
	return nil
}

// abandon lets the lock go without bbolt, whose own locks may be held for
// ever after a panic. Its mapping stays until the process ends, and with it
// the open file: closing alone would not unlock.
func (s *Store) abandon() {
	_ = syscall.Flock(int(s.file.Fd()), syscall.LOCK_UN)
	_ = s.file.Close()
}

// view runs fn in a read transaction. What fn gets is gone when it returns.
func (s *Store) view(verb string, fn func(*bbolt.Tx) error) error {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.run(verb, func() error { return s.db.View(fn) })
}

// update runs fn in a write transaction and returns when the disk has it.
func (s *Store) update(verb string, fn func(*bbolt.Tx) error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var attempt int
	return s.run(verb, func() error {
		err := s.db.Update(func(tx *bbolt.Tx) error {
			attempt = tx.ID()
			return fn(tx)
		})
		if err == nil {
			return nil
		}
		return s.settle(attempt, err)
	})
}

// settle finds out what a failed commit left. When bbolt's last sync fails,
// its meta page is written all the same, and nobody knows what the disk has.
func (s *Store) settle(attempt int, cause error) error {
	return s.db.View(func(tx *bbolt.Tx) error {
		if attempt != 0 && tx.ID() >= attempt {
			return corruptPages("the disk did not confirm the last change, which may or may not be there: %w", cause)
		}
		return cause
	})
}

// run keeps bbolt's panics and memory faults from the process, and everybody
// from bbolt after one of them.
func (s *Store) run(verb string, fn func() error) error {
	if broken := s.broken.Load(); broken != nil {
		return storeError(verb, s.path, *broken)
	}
	err := recovered(fn)
	if err == nil {
		return nil
	}
	if _, ok := errors.AsType[pagesError](err); ok {
		s.broken.Store(&err)
	}
	return storeError(verb, s.path, err)
}

// pagesError marks the errors after which bbolt must not be called again.
type pagesError struct{ error }

func (e pagesError) Unwrap() error { return e.error }

func corruptPages(format string, args ...any) error {
	return pagesError{corrupt(format, args...)}
}

// recovered turns panics of fn into ErrCorrupt. A fault in the mapped file
// (SIGBUS behind the end of one that was truncated under us) ends a Go process
// unless the goroutine asks for a panic instead.
func recovered(fn func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if cause := recover(); cause != nil {
			err = corruptPages("%s", fmt.Sprint(cause))
		}
	}()
	return fn()
}
