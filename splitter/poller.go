package splitter

import (
	"errors"
	"fmt"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// poller is a worker's epoll and the eventfd that wakes it up.
type poller struct {
	edge        edge
	epoll, bell int
	events      []unix.EpollEvent
}

// ticket is what a poller gives back with an event: whom it concerns. The turn
// tells a place's flows apart that follow one another.
type ticket struct {
	kind  ticketKind
	place int32
	turn  int32
}

type ticketKind uint8

const (
	ofClient ticketKind = iota
	ofBackend
	ofListener
	ofBell
)

const turns = 1 << 29 // so that a turn and a kind fit into an event's 32 bits

func (t ticket) event(events uint32) unix.EpollEvent {
	return unix.EpollEvent{Events: events, Fd: t.place, Pad: t.turn<<2 | int32(t.kind)}
}

func ticketOf(e *unix.EpollEvent) ticket {
	return ticket{kind: ticketKind(e.Pad & 3), place: e.Fd, turn: e.Pad >> 2}
}

// newsOf is what an event says of a connection.
func newsOf(e *unix.EpollEvent) news {
	return news{
		readable: e.Events&unix.EPOLLIN != 0,
		writable: e.Events&unix.EPOLLOUT != 0,
		ending:   e.Events&(unix.EPOLLRDHUP|unix.EPOLLHUP) != 0,
		reset:    e.Events&unix.EPOLLERR != 0,
		urgent:   e.Events&unix.EPOLLPRI != 0,
	}
}

func newPoller(most int, e edge) (*poller, error) {
	epoll, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("create epoll: %w", err)
	}
	bell, err := unix.Eventfd(0, unix.EFD_NONBLOCK|unix.EFD_CLOEXEC)
	if err != nil {
		_ = unix.Close(epoll)
		return nil, fmt.Errorf("create eventfd: %w", err)
	}
	p := &poller{edge: e, epoll: epoll, bell: bell, events: make([]unix.EpollEvent, most)}
	if errno := p.add(bell, unix.EPOLLIN, ticket{kind: ofBell}); errno != 0 {
		p.close()
		return nil, fmt.Errorf("watch eventfd: %w", errno)
	}
	return p, nil
}

func (p *poller) close() {
	_ = unix.Close(p.bell)
	_ = unix.Close(p.epoll)
}

// connection is what is asked of the kernel about a connection, once: news
// alone (edge-triggered), in both directions.
const connection = unix.EPOLLIN | unix.EPOLLPRI | unix.EPOLLOUT | unix.EPOLLRDHUP | unix.EPOLLET

func (p *poller) add(descriptor int, events uint32, t ticket) syscall.Errno {
	return p.edge.watch(p.epoll, unix.EPOLL_CTL_ADD, descriptor, t.event(events))
}

// change needs no room, as add does.
func (p *poller) change(descriptor int, events uint32, t ticket) {
	_ = p.edge.watch(p.epoll, unix.EPOLL_CTL_MOD, descriptor, t.event(events))
}

func (system) watch(epoll, operation, descriptor int, event unix.EpollEvent) syscall.Errno {
	_, _, errno := unix.RawSyscall6(unix.SYS_EPOLL_CTL, uintptr(epoll), uintptr(operation), uintptr(descriptor), uintptr(unsafe.Pointer(&event)), 0, 0)
	return errno
}

// poll returns the events that are there, and does not wait.
func (p *poller) poll() ([]unix.EpollEvent, error) {
	n, _, errno := unix.RawSyscall6(unix.SYS_EPOLL_PWAIT, uintptr(p.epoll), uintptr(unsafe.Pointer(unsafe.SliceData(p.events))), uintptr(len(p.events)), 0, 0, 0)
	if errno != 0 {
		return p.heard(0, errno)
	}
	return p.events[:n], nil
}

// wait waits for the first event, up to so many milliseconds, -1 for ever. It
// goes through the Go scheduler, which could not stop the world otherwise.
func (p *poller) wait(milliseconds int) ([]unix.EpollEvent, error) {
	return p.heard(unix.EpollWait(p.epoll, p.events, milliseconds))
}

func (p *poller) heard(n int, err error) ([]unix.EpollEvent, error) {
	switch {
	case errors.Is(err, unix.EINTR):
		return nil, nil
	case err != nil: // a mistake of ours
		return nil, fmt.Errorf("wait for events: %w", err)
	}
	return p.events[:n], nil
}

// ring wakes the poller up. It may be called from any goroutine.
func (p *poller) ring() {
	one := [8]byte{7: 1} // whatever the byte order, it is not zero
	_, _ = unix.Write(p.bell, one[:])
}

// silence makes the bell ready to ring again.
func (p *poller) silence() {
	var count [8]byte
	_, _ = unix.Read(p.bell, count[:])
}
