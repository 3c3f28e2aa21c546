package splitter

import (
	"errors"
	"io"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/splitd/splitd/internal/nettest"
	"github.com/splitd/splitd/traffic"
)

// brokenLog panics as long as it is armed, where it is to.
type brokenLog struct {
	armed        atomic.Bool
	wants, tells bool
}

func (b *brokenLog) Wants(netip.AddrPort) bool {
	if b.wants && b.armed.Load() {
		panic("the wish broke")
	}
	return true
}

func (b *brokenLog) Tell(FlowNews) {
	if b.tells && b.armed.Load() {
		panic("the log broke")
	}
}

func TestAFlowLogThatPanicsCostsNoFlow(t *testing.T) {
	for name, broken := range map[string]*brokenLog{
		"when it is asked": {wants: true}, "when it is told": {tells: true},
	} {
		t.Run(name, func(t *testing.T) {
			r, connect := startPairsOf(t, families()["IPv4"], Options{Workers: 1, FlowLog: broken}, func(*traffic.Split) {})
			bystander, ends := connect(t), connect(t)
			broken.armed.Store(true)
			begins := connect(t)
			for _, p := range []pair{begins, ends, bystander} {
				if err := talk(p.client, p.server); err != nil {
					t.Errorf("a flow beside one of which the log panicked: %v", err)
				}
			}
			for _, p := range []pair{begins, ends} {
				_ = p.client.Close()
				if _, err := p.server.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
					t.Errorf("the server read %v, want the end", err)
				}
				_ = p.server.Close()
			}
			nettest.Eventually(t, "the bystander alone is active", func() bool { return r.numbers("old").Active == 1 && r.openFlows() == 1 })
			if err := talk(bystander.client, bystander.server); err != nil {
				t.Errorf("the bystander: %v", err)
			}
			if n := r.Faults().Panics; n == 0 {
				t.Error("no panic was counted")
			}
			nettest.Eventually(t, "it is logged, not for each", func() bool { return strings.Count(r.logs.String(), `who="the flow log"`) == 1 })
		})
	}
}

// closingEdge panics after the first close of a connection that it is armed for.
type closingEdge struct {
	system
	armed atomic.Bool
	twice atomic.Int64
	gone  map[int]bool
}

func (c *closingEdge) close(descriptor int) {
	if c.gone[descriptor] {
		c.twice.Add(1)
	}
	c.system.close(descriptor)
	if c.armed.CompareAndSwap(true, false) {
		c.gone = map[int]bool{descriptor: true}
		panic("the close broke")
	}
}

func (c *closingEdge) reset(socket int) {
	if c.gone[socket] {
		c.twice.Add(1)
	}
	c.system.reset(socket)
}

// The number of the first socket may be another flow's already.
func TestAPanicWhileAFlowEndsClosesNoSocketTwice(t *testing.T) {
	closing := &closingEdge{}
	r, connect := startPairsOf(t, families()["IPv4"], Options{Workers: 1, edge: func() edge { return closing }}, func(*traffic.Split) {})
	bystander, p := connect(t), connect(t)
	_ = p.client.Close()
	if _, err := p.server.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Fatalf("the server read %v, want the end", err)
	}
	closing.armed.Store(true)
	_ = p.server.Close()
	nettest.Eventually(t, "it has ended", func() bool { return r.openFlows() == 1 && r.numbers("old").Active == 1 })
	if n := closing.twice.Load(); n != 0 {
		t.Errorf("%d sockets were closed twice", n)
	}
	if err := talk(bystander.client, bystander.server); err != nil {
		t.Errorf("another flow: %v", err)
	}
}

// News of a flow that has ended may be told after another one has taken its place.
func TestNewsOfAFlowThatHasEndedAreNotTakenForThoseOfTheNextInItsPlace(t *testing.T) {
	r, connect := startPairsOf(t, families()["IPv4"], Options{Workers: 1}, func(*traffic.Split) {})
	p := connect(t)
	var old ticket
	r.inspect(func(w *worker) { w.flows.each(func(f *flow) { old = f.ticket(ofClient) }) })
	abortConn(p.client)
	nettest.Eventually(t, "it has ended", func() bool { return r.openFlows() == 0 })
	next := connect(t)
	var place int32
	r.inspect(func(w *worker) {
		w.flows.each(func(f *flow) { place = f.place })
		w.round([]unix.EpollEvent{
			old.event(unix.EPOLLIN | unix.EPOLLOUT | unix.EPOLLRDHUP | unix.EPOLLHUP | unix.EPOLLERR),
			ticket{kind: ofBackend, place: old.place, turn: old.turn}.event(unix.EPOLLERR | unix.EPOLLHUP),
		})
	})
	if place != old.place {
		t.Fatalf("the next flow has place %d, the one before had %d", place, old.place)
	}
	if err := talk(next.client, next.server); err != nil {
		t.Errorf("the next flow: %v", err)
	}
}
