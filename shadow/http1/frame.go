package http1

import (
	"strings"

	"github.com/splitd/splitd/shadow"
)

// A kind is what a framer has found.
type kind uint8

const (
	partial kind = iota // nothing yet: all bytes are taken, more are wanted
	headed              // a head: [framer.body] is to be called
	payload             // a piece of a body
	framing             // what stands around chunks
	whole               // the end of a message
)

// A part is a piece of a message: raw as it is on the wire, in the framer's or the
// caller's memory until the next call.
type part struct {
	kind kind
	raw  []byte
}

// stage is what a framer reads.
type stage uint8

const (
	atStart stage = iota // before the first byte of a message
	inHead
	inFixed
	inClose
	inSize // a line with a chunk's size
	inChunk
	behindChunk
	inTrailer
	atEnd
)

// Bounds beside that of a head's bytes.
const (
	mostHeaders = 256 // of a message: each costs more memory than its bytes
	mostSize    = 256 // bytes of a line with a chunk's size and extensions
)

// A framer cuts one direction of a flow into messages, fed by pieces. Where the
// pieces are cut changes neither what it finds nor where it finds fault.
type framer struct {
	replies bool
	most    int   // bytes of a head, of a trailer
	at      int64 // of the next byte
	stage   stage
	buf     []byte // of the head or line that is being read
	line    int    // where in buf its last line begins
	left    int64  // of a body or chunk
	head    head
	trailer []header
}

// held is how many bytes of memory it takes.
func (f *framer) held() int { return cap(f.buf) + 32*(cap(f.head.headers)+cap(f.trailer)) }

// idle says that no message has begun.
func (f *framer) idle() bool { return f.stage == atStart && len(f.buf) == 0 }

// next takes what comes first in b, and all of it when it finds nothing.
func (f *framer) next(b []byte) (n int, p part, err *fault) {
	for {
		took, p, err := f.step(b[n:])
		n += took
		f.at += int64(took)
		if err != nil || p.kind != partial || n == len(b) {
			return n, p, err
		}
	}
}

func (f *framer) step(b []byte) (n int, p part, err *fault) {
	switch {
	case f.stage == atEnd:
		f.restart()
		return 0, part{kind: whole}, nil
	case len(b) == 0:
		return 0, part{}, nil
	case f.stage == atStart, f.stage == inHead:
		return f.nextHead(b)
	case f.stage == inSize, f.stage == behindChunk:
		return f.nextFraming(b)
	case f.stage == inTrailer:
		return f.nextTrailer(b)
	case f.stage == inClose:
		return len(b), part{payload, b}, nil
	default:
		return f.nextFixed(b)
	}
}

func (f *framer) restart() {
	f.stage, f.line = atStart, 0
	f.buf = f.buf[:0]
	if cap(f.buf) > 4096 {
		f.buf = nil
	}
}

// body says how long the body is of the message whose head was found.
func (f *framer) body(l length) {
	f.buf, f.line = f.buf[:0], 0
	switch {
	case l.chunked:
		f.stage = inSize
	case l.close:
		f.stage = inClose
	case l.fixed > 0:
		f.stage, f.left = inFixed, l.fixed
	default:
		f.stage = atEnd
	}
}

// over says whether the message ends well with the end of its direction.
func (f *framer) over(end shadow.End) bool {
	return f.stage == inClose && end == shadow.Closed
}

// take appends to buf until the end of a line. It finds fault with what no line may
// have, at its byte: lone CR and LF, which some take for an end of a line (RFC 9112,
// 2.2), and other controls.
func (f *framer) take(b []byte, most int) (n int, done bool, err *fault) {
	for n < len(b) {
		c := b[n]
		last := byte(0)
		if len(f.buf) > f.line {
			last = f.buf[len(f.buf)-1]
		}
		at := f.at + int64(n)
		switch {
		case last == '\r' && c != '\n':
			return n, false, broken(at, "lone CR")
		case c == '\n' && last != '\r':
			return n, false, broken(at, "lone LF")
		case c < ' ' && c != '\t' && c != '\r' && c != '\n' || c == 0x7f:
			return n, false, broken(at, "control character")
		case len(f.buf) == most:
			return n, false, &fault{shadow.Truncated, "header lines are longer than what is kept", at}
		}
		f.buf = append(f.buf, c)
		n++
		if c == '\n' {
			return n, true, nil
		}
	}
	return n, false, nil
}

