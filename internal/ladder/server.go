package ladder

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
)

// server takes connections and has a goroutine talk on each. All end with it.
type server struct {
	listener net.Listener
	ctx      context.Context
	cancel   context.CancelFunc
	all      sync.WaitGroup

	connections atomic.Int64

	mu   sync.Mutex
	open map[net.Conn]struct{}
}

// serve listens at a free port of the address.
func serve(at netip.Addr, talk talking) (*server, error) {
	listener, err := net.Listen("tcp", netip.AddrPortFrom(at, 0).String())
	if err != nil {
		return nil, fmt.Errorf("listen at %q: %w", at, err)
	}
	s := &server{listener: listener, open: map[net.Conn]struct{}{}}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.all.Go(func() { s.accept(talk) })
	return s, nil
}

func (s *server) taken() int              { return int(s.connections.Load()) }
func (s *server) address() netip.AddrPort { return s.listener.Addr().(*net.TCPAddr).AddrPort() }

func (s *server) accept(talk talking) {
	for {
		c, err := s.listener.Accept()
		if err != nil {
			return
		}
		s.connections.Add(1)
		if !s.keep(c) {
			return
		}
		s.all.Go(func() {
			defer s.drop(c)
			talk(s.ctx, c)
		})
	}
}

// keep notes an open connection, unless the server is about to end.
func (s *server) keep(c net.Conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ctx.Err() != nil {
		_ = c.Close()
		return false
	}
	s.open[c] = struct{}{}
	return true
}

func (s *server) drop(c net.Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.open, c)
	_ = c.Close()
}

// close ends all connections and returns when nobody talks any more.
func (s *server) close() {
	s.mu.Lock()
	s.cancel()
	_ = s.listener.Close()
	for c := range s.open {
		_ = c.Close()
	}
	s.mu.Unlock()
	s.all.Wait()
}

// readRequest reads a request without a body to its end.
func readRequest(from *bufio.Reader) error {
	for {
		line, err := from.ReadSlice('\n')
		if err != nil {
			return err
		}
		if len(bytes.TrimRight(line, "\r\n")) == 0 {
			return nil
		}
	}
}
