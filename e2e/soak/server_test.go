//go:build soak

package soak

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/splitd/splitd/internal/nettest"
)

// pattern is what "give" sends, over and over, and "take" gets.
var pattern = sync.OnceValue(func() []byte {
	block := make([]byte, 256<<10)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(block)
	return block
})

func serve(c net.Conn, name string) {
	defer func() { _ = c.Close() }()
	converse(c, bufio.NewReaderSize(c, 64<<10), name, c.RemoteAddr())
}

// converse greets with the backend's name and does what lines ask for: "say X"
// answers X, "whoami" the client's address, "give N" sends N bytes, "take N" gets
// N and says "took". After the client's FIN it says "bye" and ends.
func converse(c io.Writer, from *bufio.Reader, name string, client net.Addr) {
	if _, err := fmt.Fprintln(c, name); err != nil {
		return
	}
	for {
		line, err := from.ReadString('\n')
		if errors.Is(err, io.EOF) {
			_, _ = fmt.Fprintln(c, "bye")
			return
		}
		if err != nil || answer(c, from, client, strings.TrimSpace(line)) != nil {
			return
		}
	}
}

func answer(c io.Writer, from io.Reader, client net.Addr, line string) error {
	verb, rest, _ := strings.Cut(line, " ")
	switch verb {
	case "say":
		_, err := fmt.Fprintln(c, rest)
		return err
	case "whoami":
		_, err := fmt.Fprintln(c, client)
		return err
	}
	n, err := strconv.Atoi(rest)
	if err != nil {
		return err
	}
	if verb == "give" {
		return give(c, n)
	}
	if err := check(from, n); err != nil {
		return err
	}
	_, err = fmt.Fprintln(c, "took")
	return err
}

// give sends the first n bytes of the pattern without end.
func give(to io.Writer, n int) error {
	for n > 0 {
		piece := pattern()[:min(n, len(pattern()))]
		if _, err := to.Write(piece); err != nil {
			return err
		}
		n -= len(piece)
	}
	return nil
}

// check reads n bytes, which must be those.
func check(from io.Reader, n int) error {
	got := make([]byte, len(pattern()))
	for n > 0 {
		piece := got[:min(n, len(got))]
		if _, err := io.ReadFull(from, piece); err != nil {
			return err
		}
		if !bytes.Equal(piece, pattern()[:len(piece)]) {
			return errors.New("other bytes than were sent")
		}
		n -= len(piece)
	}
	return nil
}

// candidate is a backend that fails in turns. A flow that it has accepted it
// serves to its end, whatever it does to new ones.
type candidate struct {
	t         *testing.T
	ns        *nettest.NS
	addresses []string
	// changes is odd while it changes what it does to new flows, and a greeting
	// may be lost that was due.
	changes atomic.Int64
	refuses atomic.Bool
	undo    []func()
}

// changed says whether the candidate has changed since changes was before, or is
// about to.
func (c *candidate) changed(before int64) bool {
	return before%2 != 0 || c.changes.Load() != before
}

// become changes what the candidate does to new flows, by how to begin it at an
// address, which returns how to end it.
func (c *candidate) become(how func(address string) (func(), error)) {
	c.changes.Add(1)
	defer c.changes.Add(1)
	c.end()
	c.undo = nil
	for _, address := range c.addresses {
		err := c.ns.NS.Do(func() error {
			undo, err := how(address)
			if err == nil {
				c.undo = append(c.undo, undo)
			}
			return err
		})
		if err != nil {
			c.t.Errorf("change the candidate at %s: %v", address, err)
		}
	}
}

// end lets go of what the candidate has.
func (c *candidate) end() {
	for _, undo := range c.undo {
		undo()
	}
}

// up accepts flows, of UDP too; who is up already restarts by it.
func (c *candidate) up(address string) (func(), error) {
	c.refuses.Store(false)
	end, err := serveQuestions(address, "new")
	if err != nil {
		return nil, err
	}
	l, err := net.Listen("tcp", address)
	if err != nil {
		end()
		return nil, err
	}
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go serve(conn, "new")
		}
	}()
	return func() { _ = l.Close(); end() }, nil
}

// refusing listens no more, for UDP either.
func (c *candidate) refusing(string) (func(), error) {
	c.refuses.Store(true)
	return func() {}, nil
}

// blackholed drops SYNs: a listener with a full queue (tcp_conn_request in
// net/ipv4/tcp_input.c). UDP it answers: where nobody refuses, silence is all that
// many protocols have, and no relay can tell.
func (c *candidate) blackholed(address string) (func(), error) {
	at, err := net.ResolveTCPAddr("tcp", address)
	if err != nil {
		return nil, err
	}
	family, where := unix.AF_INET6, unix.Sockaddr(&unix.SockaddrInet6{Port: at.Port, Addr: [16]byte(at.IP.To16())})
	if four := at.IP.To4(); four != nil {
		family, where = unix.AF_INET, &unix.SockaddrInet4{Port: at.Port, Addr: [4]byte(four)}
	}
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	c.refuses.Store(false)
	end, err := serveQuestions(address, "new")
	if err != nil {
		_ = unix.Close(fd)
		return nil, err
	}
	undo := func() { _ = unix.Close(fd); end() }
	err = errors.Join(unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1), unix.Bind(fd, where), unix.Listen(fd, 0))
	if err != nil {
		undo()
		return nil, err
	}
	// One more than the backlog is the most that it takes. Where a flow has been
	// quicker, the queue is full with that one, also when it has ended.
	filler, err := net.DialTimeout("tcp", address, time.Second)
	var late net.Error
	switch {
	case errors.As(err, &late) && late.Timeout():
		return undo, nil
	case err != nil:
		undo()
		return nil, err
	}
	return func() { undo(); _ = filler.Close() }, nil
}
