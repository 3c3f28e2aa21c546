package ladder

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"time"
)

// runSecure runs clients that speak TLS, a goroutine each.
func (l Load) runSecure(ctx context.Context, d time.Duration, rate float64) (Outcome, error) {
	began := time.Now()
	until := began.Add(d)
	asking, cancel := context.WithDeadline(ctx, until.Add(l.Patience))
	defer cancel()
	due, total := make(chan time.Time), 0
	if rate > 0 {
		interval := time.Duration(float64(time.Second) / rate)
		total = max(1, int(float64(d)/float64(interval)))
		due = make(chan time.Time, total) // late or not
		go tickAt(asking, due, began, interval, total)
	}
	all := make([]*secureClient, max(l.Clients, 1))
	var working sync.WaitGroup
	for i := range all {
		c := &secureClient{Load: l, began: began, want: newSheet(l.Page, byPrimary)}
		all[i] = c
		working.Go(func() {
			defer c.end()
			if rate > 0 {
				c.askWhenDue(asking, due)
			} else {
				c.askUntil(asking, until)
			}
		})
	}
	working.Wait()
	o := Outcome{Lasted: time.Since(began)}
	for _, c := range all {
		o.add(c.out)
	}
	if missing := total - o.Answered - o.Failed; missing > 0 {
		o.Failed += missing
		o.Why = first(o.Why, fmt.Errorf("no answer %s after the last request", l.Patience))
	}
	return o, ctx.Err()
}

// add adds what another client met with.
func (o *Outcome) add(more Outcome) {
	o.Answered += more.Answered
	o.Failed += more.Failed
	o.Strays += more.Strays
	o.Flows += more.Flows
	o.StoodIn += more.StoodIn
	o.Took = append(o.Took, more.Took...)
	o.Why = first(o.Why, more.Why)
}

// tickAt tells of each request when it is due.
func tickAt(ctx context.Context, due chan<- time.Time, began time.Time, interval time.Duration, total int) {
	defer close(due)
	timer := time.NewTimer(0)
	defer timer.Stop()
	for i := range total {
		at := began.Add(time.Duration(i+1) * interval)
		timer.Reset(time.Until(at))
		select {
		case <-timer.C:
			due <- at
		case <-ctx.Done():
			return
		}
	}
}

// secureClient is a client, with its connection while it has one.
type secureClient struct {
	Load
	began  time.Time
	want   *sheet
	conn   *tls.Conn
	asked  int // on the connection
	heard  []byte
	buffer [16 << 10]byte
	out    Outcome
}

func (c *secureClient) askWhenDue(ctx context.Context, due <-chan time.Time) {
	for {
		select {
		case at, more := <-due:
			if !more {
				return
			}
			c.ask(ctx, at)
		case <-ctx.Done():
			return
		}
	}
}

func (c *secureClient) askUntil(ctx context.Context, until time.Time) {
	for now := time.Now(); now.Before(until) && ctx.Err() == nil; now = time.Now() {
		c.ask(ctx, now)
	}
}

// ask makes one request and hears its answer.
func (c *secureClient) ask(ctx context.Context, due time.Time) {
	err := c.connect(ctx)
	if err == nil {
		err = c.exchange()
	}
	if due.Sub(c.began) >= c.Warm {
		c.out.Took = append(c.out.Took, time.Since(due))
	}
	if err != nil {
		c.out.Failed++
		c.out.Why = first(c.out.Why, err)
		c.end()
		return
	}
	c.out.Answered++
	if c.Flow > 0 && c.asked >= c.Flow {
		c.end()
	}
}

func (c *secureClient) connect(ctx context.Context) error {
	if c.conn != nil {
		return nil
	}
	c.asked, c.heard = 0, c.heard[:0]
	c.out.Flows++
	plain, err := new(net.Dialer).DialContext(ctx, "tcp", c.At.String())
	if err != nil {
		return err
	}
	c.conn = tls.Client(plain, c.TLS)
	deadline, _ := ctx.Deadline()
	if err := errors.Join(c.conn.SetDeadline(deadline), c.conn.HandshakeContext(ctx)); err != nil {
		return fmt.Errorf("make handshake: %w", err)
	}
	if leaf := c.conn.ConnectionState().PeerCertificates[0]; !slices.Contains(leaf.DNSNames, primaryHost) {
		c.out.StoodIn++
	}
	return nil
}

func (c *secureClient) exchange() error {
	c.asked++
	if _, err := c.conn.Write([]byte(c.Page.request())); err != nil {
		return fmt.Errorf("send request: %w", err)
	}
	for {
		n, err := c.conn.Read(c.buffer[:])
		c.heard = append(c.heard, c.buffer[:n]...)
		whole, stray := isReply(c.want, c.heard)
		switch {
		case stray != nil:
			c.out.Strays++
			return stray
		case whole:
			c.heard = c.heard[:0]
			return nil
		case err != nil:
			return fmt.Errorf("read answer: %w", err)
		}
	}
}

func (c *secureClient) end() {
	if c.conn != nil {
		_ = c.conn.Close()
		c.conn = nil
	}
}
