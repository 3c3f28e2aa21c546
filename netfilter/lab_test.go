package netfilter

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"

	"github.com/splitd/splitd/internal/nettest"
	"github.com/splitd/splitd/traffic"
)

// Who answered: each server says its letter to whoever connects.
const (
	fromLocal = 'L' // on the router, at the service's own address
	fromOld   = 'O'
	fromNew   = 'N'
)

// splitLab is clients, the router that splits, and two hosts behind it, both
// families everywhere.
//
//	client 192.0.2.100-103 - 192.0.2.25 router 10.0.1.1 - 10.0.1.11 old
//	                                           10.0.2.1 - 10.0.2.12 new
type splitLab struct {
	t                        testing.TB
	client, router, old, new *nettest.NS
	kernel                   *Kernel
	clock                    *fakeClock
}

type fakeClock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *fakeClock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *fakeClock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

func newSplitLab(t testing.TB) *splitLab {
	t.Helper()
	lab := &splitLab{
		t: t, client: nettest.New(t, "client"), router: nettest.New(t, "router"),
		old: nettest.New(t, "old"), new: nettest.New(t, "new"), clock: &fakeClock{now: time.Unix(1_800_000_000, 0)},
	}
	nettest.Link(t, lab.client, "eth0",
		[]string{
			"192.0.2.100/24", "192.0.2.101/24", "192.0.2.102/24", "192.0.2.103/24",
			"2001:db8::100/64", "2001:db8::101/64", "2001:db8::102/64", "2001:db8::103/64",
		},
		lab.router, "eth0", []string{"192.0.2.25/24", "192.0.2.1/24", "2001:db8::25/64", "2001:db8::1/64"})
	nettest.Link(t, lab.router, "eth1", []string{"10.0.1.1/24", "2001:db8:1::1/64"}, lab.old, "eth0", []string{"10.0.1.11/24", "2001:db8:1::11/64"})
	nettest.Link(t, lab.router, "eth2", []string{"10.0.2.1/24", "2001:db8:2::1/64"}, lab.new, "eth0", []string{"10.0.2.12/24", "2001:db8:2::12/64"})
	lab.client.Route("0.0.0.0/0", "192.0.2.1")
	lab.client.Route("::/0", "2001:db8::1")
	for _, behind := range []struct {
		ns         *nettest.NS
		via4, via6 string
	}{{lab.old, "10.0.1.1", "2001:db8:1::1"}, {lab.new, "10.0.2.1", "2001:db8:2::1"}} {
		behind.ns.Route("0.0.0.0/0", behind.via4)
		behind.ns.Route("::/0", behind.via6)
	}
	lab.router.Sysctl("net/ipv4/ip_forward", "1")
	lab.router.Sysctl("net/ipv6/conf/all/forwarding", "1")
	lab.kernel = lab.open()
	return lab
}

// open makes a new Kernel, as a daemon that was started again does.
func (lab *splitLab) open() *Kernel {
	lab.t.Helper()
	return lab.openWith(labSettings)
}

func (lab *splitLab) openWith(settings Settings) *Kernel {
	lab.t.Helper()
	if lab.kernel != nil {
		_ = lab.kernel.Close()
	}
	var k *Kernel
	lab.router.Do(func() (err error) {
		k, err = Open(Options{Settings: settings, About: About{StateDir: "/var/lib/splitd"}, Log: slog.New(slog.DiscardHandler), Now: lab.clock.Now})
		return err
	})
	lab.t.Cleanup(func() { _ = k.Close() })
	return k
}

func (lab *splitLab) serveAll() {
	lab.serve(lab.router, fromLocal, ":25")
	lab.serve(lab.old, fromOld, ":25")
	lab.serve(lab.new, fromNew, ":25")
	lab.serve(lab.new, fromNew, ":2525")
}

// serve answers every connection with the letter and keeps it open, echoing,
// until the client ends it.
func (lab *splitLab) serve(ns *nettest.NS, letter byte, address string) {
	lab.t.Helper()
	ns.Serve("tcp", address, func(c net.Conn) {
		buffer := []byte{letter}
		for n, err := 1, error(nil); err == nil; n, err = c.Read(buffer) {
			if _, err := c.Write(buffer[:n]); err != nil {
				return
			}
		}
	})
}

// serveUDP answers every datagram with the letter, from each of the addresses:
// a server on a wildcard would answer from another than was asked.
func (lab *splitLab) serveUDP(ns *nettest.NS, letter byte, addresses ...string) {
	lab.t.Helper()
	for _, address := range addresses {
		var c net.PacketConn
		ns.Do(func() (err error) { c, err = net.ListenPacket("udp", address); return err })
		lab.t.Cleanup(func() { _ = c.Close() })
		go func() {
			buffer := make([]byte, 1)
			for {
				_, from, err := c.ReadFrom(buffer)
				if err != nil {
					return
				}
				_, _ = c.WriteTo([]byte{letter}, from)
			}
		}()
	}
}

