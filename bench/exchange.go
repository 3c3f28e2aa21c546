package main

import (
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// exchanges opens one connection after another until the deadline, atOnce at a
// time: each sends a request, gets the reply and ends, the server first, as HTTP
// without keep-alive does and most of mail. It returns how many did.
func exchanges(e ends, deadline time.Time) (int, error) {
	p, err := newPoller()
	if err != nil {
		return 0, err
	}
	x := &exchanging{poller: p, ends: e, open: map[int]int{}, buffer: make([]byte, requestSize)}
	defer x.close()
	for {
		more := time.Now().Before(deadline)
		for more && len(x.open) < atOnce {
			if err := x.begin(); err != nil {
				return x.done, err
			}
		}
		if len(x.open) == 0 {
			return x.done, nil
		}
		ready, err := p.wait(patience)
		if err != nil {
			return x.done, err
		}
		if len(ready) == 0 {
			return x.done, fmt.Errorf("%d connections get no answer for %s", len(x.open), patience)
		}
		for _, r := range ready {
			if err := x.hear(int(r.Fd), r.Events); err != nil {
				return x.done, err
			}
		}
	}
}

// exchanging are the connections of exchanges.
type exchanging struct {
	poller *poller
	ends   ends
	open   map[int]int // bytes of the reply, by descriptor; -1 before the request
	buffer []byte
	begun  int
	done   int
}

func (x *exchanging) close() {
	for fd := range x.open {
		reset(fd)
	}
	x.poller.close()
}

func (x *exchanging) begin() error {
	from, to := x.ends.of(x.begun)
	x.begun++
	fd, err := dial(unix.SOCK_STREAM, from, to)
	if err != nil {
		return err
	}
	x.open[fd] = -1
	return x.poller.add(fd, unix.EPOLLIN|unix.EPOLLOUT|unix.EPOLLET)
}

// hear sends the request when the connection stands, and reads until its end.
func (x *exchanging) hear(fd int, events uint32) error {
	if x.open[fd] < 0 {
		if events&unix.EPOLLOUT == 0 {
			return fmt.Errorf("connect: %w", broken(fd))
		}
		if n, err := unix.Write(fd, x.buffer); n != requestSize {
			return fmt.Errorf("send request: %w", errors.Join(err, broken(fd)))
		}
		x.open[fd] = 0
		return nil
	}
	for {
		n, err := unix.Read(fd, x.buffer)
		switch {
		case errors.Is(err, unix.EAGAIN):
			return nil
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return fmt.Errorf("read reply: %w", err)
		case n > 0:
			x.open[fd] += n
		case x.open[fd] != requestSize:
			return fmt.Errorf("read reply: %d bytes of %d", x.open[fd], requestSize)
		default:
			delete(x.open, fd)
			x.done++
			_ = unix.Close(fd)
			return nil
		}
	}
}

// broken is why a connection is not usable.
func broken(fd int) error {
	code, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR)
	if err == nil && code != 0 {
		err = unix.Errno(code)
	}
	return errors.Join(err, unix.EBADMSG)
}

// hold opens connections that say nothing once they are greeted, one letter
// each, and keeps them until the function that it returns is called.
func hold(e ends, n int) (func(), error) {
	p, all, err := openAll(e, n)
	release := func() { closeAll(p, all) }
	if err != nil {
		return release, err
	}
	letter := make([]byte, 2)
	for greeted := 0; greeted < n; {
		ready, err := p.wait(patience)
		if err != nil || len(ready) == 0 {
			return release, fmt.Errorf("%d of %d connections are greeted: %w", greeted, n, errors.Join(err, unix.ETIMEDOUT))
		}
		for _, r := range ready {
			if got, err := unix.Read(int(r.Fd), letter); got != 1 {
				return release, fmt.Errorf("read greeting: %d bytes: %w", got, errors.Join(err, unix.EBADMSG))
			}
			greeted++
		}
	}
	return release, nil
}
