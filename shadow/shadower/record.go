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

// A part is what a flow is played in: a play, which one of those that follow one
// another, and which of its runs.
type part struct{ line, play, run uint64 }

// opened writes which flow a record is about, and of which part.
func opened(at part, of runner.Flow) ring.Record {
	body := make([]byte, 0, 96)
	for _, n := range [...]uint64{at.line, at.play, at.run} {
		body = binary.NativeEndian.AppendUint64(body, n)
	}
	for _, a := range [...]netip.AddrPort{of.Client, of.Service, of.Primary} {
		at := len(body)
		body, _ = a.AppendBinary(append(body, 0)) // it has no error
		body[at] = byte(len(body) - at - 1)
	}
	return ring.Record{Kind: kindOpened, Body: body}
}

// openedOf reads what opened writes.
func openedOf(r ring.Record) (at part, of runner.Flow, err error) {
	errShort := errors.New("read the opening of a flow: it is cut off")
	rest := r.Body
	for _, n := range [...]*uint64{&at.line, &at.play, &at.run} {
		if len(rest) < 8 {
			return at, of, errShort
		}
		*n, rest = binary.NativeEndian.Uint64(rest), rest[8:]
	}
	for _, a := range [...]*netip.AddrPort{&of.Client, &of.Service, &of.Primary} {
		if len(rest) < 1 || len(rest) < 1+int(rest[0]) {
			return at, of, errShort
		}
		if err := a.UnmarshalBinary(rest[1 : 1+rest[0]]); err != nil {
			return at, of, err
		}
		rest = rest[1+rest[0]:]
	}
	return at, of, nil
}

// party is who said something.
func party(r ring.Record) shadow.Party {
	if r.Of == uint8(shadow.Client) {
		return shadow.Client
	}
	return shadow.Primary
}
