package splitter

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"sync"
	"testing"

	"github.com/splitd/splitd/internal/nettest"
	"github.com/splitd/splitd/traffic"
)

// carriers is a Tee whose taps carry their flows: as carry does, which is copyBoth where it is
// nil.
type carriers struct {
	carry func(ctx context.Context, client, primary net.Conn) error

	mu     sync.Mutex
	opened []Opened
	taken  int
	ends   []Ended
	open   int // calls of Carry that have not returned
}

func (c *carriers) Open(flow Opened) Tap {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.opened = append(c.opened, flow)
	return &porter{c}
}

// look calls see with all that is known.
func (c *carriers) look(see func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	see()
}

func (c *carriers) carrying() (n int) {
	c.look(func() { n = c.open })
	return n
}

// porter is such a tap.
type porter struct{ carriers *carriers }

func (p *porter) Take(Chunk) bool {
	p.carriers.look(func() { p.carriers.taken++ })
	return true
}

func (p *porter) End(end Ended) {
	p.carriers.look(func() { p.carriers.ends = append(p.carriers.ends, end) })
}

func (p *porter) Carry(ctx context.Context, client, primary net.Conn) error {
	p.carriers.look(func() { p.carriers.open++ })
	defer p.carriers.look(func() { p.carriers.open-- })
	if p.carriers.carry == nil {
		return copyBoth(ctx, client, primary)
	}
	return p.carriers.carry(ctx, client, primary)
}

// copyBoth passes on what both say, and their FINs, until both have ended or one is reset.
func copyBoth(_ context.Context, client, primary net.Conn) error {
	ended := make(chan error, 2)
	for _, way := range [][2]net.Conn{{client, primary}, {primary, client}} {
		go func() { ended <- copyOne(way[0], way[1]) }()
	}
	err := <-ended
	if err != nil {
		_ = client.Close()
		_ = primary.Close()
	}
	return errors.Join(err, <-ended)
}

func copyOne(from, to net.Conn) error {
	if _, err := io.Copy(to, from); err != nil {
		return err
	}
	return to.(interface{ CloseWrite() error }).CloseWrite()
}

// startCarried starts a relay all of whose flows are sampled, and carried.
func startCarried(t testing.TB, ip netip.Addr, c *carriers, o Options, change func(*traffic.Split)) (*testRelay, func(testing.TB) pair) {
	t.Helper()
	o.Tee = c
	r, connect := startPairsOf(t, ip, o, func(s *traffic.Split) {
		s.Sample = traffic.Whole
		if change != nil {
			change(s)
		}
	})
	return r, connect
}

// wantNothingLeft waits until no flow is left, nor anything of one.
func (r *testRelay) wantNothingLeft(t testing.TB, c *carriers) {
	t.Helper()
	nettest.Eventually(t, "no flow is left, no descriptor of one, and nobody who carries it", func() bool {
		return r.openFlows() == 0 && r.files.used.Load() == 0 && c.carrying() == 0 && r.numbers("old").Active == 0
	})
	c.look(func() {
		if c.taken != 0 || len(c.ends) != 0 {
			t.Errorf("taps that carry were given %d chunks and the ends %v", c.taken, c.ends)
		}
	})
}
