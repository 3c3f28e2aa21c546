package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"
)

// ends are the two sides of a client's flows: it connects from each of its own
// addresses in turn to each of the targets in turn.
type ends struct {
	from []netip.Addr
	to   []netip.AddrPort
}

// number i of the flows.
func (e ends) of(i int) (netip.Addr, netip.AddrPort) {
	return e.from[i/len(e.to)%len(e.from)], e.to[i%len(e.to)]
}

const (
	atOnce      = 32               // connections in flight, or kept open
	requestSize = 64               // bytes of a request and of its reply
	patience    = 10 * time.Second // for an answer
	slow        = time.Second / 2  // a flow that takes this long has lost a packet
)

// tally is what became of flows.
type tally struct {
	by     map[byte]int // answered, by the letter of who answered
	failed int
	slow   int
	why    error // of the first that failed
}

func (t *tally) answered() int {
	n := 0
	for _, count := range t.by {
		n += count
	}
	return n
}

// add adds what became of other flows.
func (t *tally) add(more tally) {
	for letter, n := range more.by {
		t.by[letter] += n
	}
	t.failed += more.failed
	t.slow += more.slow
}

// Kinds of flows: TCP and UDP.
const streams, datagrams = unix.SOCK_STREAM, unix.SOCK_DGRAM

// openFlows opens one flow after another until the deadline, atOnce at a time,
// and asks of each who answers. A datagram is the question of a flow of UDP.
func openFlows(kind int, e ends, deadline time.Time, stop func() bool) (tally, error) {
	t := tally{by: map[byte]int{}}
	p, err := newPoller()
	if err != nil {
		return t, err
	}
	defer p.close()
	begun := map[int]time.Time{}
	answer := make([]byte, 64)
	fail := func(err error) {
		t.failed++
		t.why = errors.Join(t.why, err)
	}
	for i := 0; ; {
		more := time.Now().Before(deadline) && !stop()
		if !more && len(begun) == 0 {
			return t, nil
		}
		for ; more && len(begun) < atOnce; i++ {
			from, to := e.of(i)
			fd, err := dial(kind, from, to)
			if err == nil && kind == datagrams {
				_, err = unix.Write(fd, answer[:1])
			}
			if err != nil {
				return t, err
			}
			if err := p.add(fd, unix.EPOLLIN); err != nil {
				return t, err
			}
			begun[fd] = time.Now()
		}
		ready, err := p.wait(slow)
		if err != nil {
			return t, err
		}
		now := time.Now()
		for _, r := range ready {
			fd := int(r.Fd)
			n, err := unix.Read(fd, answer)
			switch {
			case n > 0:
				t.by[answer[0]]++
				if now.Sub(begun[fd]) > slow {
					t.slow++
				}
			case t.failed == 0:
				fail(fmt.Errorf("read who answers: %w", err))
			default:
				t.failed++
			}
			delete(begun, fd)
			reset(fd)
		}
		for fd, since := range begun {
			if len(ready) == 0 && now.Sub(since) > patience {
				t.failed++
				delete(begun, fd)
				reset(fd)
			}
		}
	}
}

// firstPackets opens one connection after another, never two at once, and
// returns how long each took to stand: its first packet there and the first
// back, with the draw on the way.
func firstPackets(e ends, d time.Duration) ([]time.Duration, error) {
	var took []time.Duration
	for started := time.Now(); time.Since(started) < d; {
		from, to := e.of(len(took))
		began := time.Now()
		fd, err := dial(unix.SOCK_STREAM, from, to)
		if err != nil {
			return took, err
		}
		err = stands(fd, to)
		took = append(took, time.Since(began))
		reset(fd)
		if err != nil {
			return took, err
		}
	}
	return took, nil
}

// stands waits until a connection does.
func stands(fd int, to netip.AddrPort) error {
	writable := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}
	if _, err := unix.Poll(writable, int(patience.Milliseconds())); err != nil {
		return fmt.Errorf("connect to %s: %w", to, err)
	}
	if code, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR); err != nil || code != 0 || writable[0].Revents == 0 {
		return fmt.Errorf("connect to %s: %w", to, errors.Join(err, unix.Errno(code), unix.ETIMEDOUT))
	}
	return nil
}

// client keeps the connections of one path open that requests go over.
type client struct {
	requests *poller
	echoes   []int
}

func newClient(e ends) (*client, error) {
	p, all, err := openAll(e, atOnce)
	if err != nil {
		closeAll(p, all)
		return nil, err
	}
	return &client{requests: p, echoes: all}, nil
}

func (c *client) close() { closeAll(c.requests, c.echoes) }

func closeAll(p *poller, all []int) {
	for _, fd := range all {
		reset(fd)
	}
	if p != nil {
		p.close()
	}
}

// openAll opens n connections and waits until they stand.
func openAll(e ends, n int) (*poller, []int, error) {
	p, err := newPoller()
	if err != nil {
		return nil, nil, err
	}
	var all []int
	for i := range n {
		from, to := e.of(i)
		fd, err := dial(unix.SOCK_STREAM, from, to)
		if err != nil {
			return p, all, err
		}
		all = append(all, fd)
		if err := stands(fd, to); err != nil {
			return p, all, err
		}
		_ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
		if err := p.add(fd, unix.EPOLLIN); err != nil {
			return p, all, err
		}
	}
	return p, all, nil
}

