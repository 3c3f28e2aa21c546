package shadower

import (
	"encoding/binary"
	"errors"
	"net/netip"

	"github.com/splitd/splitd/shadow"
	"github.com/splitd/splitd/shadow/ring"
	"github.com/splitd/splitd/shadow/runner"
)

// The kinds of records.
const (
	kindOpened uint8 = 1 + iota
	kindBytes        // Of is the party
	kindFIN          // Of is the party
	kindEnded        // of the flow itself; Of says how
	kindGone         // nothing more will be told of a flow whose shadow is over
	kindLost         // not all of it could be told
)

// How a flow ends.
const (
	endClosed uint8 = iota
	endReset
	endPrimaryReset
)

// opened writes which flow a record is about, of which play and of which run of that.
func opened(play, run uint64, of runner.Flow) ring.Record {
	body := binary.NativeEndian.AppendUint64(make([]byte, 0, 96), play)
	body = binary.NativeEndian.AppendUint64(body, run)
	for _, a := range [...]netip.AddrPort{of.Client, of.Service, of.Primary} {
		at := len(body)
		body, _ = a.AppendBinary(append(body, 0)) // it has no error
		body[at] = byte(len(body) - at - 1)
	}
	return ring.Record{Kind: kindOpened, Body: body}
}

// openedOf reads what opened writes.
func openedOf(r ring.Record) (play, run uint64, of runner.Flow, err error) {
	errShort := errors.New("read the opening of a flow: it is cut off")
	if len(r.Body) < 16 {
		return 0, 0, of, errShort
	}
	play, run = binary.NativeEndian.Uint64(r.Body), binary.NativeEndian.Uint64(r.Body[8:])
	rest := r.Body[16:]
	for _, a := range [...]*netip.AddrPort{&of.Client, &of.Service, &of.Primary} {
		if len(rest) < 1 || len(rest) < 1+int(rest[0]) {
			return 0, 0, of, errShort
		}
		if err := a.UnmarshalBinary(rest[1 : 1+rest[0]]); err != nil {
			return 0, 0, of, err
		}
		rest = rest[1+rest[0]:]
	}
	return play, run, of, nil
}

// party is who said something.
func party(r ring.Record) shadow.Party {
	if r.Of == uint8(shadow.Client) {
		return shadow.Client
	}
	return shadow.Primary
}
