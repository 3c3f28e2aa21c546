package splitter

import (
	"errors"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Pauses after an accept error, as net/http takes them.
const (
	pauseFirst = 5 * time.Millisecond
	pauseMost  = time.Second
)

// accept makes a flow of every connection until the front is closed. Errors
// such as EMFILE pass when flows end: clients wait in the kernel's queue while
// we pause.
func (r *Relay) accept(f *front) {
	defer r.accepts.Done()
	var pause time.Duration
	for {
		client, err := f.listener.AcceptTCP()
		if err == nil {
			pause = 0
			r.begin(client, f.choice.Load())
			continue
		}
		if errors.Is(err, net.ErrClosed) {
			return
		}
		pause = nextPause(pause)
		r.faults.accepts.Add(1)
		if left, ok := r.quiet.allow("accept", time.Now()); ok {
			r.log.Warn("accept connection", "address", f.address.String(), "error", err, "pause", pause, "left_out", left)
		}
		select {
		case <-time.After(pause):
		case <-f.closed:
			return
		}
	}
}

// nextPause doubles the pause between its bounds.
func nextPause(pause time.Duration) time.Duration {
	return min(max(2*pause, pauseFirst), pauseMost)
}

// retire closes the front and makes flows of the connections that wait in its
// queue: their clients think themselves connected, and a close alone would
// reset them. It is called once.
func (r *Relay) retire(f *front) {
	close(f.closed)
	for _, client := range f.waiting() {
		r.begin(client, f.choice.Load())
	}
	_ = f.listener.Close()
}

// waiting takes the connections out of the front's queue. It does not wait for
// more, unlike AcceptTCP, which may stand in another goroutine meanwhile.
func (f *front) waiting() []*net.TCPConn {
	raw, err := f.listener.SyscallConn()
	if err != nil {
		return nil
	}
	var waiting []*net.TCPConn
	_ = raw.Control(func(fd uintptr) {
		for {
			accepted, _, err := unix.Accept4(int(fd), unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC)
			if err != nil {
				return
			}
			if client := adopt(accepted); client != nil {
				waiting = append(waiting, client)
			}
		}
	})
	return waiting
}

// adopt gives the connection to package net; nil when that has no room for it.
func adopt(fd int) *net.TCPConn {
	file := os.NewFile(uintptr(fd), "client")
	defer func() { _ = file.Close() }() // net.FileConn has a duplicate
	conn, err := net.FileConn(file)
	if err != nil {
		return nil
	}
	client, ok := conn.(*net.TCPConn)
	if !ok {
		_ = conn.Close()
		return nil
	}
	return client
}