// serveDNS does so at port 53 everywhere.
func (lab *splitLab) serveDNS() {
	lab.serveUDP(lab.router, fromLocal, "192.0.2.25:53", "[2001:db8::25]:53")
	lab.serveUDP(lab.old, fromOld, "10.0.1.11:53", "[2001:db8:1::11]:53")
	lab.serveUDP(lab.new, fromNew, "10.0.2.12:53", "[2001:db8:2::12]:53")
}

// split is a service on port 25, local here and on the new host, both
// families.
func localSplit(generation traffic.Generation, weight traffic.Weight) traffic.Split {
	return traffic.Split{
		Name: "mx", Generation: generation, Mode: traffic.ModeKernel, Return: traffic.ReturnPolicy,
		Service: traffic.Service{
			Addresses: []netip.Addr{netip.MustParseAddr("192.0.2.25"), netip.MustParseAddr("2001:db8::25")},
			Ports:     []traffic.Port{{Number: 25, Transport: traffic.TCP}},
		},
		Primary: traffic.Backend{Name: "old", Local: true},
		Candidates: []traffic.Backend{{
			Name: "new", Weight: weight,
			Addresses: addresses("10.0.2.12", "2001:db8:2::12"),
		}},
	}
}

// remoteSplit has its primary on the old host.
func remoteSplit(generation traffic.Generation, weight traffic.Weight) traffic.Split {
	s := localSplit(generation, weight)
	s.Primary = traffic.Backend{Name: "old", Addresses: addresses("10.0.1.11", "2001:db8:1::11")}
	return s
}

func addresses(texts ...string) []traffic.Address {
	var all []traffic.Address
	for _, text := range texts {
		if ap, err := netip.ParseAddrPort(text); err == nil {
			all = append(all, traffic.Address{IP: ap.Addr(), Port: ap.Port()})
		} else {
			all = append(all, traffic.Address{IP: netip.MustParseAddr(text)})
		}
	}
	return all
}

func (lab *splitLab) apply(splits ...traffic.Split) (changed bool) {
	lab.t.Helper()
	lab.router.Do(func() (err error) {
		changed, err = lab.kernel.Apply(lab.t.Context(), splits, nil)
		return err
	})
	return changed
}

func (lab *splitLab) setWeights(splits ...traffic.Split) {
	lab.t.Helper()
	lab.router.Do(func() error { return lab.kernel.SetWeights(lab.t.Context(), splits...) })
}

func (lab *splitLab) read() (states map[string]SplitState) {
	lab.t.Helper()
	lab.router.Do(func() (err error) { states, err = lab.kernel.Read(lab.t.Context()); return err })
	return states
}

func (lab *splitLab) differences(splits ...traffic.Split) (lines []string) {
	lab.t.Helper()
	lab.router.Do(func() (err error) { lines, err = lab.kernel.Differences(lab.t.Context(), splits, nil); return err })
	return lines
}

// generation is the number of the ruleset: it counts every transaction.
func (lab *splitLab) generation() uint32 {
	lab.t.Helper()
	var gen *nftables.Gen
	lab.router.Do(func() error {
		conn, err := nftables.New()
		if err == nil {
			gen, err = conn.GetGen()
		}
		return err
	})
	return gen.ID
}

// dial connects from the client's host; the answer is who served.
func (lab *splitLab) dial(address string) (net.Conn, byte) {
	lab.t.Helper()
	var c net.Conn
	var letter byte
	lab.client.Do(func() (err error) { c, letter, err = dialOnce(address); return err })
	lab.t.Cleanup(func() { _ = c.Close() })
	return c, letter
}

func dialOnce(address string) (net.Conn, byte, error) {
	c, err := net.DialTimeout("tcp", address, 10*time.Second)
	if err != nil {
		return nil, 0, err
	}
	letter := make([]byte, 1)
	_ = c.SetReadDeadline(time.Now().Add(10 * time.Second))
	if _, err := io.ReadFull(c, letter); err != nil {
		_ = c.Close()
		return nil, 0, fmt.Errorf("read who answers: %w", err)
	}
	_ = c.SetReadDeadline(time.Time{})
	return c, letter[0], nil
}

// answers counts who answered, and the connections that failed.
type answers struct {
	by     map[byte]int
	failed []error
}

// load opens n connections, or connections until stop is closed when n is 0,
// from a few threads inside the client's namespace. Connections end with a
// reset, which leaves no TIME_WAIT behind.
func (lab *splitLab) load(n int, stop <-chan struct{}, targets ...string) answers {
	lab.t.Helper()
	workers := 4
	if n == 0 {
		workers = 2 // leaves some of two cores for who changes the rules
	}
	var mu sync.Mutex
	var group sync.WaitGroup
	total := answers{by: map[byte]int{}}
	for w := range workers {
		group.Go(func() {
			mine := answers{by: map[byte]int{}}
			err := lab.client.NS.Do(func() error {
				mine.run((n+workers-1-w)/workers, n == 0, stop, targets)
				return nil
			})
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				mine.failed = append(mine.failed, err)
			}
			for letter, count := range mine.by {
				total.by[letter] += count
			}
			total.failed = append(total.failed, mine.failed...)
		})
	}
	group.Wait()
	return total
}

