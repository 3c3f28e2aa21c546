package shadower

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/splitd/splitd/shadow"
	"github.com/splitd/splitd/shadow/ring"
	"github.com/splitd/splitd/shadow/runner"
)

// inlet is where what one of the relay's threads has written is read.
type inlet struct {
	reader *ring.Reader
	bell   *os.File
	desk   *desk
	taps   map[uint32]*runner.Tap // by slot; of flows that are played
}

// openInlet maps a ring.
func openInlet(memory, bell *os.File, records int, d *desk) (*inlet, error) {
	mapped, err := unix.Mmap(int(memory.Fd()), 0, ring.Size(records, flagsOf), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err = errors.Join(err, memory.Close()); err != nil {
		return nil, fmt.Errorf("map ring: %w", err)
	}
	reader, err := ring.NewReader(mapped, records, flagsOf)
	if err != nil {
		return nil, err
	}
	return &inlet{reader: reader, bell: bell, desk: d, taps: map[uint32]*runner.Tap{}}, nil
}

// How long a reader that finds nothing looks again and again before it sleeps. Whoever
// wakes it is a thread of the relay, which is to have no more to do than to copy.
const (
	lookEvery = time.Millisecond
	looksMost = 20
)

// read reads until ctx ends.
func (in *inlet) read(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { _ = in.bell.Close() })
	defer stop()
	for looks := 0; ctx.Err() == nil; {
		r, ok, err := in.reader.Next()
		switch {
		case err != nil:
			return err
		case ok:
			looks = 0
			err = in.heed(ctx, r)
		case looks < looksMost:
			looks++
			time.Sleep(lookEvery)
		default:
			looks = 0
			err = in.sleep(ctx)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// sleep waits for the bell, unless something has come.
func (in *inlet) sleep(ctx context.Context) error {
	if !in.reader.Doze() {
		return nil
	}
	if _, err := in.bell.Read(make([]byte, 8)); err != nil && ctx.Err() == nil {
		return fmt.Errorf("wait for flows: %w", err)
	}
	return nil
}

// heed takes a record to its flow.
func (in *inlet) heed(ctx context.Context, r ring.Record) error {
	if r.Kind == kindOpened {
		return in.open(ctx, r)
	}
	tap := in.taps[r.Slot]
	if tap == nil {
		return nil // its shadow is over
	}
	switch r.Kind {
	case kindBytes, kindFIN, kindSecured, kindOpaque:
		more, err := take(tap, r)
		if more || err != nil {
			return err
		}
		in.reader.Flag(r.Slot, r.Turn)
	case kindLost:
		tap.Drop()
	case kindEnded:
		end(tap, r)
	case kindGone:
		tap.End(shadow.Reset, r.At)
	}
	delete(in.taps, r.Slot)
	return nil
}

// take takes to a flow what is said in it, and says whether it wants to hear more.
func take(tap *runner.Tap, r ring.Record) (more bool, err error) {
	switch r.Kind {
	case kindSecured:
		h, err := securedOf(r)
		if err != nil {
			return false, err
		}
		return tap.Secure(h, r.At), nil
	case kindOpaque:
		return tap.Opaque(string(r.Body), r.At), nil
	}
	return tap.Take(party(r), r.Body, r.Kind == kindFIN, r.At), nil
}

// open begins the shadow of a flow.
func (in *inlet) open(ctx context.Context, r ring.Record) error {
	at, of, err := openedOf(r)
	if err != nil {
		return err
	}
	delete(in.taps, r.Slot)
	if tap := in.desk.open(ctx, at, of); tap != nil {
		in.taps[r.Slot] = tap
		return nil
	}
	in.reader.Flag(r.Slot, r.Turn)
	return nil
}

func end(tap *runner.Tap, r ring.Record) {
	switch r.Of {
	case endClosed:
		tap.End(shadow.Closed, r.At)
	case endPrimaryReset:
		tap.EndByPrimary(shadow.Reset, r.At)
	default:
		tap.End(shadow.Reset, r.At)
	}
}
