package netfilter

import (
	"encoding/binary"
	"errors"
	"fmt"
	"syscall"

	"github.com/google/nftables"
	"github.com/mdlayher/netlink"
	"github.com/mdlayher/netlink/nltest"
	"golang.org/x/sys/unix"
)

// Dial opens a connection to nf_tables for one goroutine, in the network namespace
// of the calling thread, and returns it with the socket that it uses: who is done
// closes that one.
//
// The library would look for answers by pselect(2), which knows no descriptor from
// 1024 on: it panics where this process has so many, as one that relays soon has
// (google/nftables#352). So it is given a dial, which looks by poll(2).
func Dial() (*nftables.Conn, *netlink.Conn, error) {
	socket, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		return nil, nil, fmt.Errorf("open netlink: %w", err)
	}
	_ = socket.SetReadBuffer(readBuffer)
	_ = socket.SetWriteBuffer(writeBuffer)
	wire := &wire{socket: socket}
	conn, err := nftables.New(nftables.AsLasting(), nftables.WithTestDial(wire.exchange))
	if err != nil {
		_ = socket.Close()
		return nil, nil, fmt.Errorf("open nf_tables: %w", err)
	}
	return conn, socket, nil
}

// wire carries a library's connection over a socket.
type wire struct {
	socket *netlink.Conn
	broken error // of the newest request: there is nothing to be had any more
	told   bool
}

// exchange is a nltest.Func: with messages it sends them, without it returns what
// is there of the answers, nothing where that is all. An error that is none of the
// kernel's words is returned once: the library would ask for ever.
func (w *wire) exchange(requests []netlink.Message) ([]netlink.Message, error) {
	if len(requests) > 0 {
		w.told = false
		w.broken = w.send(requests)
		return nil, nil
	}
	if w.broken == nil {
		answers, err := w.receive()
		if err == nil {
			return answers, nil
		}
		w.broken = err
	}
	if w.told {
		return nil, nil
	}
	w.told = true
	return nil, w.broken
}

// send has the kernel take the messages, as this socket's: the library has
// addressed them as those of its own.
func (w *wire) send(requests []netlink.Message) error {
	for i := range requests {
		requests[i].Header.PID = 0
	}
	_, err := w.socket.SendMessages(requests)
	for i := range requests {
		requests[i].Header.PID = nltest.PID
	}
	return err
}

// receive is what is there. The kernel has answered when it has taken a request
// (nfnetlink_rcv in net/netfilter/nfnetlink.c), so nobody waits.
func (w *wire) receive() ([]netlink.Message, error) {
	ready, err := readable(w.socket)
	if err != nil || !ready {
		return nil, err
	}
	answers, err := w.socket.Receive()
	if said, ok := errors.AsType[*netlink.OpError](err); ok && said.Sequence != 0 {
		if errno, ok := errors.AsType[syscall.Errno](said.Err); ok {
			return []netlink.Message{refusal(said.Sequence, errno)}, nil
		}
	}
	for i := range answers {
		answers[i].Header.PID = nltest.PID
		answers[i].Header.Flags &^= netlink.Multi // they have come, all of them
	}
	return answers, err
}

// refusal is a struct nlmsgerr (netlink(7)), from which the library tells which of
// its messages was refused.
func refusal(sequence uint32, errno syscall.Errno) netlink.Message {
	data := make([]byte, 4+unix.SizeofNlMsghdr)
	binary.NativeEndian.PutUint32(data, uint32(-int32(errno)))
	return netlink.Message{
		Header: netlink.Header{Type: netlink.Error, Sequence: sequence, PID: nltest.PID},
		Data:   data,
	}
}

// readable says whether a socket has something to read.
func readable(socket *netlink.Conn) (bool, error) {
	raw, err := socket.SyscallConn()
	if err != nil {
		return false, err
	}
	n := 0
	var pollErr error
	err = raw.Control(func(fd uintptr) {
		for {
			n, pollErr = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
			if !errors.Is(pollErr, unix.EINTR) {
				return
			}
		}
	})
	return n > 0, errors.Join(err, pollErr)
}