// atOnce is how many connections a worker opens before it waits for their
// answers: fewer wakings of threads than one at a time.
const atOnce = 32

func (a *answers) run(n int, endless bool, stop <-chan struct{}, targets []string) {
	for i := 0; endless || i < n; {
		select {
		case <-stop:
			return
		default:
		}
		var open []unix.PollFd
		for ; len(open) < atOnce && (endless || i < n); i++ {
			fd, err := begin(targets[i%len(targets)], byte(100+i/2%4))
			if err != nil {
				a.failed = append(a.failed, err)
				continue
			}
			open = append(open, unix.PollFd{Fd: int32(fd), Events: unix.POLLIN})
		}
		a.collect(open)
	}
}

// collect reads who answers on each of the connections and resets them.
func (a *answers) collect(open []unix.PollFd) {
	deadline := time.Now().Add(10 * time.Second)
	for len(open) > 0 {
		_, err := unix.Poll(open, max(0, int(time.Until(deadline).Milliseconds())))
		if err != nil && !errors.Is(err, unix.EINTR) || time.Now().After(deadline) {
			err = fmt.Errorf("wait for who answers: %w", cmp.Or(err, os.ErrDeadlineExceeded))
		} else {
			err = nil
		}
		open = slices.DeleteFunc(open, func(p unix.PollFd) bool {
			if p.Revents == 0 && err == nil {
				return false
			}
			letter, readErr := finish(int(p.Fd))
			if readErr != nil {
				a.failed = append(a.failed, cmp.Or(err, readErr))
				return true
			}
			a.by[letter]++
			return true
		})
	}
}

// begin connects without waiting, with system calls: the goroutine owns its
// thread anyway. A target that begins with "udp:" is sent a byte. Clients have
// the addresses 192.0.2.100 to .103 and 2001:db8::100 to ::103.
func begin(target string, host byte) (fd int, err error) {
	address, udp := strings.CutPrefix(target, "udp:")
	kind := unix.SOCK_STREAM
	if udp {
		kind = unix.SOCK_DGRAM
	}
	return connect(netip.MustParseAddrPort(address), kind, host)
}

func connect(to netip.AddrPort, kind int, host byte) (fd int, err error) {
	family := unix.AF_INET6
	source := netip.MustParseAddr(fmt.Sprintf("2001:db8::%d", host))
	var from, target unix.Sockaddr = &unix.SockaddrInet6{Addr: source.As16()}, &unix.SockaddrInet6{Addr: to.Addr().As16(), Port: int(to.Port())}
	if to.Addr().Is4() {
		family = unix.AF_INET
		from, target = &unix.SockaddrInet4{Addr: [4]byte{192, 0, 2, host}}, &unix.SockaddrInet4{Addr: to.Addr().As4(), Port: int(to.Port())}
	}
	fd, err = unix.Socket(family, kind|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return 0, fmt.Errorf("socket: %w", err)
	}
	err = errors.Join(
		unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1}),
		unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1),
		unix.Bind(fd, from))
	if err == nil {
		err = unix.Connect(fd, target)
	}
	switch {
	case kind == unix.SOCK_STREAM && errors.Is(err, unix.EINPROGRESS):
		return fd, nil
	case kind == unix.SOCK_DGRAM && err == nil:
		if _, err = unix.Write(fd, []byte("?")); err == nil {
			return fd, nil
		}
	}
	_ = unix.Close(fd)
	return 0, fmt.Errorf("connect: %w", cmp.Or(err, errors.New("at once, which no other host can")))
}

// finish reads who answers and resets the connection.
func finish(fd int) (letter byte, err error) {
	defer func() { _ = unix.Close(fd) }()
	answer := make([]byte, 1)
	if n, err := unix.Read(fd, answer); n != 1 {
		return 0, fmt.Errorf("read who answers: %w", cmp.Or(err, io.ErrUnexpectedEOF))
	}
	return answer[0], nil
}

// echoes says whether the connection still works.
func echoes(c net.Conn) error {
	if _, err := c.Write([]byte("x")); err != nil {
		return err
	}
	_ = c.SetReadDeadline(time.Now().Add(5 * time.Second))
	answer := make([]byte, 1)
	if _, err := io.ReadFull(c, answer); err != nil {
		return err
	}
	if answer[0] != 'x' {
		return errors.New("another answer than what was sent")
	}
	return nil
}

const (
	service25v4 = "192.0.2.25:25"
	service25v6 = "[2001:db8::25]:25"
	service53v4 = "udp:192.0.2.25:53"
	service53v6 = "udp:[2001:db8::25]:53"
)
