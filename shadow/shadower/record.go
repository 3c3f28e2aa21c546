package shadower

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/splitd/splitd/shadow"
	"github.com/splitd/splitd/shadow/ring"
	"github.com/splitd/splitd/shadow/runner"
)

// The kinds of records.
const (
	kindOpened  uint8 = 1 + iota
	kindBytes         // Of is the party
	kindFIN           // Of is the party
	kindEnded         // of the flow itself; Of says how
	kindGone          // nothing more will be told of a flow whose shadow is over
	kindLost          // not all of it could be told
	kindSecured       // what follows is said inside TLS; the body is the handshake with the primary
	kindOpaque        // what follows cannot be seen; the body says why
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
	if of.TLS != nil || of.Opaque != "" {
		body = append(body, written(sight{of.TLS, of.Opaque})...)
	}
	return ring.Record{Kind: kindOpened, Body: body}
}

// sight is how much of a flow is seen that does not begin in clear. It is behind all else
// that is written of a flow.
type sight struct {
	TLS    *shadow.Handshake `json:"tls,omitempty"`
	Opaque string            `json:"opaque,omitempty"`
}

// secured writes that what follows in a flow is said inside TLS.
func secured(h shadow.Handshake) ring.Record {
	return ring.Record{Kind: kindSecured, At: h.Ended, Body: written(h)}
}

// securedOf reads what secured writes.
func securedOf(r ring.Record) (h shadow.Handshake, err error) {
	if err = json.Unmarshal(r.Body, &h); err != nil {
		err = fmt.Errorf("read a handshake: %w", err)
	}
	return h, err
}

// opaque writes why what follows in a flow cannot be seen.
func opaque(reason string, at time.Time) ring.Record {
	return ring.Record{Kind: kindOpaque, At: at, Body: []byte(reason)}
}

// written is a value as JSON. None here has what JSON cannot hold: package secure tells of
// times in UTC and years of four digits.
func written(v any) []byte {
	text, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return text
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
	if len(rest) > 0 {
		var seen sight
		if err := json.Unmarshal(rest, &seen); err != nil {
			return at, of, fmt.Errorf("read the opening of a flow: %w", err)
		}
		of.TLS, of.Opaque = seen.TLS, seen.Opaque
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
