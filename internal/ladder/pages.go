package ladder

import (
	"errors"
	"fmt"
	"net/netip"
	"runtime"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// pages answers each request with a sheet's next reply, from one thread with an event
// loop of its own: it has to cost little, as it runs on the machine that is
// measured, where a real primary would not.
type pages struct {
	at              netip.AddrPort
	listener, epoll int
	sheet           *sheet
	open            map[int]*asker // by descriptor
	buffer          []byte
	connections     atomic.Int64
	ending          atomic.Bool
	ended           chan struct{}
}

// asker is a connection.
type asker struct {
	had  int    // bytes of the end of a request that have come
	left []byte // of replies, which the socket had no room for
}

// newPages listens at a free port of the address.
func newPages(at netip.Addr, s *sheet) (*pages, error) {
	p := &pages{listener: -1, epoll: -1, sheet: s, open: map[int]*asker{}, buffer: make([]byte, 64<<10), ended: make(chan struct{})}
	if err := p.listen(at); err != nil {
		p.release()
		return nil, fmt.Errorf("listen at %q: %w", at, err)
	}
	go p.run()
	return p, nil
}

func (p *pages) listen(at netip.Addr) (err error) {
	family, name := sockaddr(netip.AddrPortFrom(at, 0))
	if p.epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return err
	}
	if p.listener, err = unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0); err != nil {
		return err
	}
	const backlog = 4096
	if err := errors.Join(unix.Bind(p.listener, name), unix.Listen(p.listener, backlog)); err != nil {
		return err
	}
	if name, err = unix.Getsockname(p.listener); err != nil {
		return err
	}
	p.at = netip.AddrPortFrom(at, portOf(name))
	return p.watch(unix.EPOLL_CTL_ADD, p.listener, unix.EPOLLIN)
}

func (p *pages) watch(how, fd int, events uint32) error {
	return unix.EpollCtl(p.epoll, how, fd, &unix.EpollEvent{Events: events, Fd: int32(fd)})
}

func (p *pages) address() netip.AddrPort { return p.at }
func (p *pages) taken() int              { return int(p.connections.Load()) }

// close ends it and its connections.
func (p *pages) close() {
	p.ending.Store(true)
	<-p.ended
}

func (p *pages) release() {
	for fd := range p.open {
		_ = unix.Close(fd)
	}
	for _, fd := range []int{p.listener, p.epoll} {
		if fd >= 0 {
			_ = unix.Close(fd)
		}
	}
}

// run serves until it is to end, which it looks for ten times a second.
func (p *pages) run() {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	defer close(p.ended)
	defer p.release()
	events := make([]unix.EpollEvent, 128)
	for yielded := time.Now(); !p.ending.Load(); {
		if now := time.Now(); now.Sub(yielded) >= yieldEvery {
			runtime.Gosched()
			yielded = now
		}
		const most = 100 // ms
		n, err := unix.EpollWait(p.epoll, events, most)
		if err != nil && !errors.Is(err, unix.EINTR) {
			return
		}
		for _, e := range events[:max(n, 0)] {
			if fd := int(e.Fd); fd == p.listener {
				p.accept()
			} else {
				p.hear(fd)
			}
		}
	}
}

func (p *pages) accept() {
	for {
		fd, _, err := unix.Accept4(p.listener, unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC)
		if err != nil {
			return
		}
		p.connections.Add(1)
		_ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
		p.open[fd] = &asker{}
		if p.watch(unix.EPOLL_CTL_ADD, fd, unix.EPOLLIN) != nil {
			p.end(fd)
		}
	}
}

func (p *pages) end(fd int) {
	delete(p.open, fd)
	_ = unix.Close(fd)
}

// hear goes on with what the socket had no room for, or else answers the requests
// that end in what has come.
func (p *pages) hear(fd int) {
	c := p.open[fd]
	if len(c.left) > 0 {
		p.write(fd, c, c.left)
		return
	}
	n, err := unix.Read(fd, p.buffer)
	if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR) {
		return
	}
	if n <= 0 {
		p.end(fd)
		return
	}
	var requests int
	requests, c.had = endings(p.buffer[:n], c.had)
	var text []byte
	if requests == 1 {
		text = p.sheet.next()
	} else {
		for range requests {
			text = append(text, p.sheet.next()...) // which the next one overwrites
		}
	}
	p.write(fd, c, text)
}

// write writes what the socket has room for. While something is left nothing is read.
func (p *pages) write(fd int, c *asker, text []byte) {
	n := 0
	if len(text) > 0 {
		var err error
		if n, err = unix.Write(fd, text); err != nil && !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EINTR) {
			p.end(fd)
			return
		}
	}
	waited := len(c.left) > 0
	c.left = append([]byte(nil), text[max(n, 0):]...) // the sheet is written anew
	events := uint32(unix.EPOLLIN)
	if len(c.left) > 0 {
		events = unix.EPOLLOUT
	}
	if waits := len(c.left) > 0; waits != waited && p.watch(unix.EPOLL_CTL_MOD, fd, events) != nil {
		p.end(fd)
	}
}

// endOfRequest ends one without a body (RFC 9112, section 2.1).
const endOfRequest = "\r\n\r\n"

// endings counts the ends of requests in bytes that come cut anywhere: had are the
// bytes of an end that came before them, left those that are the last now.
func endings(text []byte, had int) (n, left int) {
	for _, b := range text {
		switch b {
		case endOfRequest[had]:
			had++
		case endOfRequest[0]:
			had = 1
		default:
			had = 0
		}
		if had == len(endOfRequest) {
			n, had = n+1, 0
		}
	}
	return n, had
}
