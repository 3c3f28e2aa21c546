package netfilter

import (
	"errors"
	"sync"
)

// readersIdle is how many sockets of a kind are kept open between questions.
const readersIdle = 16

// A pool keeps sockets for those who ask, so that they neither wait for each
// other nor for who changes the rules. It never refuses: who finds none idle
// opens one. They stay open because closing any socket of netfilter takes the
// lock of the transactions (nft_rcv_nl_event in nf_tables_api.c): readers that
// closed theirs would delay the writer.
type pool[T any] struct {
	mu     sync.Mutex
	idle   []T
	closed bool
	close  func(T)
}

// take gives an idle one, if there is.
func (p *pool[T]) take() (one T, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if n := len(p.idle); n > 0 {
		one, p.idle = p.idle[n-1], p.idle[:n-1]
		return one, true
	}
	return one, false
}

// give puts one that answered well back.
func (p *pool[T]) give(one T) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed || len(p.idle) >= readersIdle {
		p.close(one)
		return
	}
	p.idle = append(p.idle, one)
}

// end closes what is idle, and what comes back later.
func (p *pool[T]) end() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, one := range p.idle {
		p.close(one)
	}
	p.idle, p.closed = nil, true
}

func newLinks() *pool[*link] { return &pool[*link]{close: (*link).close} }

func newConntracks() *pool[*conntrackSocket] {
	return &pool[*conntrackSocket]{close: (*conntrackSocket).close}
}

// withLink lends a link for reading.
func (k *Kernel) withLink(read func(l *link) error) error {
	l, ok := k.readers.take()
	if !ok {
		l = &link{}
	}
	if err := read(l); err != nil {
		l.close() // answers may still come
		return err
	}
	k.readers.give(l)
	return nil
}

// observe sees the tables without disturbing the writer. Only who finds no
// moment between two changes of ours waits for its turn among them.
func (k *Kernel) observe() (have sight, err error) {
	err = k.withLink(func(l *link) error {
		have, err = k.memory.see(l)
		if errors.Is(err, errNeverQuiet) {
			k.mu.Lock()
			defer k.mu.Unlock()
			have, err = k.memory.see(l)
		}
		return err
	})
	return have, err
}

// withConntrack lends a socket of conntrack.
func (k *Kernel) withConntrack(ask func(s *conntrackSocket) error) error {
	s, ok := k.conntracks.take()
	if !ok {
		var err error
		if s, err = k.dial(); err != nil {
			return err
		}
	}
	if err := ask(s); err != nil {
		s.close() // answers may still come
		return err
	}
	k.conntracks.give(s)
	return nil
}