// cutLine is the line that was taken last, without its end.
func (f *framer) cutLine() string { return string(f.buf[f.line : len(f.buf)-2]) }

// tlsHandshake is the type of a record that a ClientHello comes in (RFC 8446, 5.1).
const tlsHandshake = 0x16

func (f *framer) nextHead(b []byte) (n int, p part, err *fault) {
	if f.stage == atStart && len(f.buf) == 0 {
		if f.at == 0 && b[0] == tlsHandshake {
			return 0, part{}, broken(0, "TLS")
		}
		f.head, f.trailer = head{}, nil
	}
	n, done, err := f.take(b, f.most)
	if err != nil || !done {
		return n, part{}, err
	}
	last, err := f.headLine(f.cutLine(), f.lineAt(n))
	if err != nil || !last {
		return n, part{}, err
	}
	f.stage = inFixed // until body says better
	return n, part{headed, f.buf}, nil
}

// lineAt is where the line begins whose last n bytes are now taken.
func (f *framer) lineAt(n int) int64 { return f.at + int64(n) - int64(len(f.buf)-f.line) }

// headLine takes a line of a head and says whether it is the last.
func (f *framer) headLine(line string, at int64) (last bool, err *fault) {
	switch {
	case f.stage == atStart && line == "" && !f.replies:
		f.buf = f.buf[:0] // one before a request is to be ignored (RFC 9112, 2.2)
		return false, nil
	case f.stage == atStart && f.replies:
		err = f.head.statusLine(line, at)
	case f.stage == atStart:
		err = f.head.requestLine(line, at)
	case line == "":
		return true, nil
	default:
		f.head.headers, err = appendLine(f.head.headers, line, at)
	}
	f.stage, f.line = inHead, len(f.buf)
	return false, err
}

func appendLine(headers []header, line string, at int64) ([]header, *fault) {
	if len(headers) == mostHeaders {
		return headers, &fault{shadow.Truncated, "more header lines than are kept", at}
	}
	h, err := fieldLine(line, at)
	return append(headers, h), err
}

func (f *framer) nextFixed(b []byte) (n int, p part, err *fault) {
	n = int(min(f.left, int64(len(b))))
	f.left -= int64(n)
	if f.left == 0 && f.stage == inFixed {
		f.stage = atEnd
	} else if f.left == 0 {
		f.stage = behindChunk
	}
	return n, part{payload, b[:n]}, nil
}

// nextFraming takes the line with a chunk's size, or the end of the line behind
// its bytes (RFC 9112, 7.1).
func (f *framer) nextFraming(b []byte) (n int, p part, err *fault) {
	if f.stage == behindChunk && len(f.buf) == 0 && b[0] != '\r' {
		return 0, part{}, broken(f.at, "chunk that is longer than its size")
	}
	n, done, err := f.take(b, mostSize)
	if err != nil || !done {
		return n, part{}, err
	}
	line, at, raw := f.cutLine(), f.lineAt(n), f.buf
	f.buf = f.buf[:0]
	if f.stage == behindChunk {
		f.stage = inSize
		return n, part{framing, raw}, nil
	}
	size, _, extended := strings.Cut(line, ";")
	if extended {
		size = strings.TrimRight(size, " \t") // RFC 9112, 7.1.1: a sender must not, a recipient may take it
	}
	chunk, ok := digits(size, 16)
	if !ok {
		return n, part{}, broken(at, "chunk's size that is no number")
	}
	f.left, f.stage = chunk, inChunk
	if chunk == 0 {
		f.stage = inTrailer
	}
	return n, part{framing, raw}, nil
}

func (f *framer) nextTrailer(b []byte) (n int, p part, err *fault) {
	n, done, err := f.take(b, f.most)
	if err != nil || !done {
		return n, part{}, err
	}
	line, at := f.cutLine(), f.lineAt(n)
	if line == "" {
		f.stage = atEnd
		return n, part{framing, f.buf}, nil
	}
	f.line = len(f.buf)
	f.trailer, err = appendLine(f.trailer, line, at)
	return n, part{}, err
}