// request sends requests as fast as they are answered, one at a time on each
// connection, and returns how many were answered a second.
func (c *client) request(d time.Duration) (float64, error) {
	buffer := make([]byte, requestSize)
	started := time.Now()
	for _, fd := range c.echoes {
		if _, err := unix.Write(fd, buffer); err != nil {
			return 0, fmt.Errorf("send request: %w", err)
		}
	}
	answered := 0
	for open := len(c.echoes); open > 0; {
		ready, err := c.requests.wait(patience)
		if err != nil {
			return 0, err
		}
		if len(ready) == 0 {
			return 0, fmt.Errorf("%d requests have no answer after %s", open, patience)
		}
		over := time.Since(started) >= d
		for _, r := range ready {
			n, err := unix.Read(int(r.Fd), buffer)
			if n != requestSize {
				return 0, fmt.Errorf("read reply: %d bytes: %w", n, errors.Join(err, unix.EBADMSG))
			}
			answered++
			if over {
				open--
				continue
			}
			if _, err := unix.Write(int(r.Fd), buffer); err != nil {
				return 0, fmt.Errorf("send request: %w", err)
			}
		}
	}
	return float64(answered) / time.Since(started).Seconds(), nil
}

// latency sends requests at a rate a second whether or not others have been
// answered, and returns how long each took since it was due: a request that
// could not be sent in time has waited too.
func (c *client) latency(d time.Duration, rate float64) ([]time.Duration, error) {
	interval := time.Duration(float64(time.Second) / rate)
	timer, err := unix.TimerfdCreate(unix.CLOCK_MONOTONIC, unix.TFD_NONBLOCK|unix.TFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("open timer: %w", err)
	}
	defer func() { _ = unix.Close(timer) }()
	every := unix.NsecToTimespec(interval.Nanoseconds())
	started := time.Now()
	if err := unix.TimerfdSettime(timer, 0, &unix.ItimerSpec{Interval: every, Value: every}, nil); err != nil {
		return nil, fmt.Errorf("set timer: %w", err)
	}
	if err := c.requests.add(timer, unix.EPOLLIN); err != nil {
		return nil, err
	}
	defer c.requests.remove(timer)
	var (
		total   = int(float64(d) / float64(interval))
		sent    int
		took    = make([]time.Duration, 0, total)
		due     = map[int][]time.Time{} // by connection, in the order of sending
		buffer  = make([]byte, 64*requestSize)
		partial = map[int]int{}
	)
	for len(took) < total {
		ready, err := c.requests.wait(patience)
		if err != nil {
			return nil, err
		}
		if len(ready) == 0 {
			return nil, fmt.Errorf("%d requests have no answer after %s", sent-len(took), patience)
		}
		for _, r := range ready {
			fd := int(r.Fd)
			n, err := unix.Read(fd, buffer)
			if n <= 0 {
				return nil, fmt.Errorf("read reply: %w", errors.Join(err, unix.EBADMSG))
			}
			if fd == timer {
				for range min(int(binary.NativeEndian.Uint64(buffer)), total-sent) {
					to := c.echoes[sent%len(c.echoes)]
					sent++
					due[to] = append(due[to], started.Add(time.Duration(sent)*interval))
					if _, err := unix.Write(to, buffer[:requestSize]); err != nil {
						return nil, fmt.Errorf("send request: %w", err)
					}
				}
				continue
			}
			now := time.Now()
			partial[fd] += n
			for ; partial[fd] >= requestSize; partial[fd] -= requestSize {
				took = append(took, now.Sub(due[fd][0]))
				due[fd] = due[fd][1:]
			}
		}
	}
	return took, nil
}

// floodsAtOnce is enough to reach both backends.
const floodsAtOnce = 2

// flood takes what comes and returns bits a second. What is read is thrown
// away in the kernel (MSG_TRUNC, tcp(7)): copying it costs the same on every
// path. The connections are new: on one that nobody read from for a while the
// sender has learnt to wait.
func flood(e ends, streams int, d time.Duration) (float64, error) {
	p, all, err := openAll(e, streams)
	defer func() { closeAll(p, all) }()
	if err != nil {
		return 0, err
	}
	if _, err := drain(p, d/5); err != nil { // until their windows are open
		return 0, err
	}
	started := time.Now()
	n, err := drain(p, d)
	return float64(n) * 8 / time.Since(started).Seconds(), err
}

func drain(p *poller, d time.Duration) (int, error) {
	buffer := make([]byte, 1<<20)
	total := 0
	for started := time.Now(); time.Since(started) < d; {
		ready, err := p.wait(patience)
		if err != nil {
			return 0, err
		}
		if len(ready) == 0 {
			return 0, fmt.Errorf("nothing comes for %s", patience)
		}
		for _, r := range ready {
			n, _, err := unix.Recvfrom(int(r.Fd), buffer, unix.MSG_TRUNC)
			if n <= 0 {
				return 0, fmt.Errorf("read flood: %w", errors.Join(err, unix.EBADMSG))
			}
			total += n
		}
	}
	return total, nil
}
