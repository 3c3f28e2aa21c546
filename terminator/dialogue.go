package terminator

import (
	"errors"
	"io"
	"net"
	"sync"

	"github.com/splitd/splitd/shadow"
)

// A protocol is what has to be known of one to stand in for its servers.
type protocol struct {
	// dialogue makes what follows a flow that begins in clear; nil: none goes on inside TLS.
	dialogue func() dialogue
	// agree speaks that dialogue with the primary, for a probe, up to where TLS begins.
	agree func(net.Conn) error
	// leave says goodbye to it inside TLS, behind that dialogue or at once; nil: nothing is said.
	leave func(voice io.ReadWriter, agreed bool)
	// unread says that what ALPN has agreed to is not read by who plays the flow; nil: all is.
	unread func(alpn string) bool
}

// protocolOf is the one that a split's shadow plays.
func protocolOf(name string) protocol {
	switch name {
	case "smtp":
		return protocol{dialogue: func() dialogue { return &smtp{} }, agree: agreeSMTP, leave: leaveSMTP}
	case "http":
		return protocol{unread: func(alpn string) bool { return alpn == "h2" || alpn == "h3" }}
	}
	return protocol{}
}

// A dialogue follows what two sides say in clear, up to the reply by which TLS begins. It sees
// each byte once, when it is about to be passed on; bytes come cut anywhere. What it cannot
// follow beyond doubt it gives up: then all is passed on, and TLS is not begun by
// us. It is called by one goroutine at a time.
type dialogue interface {
	// client takes what the client says next, and returns how much of it may be passed on: behind
	// a command that asks for TLS nothing, until the primary has answered it.
	client(b []byte) int
	// primary takes what the primary says next. agreed: that ends at n with the reply by which TLS
	// begins; behind it comes nothing in clear, of either.
	primary(b []byte) (n int, agreed bool)
	// waits says that the client's bytes have to wait.
	waits() bool
	// giveUp has it follow no more, for a reason; "" only asks for the one that there is.
	giveUp(reason string) string
}

// conversation is a flow in clear that may go on inside TLS.
type conversation struct {
	*flow
	mu     sync.Mutex
	d      dialogue
	agreed bool
	wake   chan struct{} // the client's bytes need not wait any more
}

// converse passes on a dialogue. agreed: both want TLS now, and nothing of what was said in
// clear behind that is left; else the flow is over.
func (f *flow) converse(d dialogue) (agreed bool, err error) {
	c := &conversation{flow: f, d: d, wake: make(chan struct{}, 1)}
	up := f.aside(f.primary, c.up)
	last, down := c.down()
	f.stops(f.client, down)
	if down != nil {
		c.unanswered()
	}
	c.rouse()
	if err := first(<-up, down); err != nil || last == nil {
		return false, err
	}
	f.rearm(f.client)
	return true, f.pass(shadow.Primary, f.client, last)
}

// up passes on what the client says.
func (c *conversation) up() error {
	buf := buffers.Get().(*buffer)
	defer buffers.Put(buf)
	have, fin := 0, false
	for {
		n, agreed := c.may(buf[:have])
		switch {
		case agreed:
			return nil // what is left was injected
		case n > 0:
			if err := c.pass(shadow.Client, c.primary, buf[:n]); err != nil {
				return err
			}
			c.doubt()
			have = copy(buf[:], buf[n:have])
			continue
		case fin && have == 0:
			return c.ends(c.client, c.primary, io.EOF)
		case fin || have == len(buf):
			<-c.wake
			if c.aborted.Load() {
				return errGone
			}
			continue
		}
		n, err := c.client.Read(buf[have:])
		have += n
		switch {
		case err == nil:
		case errors.Is(err, io.EOF):
			fin = true
		case timedOut(err) && !c.aborted.Load() && !c.client.isHeardOut():
			c.rearm(c.client)
		default:
			return c.broken(c.client, err)
		}
	}
}

// may is how much of the client's may be passed on.
func (c *conversation) may(b []byte) (n int, agreed bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.agreed || len(b) == 0 {
		return 0, c.agreed
	}
	return c.d.client(b), false
}

// down passes on what the primary says. last is the reply by which TLS begins, which was not.
func (c *conversation) down() (last []byte, err error) {
	buf := buffers.Get().(*buffer)
	defer buffers.Put(buf)
	for {
		n, err := c.primary.Read(buf[:])
		if n > 0 {
			n, agreed := c.said(buf[:n])
			if agreed {
				return append([]byte(nil), buf[:n]...), nil
			}
			if err := c.pass(shadow.Primary, c.client, buf[:n]); err != nil {
				return nil, err
			}
			c.doubt()
		}
		if err != nil {
			c.unanswered()
			return nil, c.ends(c.primary, c.client, err)
		}
	}
}

// said is how much of the primary's may be passed on.
func (c *conversation) said(b []byte) (n int, agreed bool) {
	c.mu.Lock()
	waited := c.d.waits()
	n, c.agreed = c.d.primary(b)
	agreed = c.agreed
	released := waited && !c.d.waits()
	c.mu.Unlock()
	if released {
		c.rouse()
	}
	return n, agreed
}

// unanswered lets go of what waits for a reply that will not come.
func (c *conversation) unanswered() {
	c.mu.Lock()
	if c.d.waits() {
		c.d.giveUp(notFollowed)
	}
	c.mu.Unlock()
	c.rouse()
}

// rouse has up look again: it reads, or waits with what it holds.
func (c *conversation) rouse() {
	_ = c.client.interrupt()
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// doubt tells that nothing more is seen, where the dialogue was given up.
func (c *conversation) doubt() {
	c.mu.Lock()
	reason := c.d.giveUp("")
	c.mu.Unlock()
	if reason != "" && c.told.opaque(reason) {
		c.t.counts.passedThrough(reason)
	}
}
