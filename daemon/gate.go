package daemon

import "sync"

// gate lets readers who come while a look at the kernel is under way share the
// next one: however many there are, one looks at a time, and each gets a look
// that began after it asked.
type gate struct {
	turn sync.Mutex // held by who looks
	mu   sync.Mutex
	next *look // the look that newcomers join; nil when none waits
}

type look struct {
	done    chan struct{}
	reading reading
}

// share returns the reading of a look that begins after the call.
func (g *gate) share(take func() reading) reading {
	g.mu.Lock()
	mine := g.next == nil
	if mine {
		g.next = &look{done: make(chan struct{})}
	}
	l := g.next
	g.mu.Unlock()
	if mine {
		g.look(l, take)
	}
	<-l.done
	return l.reading
}

// look takes its turn; whatever happens in it, those who wait go on.
func (g *gate) look(l *look, take func() reading) {
	g.turn.Lock()
	defer g.turn.Unlock()
	defer close(l.done)
	g.mu.Lock()
	g.next = nil
	g.mu.Unlock()
	l.reading = take()
}
