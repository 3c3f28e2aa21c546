package splitter

import (
	"fmt"
	"io"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/splitd/splitd/internal/nettest"
	"github.com/splitd/splitd/traffic"
)

// recorder is a Tee that records every flow on a tape.
type recorder struct {
	// refuseAt is the chunk of a flow, counted from 1, that its tape refuses; 0
	// is none. panicAt likewise; -1 panics in Open, -2 in End.
	refuseAt, panicAt int
	declines          bool
	// onChunk, where it is set, is called with every chunk before it is recorded.
	onChunk func(Chunk)

	mu    sync.Mutex
	tapes []*tape
}

func (r *recorder) Open(flow Opened) Tap {
	if r.panicAt == -1 {
		panic("a fault of Open")
	}
	if r.declines {
		return nil
	}
	t := &tape{recorder: r, flow: flow}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.tapes = append(r.tapes, t)
	return t
}

// only waits for a flow and returns its tape, which is the recorder's no more.
func (r *recorder) only(t testing.TB) *tape {
	t.Helper()
	nettest.Eventually(t, "the tee is told of a flow", func() bool { return r.told() > 0 })
	r.mu.Lock()
	defer r.mu.Unlock()
	only := r.tapes[0]
	r.tapes = r.tapes[1:]
	return only
}

func (r *recorder) told() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.tapes)
}

// tape is what a Tap was given.
type tape struct {
	recorder *recorder
	flow     Opened

	mu     sync.Mutex
	bytes  [2][]byte
	fins   [2]int
	chunks int
	story  []string // of the chunks, in short
	ended  *Ended
	after  int // calls after the last one
	last   time.Time
	wrong  error
}

func (t *tape) Take(c Chunk) bool {
	if f := t.recorder.onChunk; f != nil {
		f(c)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.over() {
		t.after++
	}
	from := backend
	if c.FromClient {
		from = client
	}
	switch {
	case t.fins[from] > 0:
		t.wrong = fmt.Errorf("a chunk of side %d after its FIN", from)
	case c.FIN == (len(c.Bytes) > 0), len(c.Bytes) > bufferSize:
		t.wrong = fmt.Errorf("a chunk of %d bytes with FIN: %v", len(c.Bytes), c.FIN)
	case c.At.Before(t.last), c.At.Before(t.flow.At):
		t.wrong = fmt.Errorf("a chunk of %v after one of %v", c.At, t.last)
	}
	t.last = c.At
	t.chunks++
	t.bytes[from] = append(t.bytes[from], c.Bytes...)
	text := fmt.Sprintf("%d:%d", from, len(c.Bytes))
	if c.FIN {
		t.fins[from]++
		text = fmt.Sprintf("%d:FIN", from)
	}
	t.story = append(t.story, text)
	if t.chunks == t.recorder.panicAt {
		panic("a fault of Take")
	}
	return t.chunks != t.recorder.refuseAt
}

func (t *tape) End(e Ended) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.over() {
		t.after++
	}
	t.ended = &e
	if t.recorder.panicAt == -2 {
		panic("a fault of End")
	}
}

// over says that nothing may be called any more; t.mu is held.
func (t *tape) over() bool {
	r := t.recorder
	return t.ended != nil || r.refuseAt > 0 && t.chunks >= r.refuseAt || r.panicAt > 0 && t.chunks >= r.panicAt
}

// read calls look while nothing is recorded.
func (t *tape) read(look func()) {
	t.mu.Lock()
	defer t.mu.Unlock()
	look()
}

// end waits for the end of the flow.
func (t *tape) end(tb testing.TB) Ended {
	tb.Helper()
	var end Ended
	nettest.Eventually(tb, "the tap is told of the end", func() bool {
		t.mu.Lock()
		defer t.mu.Unlock()
		if t.ended != nil {
			end = *t.ended
		}
		return t.ended != nil
	})
	return end
}

