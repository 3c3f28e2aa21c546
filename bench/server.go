package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"runtime"
	"time"

	"golang.org/x/sys/unix"

	"github.com/splitd/splitd/internal/netns"
)

// The services of each backend, by port.
const (
	portGreet = 25 // says one letter when a connection or a datagram comes
	portOnce  = 70 // sends back what it gets, and ends
	portEcho  = 80 // sends back what it gets
	portWeb   = 81 // answers HTTP/1.1
	portFlood = 90 // sends as fast as it goes
	portIperf = 92 // iperf3, which is at the old backend alone
)

// servicePorts are those that both backends serve.
func servicePorts() []uint16 { return []uint16{portGreet, portOnce, portEcho, portWeb, portFlood} }

// What a descriptor of the server is there for.
type duty uint8

const (
	dutyNone duty = iota
	dutyAcceptGreet
	dutyAcceptEcho
	dutyAcceptFlood
	dutyAcceptOnce
	dutyAcceptWeb
	dutyAnswer // a datagram
	dutyHold   // greeted already: waits for its end
	dutyOnce
	dutyEcho
	dutyWeb
	dutyFlood
)

// server serves all addresses it was given in one namespace, on one thread, as
// any backend with an event loop does.
type server struct {
	poller *poller
	duties []duty // by descriptor
	letter []byte // by descriptor
	buffer []byte
}

// descriptors is more than a run has open at a time.
const descriptors = 1 << 16

// listener is an address that answers with a letter.
type listener struct {
	ip     netip.Addr
	letter byte
}

// serve serves the addresses in the namespace until ctx ends. It returns when
// it listens.
func serve(ctx context.Context, ns *netns.NS, on []listener) error {
	s := &server{duties: make([]duty, descriptors), letter: make([]byte, descriptors), buffer: make([]byte, 256<<10)}
	var err error
	if s.poller, err = newPoller(); err != nil {
		return err
	}
	err = ns.Do(func() error {
		for _, l := range on {
			if err := s.listen(l); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("serve in %q: %w", ns.Name, err)
	}
	go s.run(ctx)
	return nil
}

func (s *server) listen(l listener) error {
	for _, how := range []struct {
		port uint16
		kind int
		duty duty
	}{
		{portGreet, unix.SOCK_STREAM, dutyAcceptGreet},
		{portEcho, unix.SOCK_STREAM, dutyAcceptEcho},
		{portFlood, unix.SOCK_STREAM, dutyAcceptFlood},
		{portOnce, unix.SOCK_STREAM, dutyAcceptOnce},
		{portWeb, unix.SOCK_STREAM, dutyAcceptWeb},
		{portGreet, unix.SOCK_DGRAM, dutyAnswer},
	} {
		family, at := address(netip.AddrPortFrom(l.ip, how.port))
		fd, err := unix.Socket(family, how.kind|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
		if err != nil {
			return fmt.Errorf("open socket: %w", err)
		}
		if err := errors.Join(unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1), unix.Bind(fd, at)); err != nil {
			return fmt.Errorf("listen at %s port %d: %w", l.ip, how.port, err)
		}
		if how.kind == unix.SOCK_STREAM {
			if err := unix.Listen(fd, 4096); err != nil {
				return fmt.Errorf("listen at %s port %d: %w", l.ip, how.port, err)
			}
		}
		if err := s.take(fd, how.duty, l.letter, unix.EPOLLIN); err != nil {
			return err
		}
	}
	return nil
}

func (s *server) take(fd int, d duty, letter byte, events uint32) error {
	if fd >= descriptors {
		return fmt.Errorf("descriptor %d is beyond the %d that a run has", fd, descriptors)
	}
	s.duties[fd], s.letter[fd] = d, letter
	return s.poller.add(fd, events)
}

// run serves until ctx ends.
func (s *server) run(ctx context.Context) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	defer s.poller.close()
	for ctx.Err() == nil {
		ready, err := s.poller.wait(100 * time.Millisecond)
		if err != nil {
			return
		}
		for _, e := range ready {
			s.serve(int(e.Fd))
		}
	}
	for fd, d := range s.duties {
		if d != dutyNone {
			_ = unix.Close(fd)
		}
	}
}

// page is the answer of the web server.
const page = "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok\n"

func (s *server) serve(fd int) {
	switch s.duties[fd] {
	case dutyAcceptGreet, dutyAcceptEcho, dutyAcceptFlood, dutyAcceptOnce, dutyAcceptWeb:
		for range 16 {
			if !s.accept(fd) {
				return
			}
		}
	case dutyAnswer:
		for range 16 {
			_, from, err := unix.Recvfrom(fd, s.buffer, unix.MSG_DONTWAIT)
			if err != nil {
				return
			}
			_ = unix.Sendto(fd, s.letter[fd:fd+1], unix.MSG_DONTWAIT, from)
		}
	case dutyEcho:
		n, err := unix.Read(fd, s.buffer)
		if n > 0 {
			_, err = unix.Write(fd, s.buffer[:n])
		}
		s.endOn(fd, n, err)
	case dutyOnce:
		n, _ := unix.Read(fd, s.buffer)
		if n > 0 {
			_, _ = unix.Write(fd, s.buffer[:n])
		}
		s.endOn(fd, 0, nil)
	case dutyWeb:
		n, err := unix.Read(fd, s.buffer)
		// A request is small and comes whole.
		for range bytes.Count(s.buffer[:max(n, 0)], []byte("\r\n\r\n")) {
			_, err = unix.Write(fd, []byte(page))
		}
		s.endOn(fd, n, err)
	case dutyFlood:
		n, err := unix.Write(fd, s.buffer)
		s.endOn(fd, n, err)
	case dutyHold:
		n, err := unix.Read(fd, s.buffer)
		s.endOn(fd, n, err)
	case dutyNone:
	}
}

// accept takes one connection.
func (s *server) accept(listener int) bool {
	fd, _, err := unix.Accept4(listener, unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK)
	if err != nil {
		return false
	}
	next, events := dutyHold, uint32(unix.EPOLLIN)
	switch s.duties[listener] {
	case dutyAcceptGreet:
		_, _ = unix.Write(fd, s.letter[listener:listener+1])
	case dutyAcceptEcho:
		_ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
		next = dutyEcho
	case dutyAcceptFlood:
		next, events = dutyFlood, unix.EPOLLOUT
	case dutyAcceptOnce:
		next = dutyOnce
	case dutyAcceptWeb:
		next = dutyWeb
	case dutyNone, dutyAnswer, dutyHold, dutyOnce, dutyEcho, dutyWeb, dutyFlood: // no listeners
	}
	if s.take(fd, next, s.letter[listener], events) != nil {
		_ = unix.Close(fd)
	}
	return true
}

// endOn closes a connection that has ended.
func (s *server) endOn(fd, n int, err error) {
	if n > 0 || errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR) {
		return
	}
	s.duties[fd] = dutyNone
	_ = unix.Close(fd)
}
