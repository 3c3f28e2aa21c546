package terminator

import (
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/splitd/splitd/shadow"
)

// A buffer is of one direction: a record of TLS, and as much again. Who waits has but little:
// most flows are silent most of the time.
type (
	buffer [32 << 10]byte
	little [2 << 10]byte
)

var buffers = sync.Pool{New: func() any { return new(buffer) }}

// both passes on what two voices say until both have ended, or one has failed.
func (f *flow) both(client, primary voice) error {
	up := f.aside(f.primary, func() error { return f.pump(client, primary) })
	down := f.pump(primary, client)
	f.stops(f.client, down)
	return first(<-up, down)
}

// lastWords is how long a side that takes nothing any more is heard.
const lastWords = 10 * time.Second

// stops ends the other direction of one that has failed on the way to a side. Where it is that
// side which takes no more, what it has said before is still to reach the other one: who
// refuses an upload answers and closes (RFC 9112, section 9.6).
func (f *flow) stops(to *side, err error) {
	broken, ok := errors.AsType[*Broken](err)
	switch {
	case err == nil:
	case ok && broken.By == to.who:
		to.last.Store(time.Now().Add(lastWords).UnixNano())
		f.rearm(to)
	default:
		f.abort()
	}
}

// aside runs one direction, towards a side, in a goroutine of its own.
func (f *flow) aside(to *side, run func() error) <-chan error {
	done := make(chan error, 1)
	go func() {
		err := errPanicked
		defer func() {
			if p := recover(); p != nil {
				f.t.counts.panicked.Add(1)
				f.t.log.Error("flow has panicked", "split", f.t.split, "panic", p)
			}
			f.stops(to, err)
			done <- err
		}()
		err = run()
	}()
	return done
}

// first is which of two errors is the cause: who was interrupted is not.
func first(a, b error) error {
	if a == nil || b != nil && errors.Is(a, errGone) {
		return b
	}
	return a
}

// pump passes on one direction.
func (f *flow) pump(from, to voice) error {
	var few little
	var much *buffer // nil: little is coming
	defer func() { much.release() }()
	for {
		into := few[:]
		if much != nil {
			into = much[:]
		}
		n, err := from.Read(into)
		if n > 0 {
			if err := f.pass(from.raw().who, to, into[:n]); err != nil {
				return err
			}
		}
		switch {
		case err != nil:
			return f.ends(from, to, err)
		case n < len(few):
			much.release()
			much = nil
		case much == nil:
			much = buffers.Get().(*buffer)
		}
	}
}

func (b *buffer) release() {
	if b != nil {
		buffers.Put(b)
	}
}

// pass passes on one chunk, and tells of it.
func (f *flow) pass(from shadow.Party, to voice, b []byte) error {
	f.told.began(from, b)
	if _, err := to.Write(b); err != nil {
		f.told.lost(from)
		return f.broken(to.raw(), err)
	}
	f.told.delivered(from)
	return nil
}

// ends passes on that a side has ended, as it has.
func (f *flow) ends(from, to voice, err error) error {
	whole := errors.Is(err, io.EOF)
	cut := errors.Is(err, errTruncated)
	if cut {
		f.cut.Store(true)
	}
	answered := f.cut.Load() && isAlert(err) // OpenSSL answers a FIN alone by an alert
	if !whole && !cut && !answered {
		if _, secured := to.(inside); secured {
			_ = to.end(false) // what is cut off must not look whole
		}
		return f.broken(from.raw(), err)
	}
	if err := to.end(whole); err != nil {
		return f.broken(to.raw(), fmt.Errorf("end the direction: %w", err))
	}
	f.told.fin(from.raw().who)
	if whole {
		from.rest()
		if _, secured := to.(inside); secured && from.raw().ended.Load() {
			_ = to.end(false) // the FIN behind close_notify
		}
	}
	return nil
}

// broken names whose side has failed.
func (f *flow) broken(s *side, err error) error {
	if timedOut(err) {
		return errGone
	}
	return &Broken{By: s.who, Err: err}
}
