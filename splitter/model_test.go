package splitter

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"testing"
)

// The oracle of a relay is trivial: what one end sends is what the other
// reads, then the end that the one chose.

// step is one thing that an end does, decoded from a byte of fuzz input.
type step struct {
	byServer bool
	act      byte
	size     int
}

const (
	// 0 to 3 write.
	actFIN   byte = 4
	actWait  byte = 5 // until the other end has all that was sent
	actDrip  byte = 6 // a few bytes, each by itself
	actReset byte = 7
)

func decode(program []byte) []step {
	sizes := []int{1, 7, 100, 1500, 16 << 10, 65 << 10, 300 << 10, 1 << 20}
	var steps []step
	for _, b := range program[:min(len(program), 40)] {
		steps = append(steps, step{byServer: b&1 != 0, act: b >> 1 & 7, size: sizes[b>>4&7]})
	}
	return steps
}

// end is one end of the flow under test, with its model.
type end struct {
	conn   *net.TCPConn
	sent   []byte
	fin    bool
	read   chan []byte // chunks as they arrive, closed at the end
	got    []byte      // what has been taken from read
	failed error       // why read ended, after it is closed
}

func newEnd(conn *net.TCPConn, seed uint64) *end {
	e := &end{conn: conn, read: make(chan []byte, 1<<16)}
	go e.reader(rand.New(rand.NewPCG(seed, 1)))
	return e
}

// reader reads in chunks of random sizes until the end.
func (e *end) reader(r *rand.Rand) {
	defer close(e.read)
	for {
		buffer := make([]byte, 1+r.IntN(64<<10))
		n, err := e.conn.Read(buffer)
		e.read <- buffer[:n]
		if err != nil {
			e.failed = err
			return
		}
	}
}

// takeUntil collects what has been read until it is n bytes or the end.
func (e *end) takeUntil(n int) {
	for len(e.got) < n {
		chunk, open := <-e.read
		if !open {
			return
		}
		e.got = append(e.got, chunk...)
	}
}

func (e *end) takeAll() {
	for chunk := range e.read {
		e.got = append(e.got, chunk...)
	}
}

// play runs the program on both ends; it returns the end that was reset, if
// any.
func play(t *testing.T, steps []step, client, server *end, seed uint64) (resetter *end) {
	data := randomBytes(seed, 1<<20)
	for _, s := range steps {
		from, to := client, server
		if s.byServer {
			from, to = server, client
		}
		switch s.act {
		case actFIN:
			if !from.fin {
				from.fin = true
				if err := from.conn.CloseWrite(); err != nil {
					t.Fatalf("FIN: %v", err)
				}
			}
		case actWait:
			to.takeUntil(len(from.sent))
		case actReset:
			abortConn(from.conn)
			return from
		case actDrip:
			for i := 0; i < 5 && !from.fin; i++ {
				from.write(t, data[i:i+1])
			}
		default:
			if !from.fin {
				offset := len(from.sent) % (len(data) - s.size + 1)
				from.write(t, data[offset:offset+s.size])
			}
		}
	}
	for _, e := range []*end{client, server} {
		if !e.fin {
			if err := e.conn.CloseWrite(); err != nil {
				t.Fatalf("last FIN: %v", err)
			}
		}
	}
	return nil
}

func (e *end) write(t *testing.T, data []byte) {
	if _, err := e.conn.Write(data); err != nil {
		t.Fatalf("write: %v", err)
	}
	e.sent = append(e.sent, data...)
}

// addPrograms adds programs that a seed makes.
func addPrograms(f *testing.F, seed uint64) {
	r := rand.New(rand.NewPCG(seed, seed))
	for range 150 {
		program := make([]byte, 1+r.IntN(16))
		for i := range program {
			program[i] = byte(r.Uint32())
		}
		f.Add(program)
	}
}

func FuzzRelayedStreamIsTheStreamThatWasSent(f *testing.F) {
	addPrograms(f, 7)
	_, connect := startPairs(f, families()["IPv4"], nil)
	f.Fuzz(func(t *testing.T, program []byte) {
		p := connect(t)
		client, server := newEnd(p.client, 1), newEnd(p.server, 2)
		resetter := play(t, decode(program), client, server, uint64(len(program)))
		client.takeAll()
		server.takeAll()
		for _, d := range []struct {
			name     string
			from, to *end
		}{{"client to server", client, server}, {"server to client", server, client}} {
			switch {
			case resetter == nil && (!bytes.Equal(d.to.got, d.from.sent) || !errors.Is(d.to.failed, io.EOF)):
				t.Errorf("%s: %d bytes and then %v, want the %d that were sent and a FIN", d.name, len(d.to.got), d.to.failed, len(d.from.sent))
			case resetter == d.from && !bytes.HasPrefix(d.from.sent, d.to.got):
				t.Errorf("%s: the %d bytes before the reset are not the first that were sent", d.name, len(d.to.got))
			case resetter == d.from && !d.from.fin && !isReset(d.to.failed):
				t.Errorf("%s: ended with %v, want the reset", d.name, d.to.failed)
			}
		}
	})
}
