package doctor

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/splitd/splitd/traffic"
)

const (
	defaultPatience = 4 * time.Second
	// connectsMax bounds how many backends are tried.
	connectsMax = 256
)

// connecting is one connection attempt.
type connecting struct {
	fd int
	to netip.AddrPort
}

// connect tries the port of each TCP backend once, all at the same time, and
// notes why one cannot be connected. Sockets are made on the calling thread: a
// goroutine of its own might run in another network namespace.
func (h *Host) connect(ctx context.Context, ways []forward, patience time.Duration) {
	if patience == 0 {
		patience = defaultPatience
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	var open []connecting
	tried := map[netip.AddrPort]bool{}
	for _, w := range ways {
		to := netip.AddrPortFrom(w.to.IP, w.to.Port)
		if tried[to] || w.port.Transport != traffic.TCP || h.Ways[w.to.IP].Device == "" || len(tried) == connectsMax {
			continue
		}
		tried[to] = true
		fd, err := beginConnect(to)
		if err != nil {
			h.Refusals[to] = err.Error()
			continue
		}
		open = append(open, connecting{fd: fd, to: to})
	}
	h.await(ctx, open)
}

// await collects the outcomes until ctx ends, and closes the sockets.
func (h *Host) await(ctx context.Context, open []connecting) {
	for len(open) > 0 {
		fds := make([]unix.PollFd, len(open))
		for i, c := range open {
			fds[i] = unix.PollFd{Fd: int32(c.fd), Events: unix.POLLOUT}
		}
		over := !poll(ctx, fds)
		i := -1
		open = slices.DeleteFunc(open, func(c connecting) bool {
			i++
			if fds[i].Revents == 0 && !over {
				return false
			}
			if err := outcome(c.fd, fds[i].Revents != 0); err != nil {
				h.Refusals[c.to] = err.Error()
			}
			_ = unix.Close(c.fd)
			return true
		})
	}
}

// poll waits for one of the sockets; it returns false when ctx has ended.
func poll(ctx context.Context, fds []unix.PollFd) bool {
	for {
		wait := time.Second
		if deadline, ok := ctx.Deadline(); ok {
			wait = min(wait, time.Until(deadline))
		}
		if ctx.Err() != nil || wait <= 0 {
			return false
		}
		n, err := unix.Poll(fds, max(1, int(wait.Milliseconds())))
		switch {
		case n > 0:
			return true
		case err != nil && !errors.Is(err, unix.EINTR):
			return false
		}
	}
}

func outcome(fd int, ready bool) error {
	if !ready {
		return errors.New("no answer")
	}
	code, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR)
	if err == nil && code != 0 {
		err = unix.Errno(code)
	}
	return err
}

func beginConnect(to netip.AddrPort) (fd int, err error) {
	family := unix.AF_INET6
	var address unix.Sockaddr = &unix.SockaddrInet6{Addr: to.Addr().As16(), Port: int(to.Port())}
	if to.Addr().Is4() {
		family = unix.AF_INET
		address = &unix.SockaddrInet4{Addr: to.Addr().As4(), Port: int(to.Port())}
	}
	fd, err = unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return 0, err
	}
	if err := unix.Connect(fd, address); err != nil && !errors.Is(err, unix.EINPROGRESS) {
		_ = unix.Close(fd)
		return 0, err
	}
	return fd, nil
}
