package ring

import (
	"encoding/binary"
	"time"
)

// A Record is what the writer tells. Kind and Of mean what both sides have agreed on.
type Record struct {
	Kind uint8
	Of   uint8
	Slot uint32 // which of several things it is about
	Turn uint32 // which of those that have had the slot
	At   time.Time
	Body []byte
}

const (
	headerSize = 24
	// align keeps headers whole at the end of the records.
	align = 8
	// bodyMost is the longest body.
	bodyMost = 1 << 24
)

// size is what a record takes.
func (r Record) size() uint64 { return (headerSize + uint64(len(r.Body)) + align - 1) &^ (align - 1) }

func (r Record) header() [headerSize]byte {
	var h [headerSize]byte
	binary.NativeEndian.PutUint32(h[0:], uint32(len(r.Body))|uint32(r.Kind)<<24)
	binary.NativeEndian.PutUint32(h[4:], r.Slot)
	binary.NativeEndian.PutUint32(h[8:], r.Turn)
	h[12] = r.Of
	if !r.At.IsZero() {
		binary.NativeEndian.PutUint64(h[16:], uint64(r.At.UnixNano()))
	}
	return h
}

// recordOf is of a header without its body, which has so many bytes.
func recordOf(h [headerSize]byte) (r Record, body uint64) {
	word := binary.NativeEndian.Uint32(h[0:])
	r = Record{Kind: uint8(word >> 24), Of: h[12], Slot: binary.NativeEndian.Uint32(h[4:]), Turn: binary.NativeEndian.Uint32(h[8:])}
	if nanoseconds := binary.NativeEndian.Uint64(h[16:]); nanoseconds != 0 {
		r.At = time.Unix(0, int64(nanoseconds))
	}
	return r, uint64(word & (bodyMost - 1))
}
