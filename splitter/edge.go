package splitter

import (
	"net/netip"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// edge is what a worker asks of the kernel. Nothing in it waits. A worker has
// one for itself; tests put faults into it.
type edge interface {
	// accept takes a connection from a listener, and says whose it is; the error
	// is EAGAIN when there is none.
	accept(listener int) (int, netip.AddrPort, syscall.Errno)
	// queued is how many wait at a listener.
	queued(listener int) int
	// watch has an epoll tell of a descriptor, or of something else of it.
	watch(epoll, operation, descriptor int, event unix.EpollEvent) syscall.Errno
	// connect begins a connection, which is done when the socket is writable.
	connect(to *endpoint) (int, syscall.Errno)
	// connectAs is connect from an address that need not be this host's, with a
	// mark by which replies find back.
	connectAs(from, to *endpoint, mark uint32) (int, syscall.Errno)
	// fault is why a connection could not be made.
	fault(socket int) syscall.Errno
	// attempt is what has become of a connection so far: no error when it is made,
	// ETIMEDOUT while there is no answer.
	attempt(socket int) syscall.Errno

	recv(socket int, into []byte) outcome
	// peek is recv that leaves the bytes where they are.
	peek(socket int, into []byte) outcome
	send(socket int, bytes []byte) outcome
	// draw moves up to most bytes from a socket into a pipe, pour up to most
	// bytes from a pipe to a socket.
	draw(socket, pipe, most int) outcome
	pour(pipe, socket, most int) outcome
	// scoop takes bytes out of a pipe.
	scoop(pipe int, into []byte) outcome
	shut(socket int) outcome

	close(descriptor int)
	// reset closes a connection with an RST.
	reset(socket int)
	// lend makes another descriptor of a connection; sever is reset at once, whatever others
	// of it there are.
	lend(socket int) (int, syscall.Errno)
	sever(socket int)
	// prompt has small writes sent at once, and lasting has the kernel find out
	// that a peer is gone, and give it up that takes nothing for so long: what
	// connections need that live longer.
	prompt(socket int)
	lasting(socket int, patience time.Duration)
	// quiet says how long no byte has come or gone, retransmissions included;
	// false when the kernel does not say.
	quiet(socket int) (time.Duration, bool)
	// unsent says how many bytes the kernel has that its peer's window has no room
	// for yet.
	unsent(socket int) int
	// heard says how long no byte has come.
	heard(socket int) (time.Duration, bool)

	// associate makes a socket of UDP that speaks with one address alone.
	associate(to *endpoint) (int, syscall.Errno)
	// take fills a batch with datagrams, from its place first on, and says how many
	// there were; the error is EAGAIN when there is none, or what the peer's host
	// says of what it was sent.
	take(socket int, into *batch, first int) (int, syscall.Errno)
	// give sends those from first to before last and says how many have gone; an
	// error concerns the first of them, or what was sent before.
	give(socket int, of *batch, first, last int) (int, syscall.Errno)
	// say sends one.
	say(socket int, bytes []byte) syscall.Errno

	// pipe makes a pipe that holds room bytes at least.
	pipe(room int) (*pipe, bool)
}
