package demo

import (
	"context"
	"crypto/rand"
	"fmt"
	"net/netip"
	"sync/atomic"
	"time"
)

// way is one way into the service: from a client's address to the service's.
type way struct {
	From netip.Addr
	To   netip.AddrPort
	// Ports are as many client ports, from firstPort on, taken in turn; 0
	// leaves the choice to the kernel. Taken in turn, no flow follows another
	// one on the same port while that is still in the connection table, so
	// that flows can be counted there.
	Ports int
}

// firstPort and manyPorts are client ports below those that the kernel chooses
// (net.ipv4.ip_local_port_range).
const firstPort, manyPorts = 2048, 30000

// from is the client's address and port for the n-th mail of this way.
func (w way) from(n int) netip.AddrPort {
	if w.Ports == 0 {
		return netip.AddrPortFrom(w.From, 0)
	}
	return netip.AddrPortFrom(w.From, uint16(firstPort+n%w.Ports))
}

// pump orders mails from the clients at an even pace, by turns over all ways,
// until it is stopped: clients do not pause while an operator changes shares.
type pump struct {
	book  *ledger
	ways  []way
	order func(order) error // to the clients; it may be slow
	run   string            // makes the ids of this run unique
	pace  atomic.Int64      // nanoseconds between mails
}

// pendingMax bounds the mails that are under way at a time.
const pendingMax = 64

func newPump(book *ledger, ways []way, rate int, send func(order) error) *pump {
	p := &pump{book: book, ways: ways, order: send, run: rand.Text()}
	p.setRate(rate)
	return p
}

// setRate sets the mails per second.
func (p *pump) setRate(rate int) { p.pace.Store(int64(time.Second) / int64(rate)) }

// Run orders mails until ctx ends, then returns nil.
func (p *pump) Run(ctx context.Context) error {
	tick := time.NewTimer(0)
	defer tick.Stop()
	next := time.Now()
	for n := 0; ; {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		if p.book.Pending() < pendingMax {
			if err := p.orderMail(n); err != nil {
				return err
			}
			n++
		}
		// Late ticks are made up for, but not those of a long pause.
		next = next.Add(time.Duration(p.pace.Load()))
		if now := time.Now(); next.Before(now.Add(-100 * time.Millisecond)) {
			next = now
		}
		tick.Reset(time.Until(next))
	}
}

func (p *pump) orderMail(n int) error {
	w := p.ways[n%len(p.ways)]
	o := order{ID: fmt.Sprintf("<%s.%d@demo.splitd.example>", p.run, n), From: w.from(n / len(p.ways)), To: w.To, Recipient: someone}
	if n/len(p.ways)%4 == 3 {
		o.Recipient = forgotten
	}
	p.book.Send(o.ID, w.From)
	if err := p.order(o); err != nil {
		p.book.Answer(o.ID, "it could not be ordered")
		return fmt.Errorf("order mail: %w", err)
	}
	return nil
}