// length waits until a side's bytes are that many.
func (t *tape) length(tb testing.TB, from side, n int) {
	tb.Helper()
	nettest.Eventually(tb, fmt.Sprintf("the tap has %d bytes of side %d", n, from), func() bool {
		t.mu.Lock()
		defer t.mu.Unlock()
		return len(t.bytes[from]) == n
	})
}

// startTeed relays pairs whose flows are sampled like that.
func startTeed(t testing.TB, tee Tee, sample traffic.Weight, e edge) (*testRelay, func(testing.TB) pair) {
	t.Helper()
	o := Options{Tee: tee, Workers: 1, Draw: seededDraw(1)}
	if e != nil {
		o.edge = func() edge { return e }
	}
	return startPairsOf(t, families()["IPv4"], o, func(s *traffic.Split) { s.Sample = sample })
}

// callEdge counts the calls of this kernel by their names.
type callEdge struct {
	edge
	mu    sync.Mutex
	calls map[string]int
}

func newCallEdge() *callEdge { return &callEdge{edge: system{}, calls: map[string]int{}} }

func (c *callEdge) note(call string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.calls[call]++
}

func (c *callEdge) all() map[string]int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return maps.Clone(c.calls)
}

func (c *callEdge) count(call string) int { return c.all()[call] }

func (c *callEdge) accept(listener int) (int, netip.AddrPort, syscall.Errno) {
	c.note("accept")
	return c.edge.accept(listener)
}

func (c *callEdge) connect(to *endpoint) (int, syscall.Errno) {
	c.note("connect")
	return c.edge.connect(to)
}

func (c *callEdge) fault(socket int) syscall.Errno {
	c.note("fault")
	return c.edge.fault(socket)
}

func (c *callEdge) recv(socket int, into []byte) outcome {
	c.note("recv")
	return c.edge.recv(socket, into)
}

func (c *callEdge) send(socket int, bytes []byte) outcome {
	c.note("send")
	return c.edge.send(socket, bytes)
}

func (c *callEdge) draw(socket, pipe, most int) outcome {
	c.note("draw")
	return c.edge.draw(socket, pipe, most)
}

func (c *callEdge) pour(pipe, socket, most int) outcome {
	c.note("pour")
	return c.edge.pour(pipe, socket, most)
}

func (c *callEdge) scoop(pipe int, into []byte) outcome {
	c.note("scoop")
	return c.edge.scoop(pipe, into)
}

func (c *callEdge) shut(socket int) outcome {
	c.note("shut")
	return c.edge.shut(socket)
}

func (c *callEdge) close(descriptor int) {
	c.note("close")
	c.edge.close(descriptor)
}

func (c *callEdge) reset(socket int) {
	c.note("reset")
	c.edge.reset(socket)
}

func (c *callEdge) prompt(socket int) {
	c.note("prompt")
	c.edge.prompt(socket)
}

func (c *callEdge) lasting(socket int, patience time.Duration) {
	c.note("lasting")
	c.edge.lasting(socket, patience)
}

func (c *callEdge) quiet(socket int) (time.Duration, bool) {
	c.note("quiet")
	return c.edge.quiet(socket)
}

func (c *callEdge) unsent(socket int) int {
	c.note("unsent")
	return c.edge.unsent(socket)
}

func (c *callEdge) heard(socket int) (time.Duration, bool) {
	c.note("heard")
	return c.edge.heard(socket)
}

func (c *callEdge) pipe(room int) (*pipe, bool) {
	c.note("pipe")
	return c.edge.pipe(room)
}

// readAll reads what a peer sends to its FIN.
func readAll(t testing.TB, from io.Reader) []byte {
	t.Helper()
	got, err := io.ReadAll(from)
	if err != nil {
		t.Fatalf("read to the FIN: %v", err)
	}
	return got
}

// clients are those whose flows the tapes are of.
func (r *recorder) clients() []netip.AddrPort {
	r.mu.Lock()
	defer r.mu.Unlock()
	var all []netip.AddrPort
	for _, t := range r.tapes {
		all = append(all, t.flow.Client)
	}
	slices.SortFunc(all, netip.AddrPort.Compare)
	return all
}
