package splitter

import (
	"net"
	"net/netip"
	"sync/atomic"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/splitd/splitd/internal/nettest"
)

// A datagram there and its reply back, one at a time; beside it the same without
// a relay, and with sixteen clients at once.
func BenchmarkDatagramExchange(b *testing.B) {
	ip := families()["IPv4"]
	server := mirrorOf(b, ip)
	service := netip.AddrPortFrom(ip, freePort())
	startRelay(b, Options{}, ofUDP(newSplit("mx", service, server, nil)))
	question := make([]byte, 60)
	exchange := func(b *testing.B, c *net.UDPConn, answer []byte) {
		if _, err := c.Write(question); err != nil {
			b.Error(err)
			return
		}
		if _, err := c.Read(answer); err != nil {
			b.Error(err)
		}
	}
	for name, to := range map[string]netip.AddrPort{"relay": service, "direct": server} {
		b.Run(name, func(b *testing.B) {
			c, answer := speak(b, to), make([]byte, 100)
			for b.Loop() {
				exchange(b, c.UDPConn, answer)
			}
		})
		b.Run(name+"/sixteen", func(b *testing.B) {
			b.SetParallelism(8)
			b.RunParallel(func(pb *testing.PB) {
				c, answer := speak(b, to), make([]byte, 100)
				for pb.Next() {
					exchange(b, c.UDPConn, answer)
				}
			})
		})
	}
}

// A flow of its own for each question, as name servers have it.
func BenchmarkDatagramFlow(b *testing.B) {
	ip := families()["IPv4"]
	service := netip.AddrPortFrom(ip, freePort())
	split := ofUDP(newSplit("mx", service, mirrorOf(b, ip), nil))
	split.UDPTimeout = 1e9
	startRelay(b, Options{}, split)
	question, answer := make([]byte, 60), make([]byte, 100)
	for b.Loop() {
		c, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(service))
		if err != nil {
			b.Fatal(err)
		}
		if _, err := c.Write(question); err != nil {
			b.Fatal(err)
		}
		if _, err := c.Read(answer); err != nil {
			b.Fatal(err)
		}
		_ = c.Close()
	}
}

// mirrorOf is a server that gives batches back as they are: cheaper than what is
// measured.
func mirrorOf(b *testing.B, ip netip.Addr) netip.AddrPort {
	b.Helper()
	at := spot{netip.AddrPortFrom(ip, freePort()), "udp"}
	sockets, err := listen(at, 1, false)
	if err != nil {
		b.Fatal(err)
	}
	stop, done := make(chan struct{}), make(chan struct{})
	b.Cleanup(func() {
		close(stop)
		<-done
		closeAll(sockets)
	})
	go func() {
		defer close(done)
		all, keys := newBatch(batchMost, 2048), [batchMost]talker{}
		all.empty(batchMost, true)
		for {
			select {
			case <-stop:
				return
			default:
			}
			if n, _ := unix.Poll([]unix.PollFd{{Fd: int32(sockets[0]), Events: unix.POLLIN}}, 100); n < 1 {
				continue
			}
			n, _ := system{}.take(sockets[0], all, 0)
			for i := range n {
				from, _ := all.from(i)
				keys[i] = newTalker(from, at.AddrPort, 0)
				all.reply(i, &keys[i], false)
			}
			_, _ = system{}.give(sockets[0], all, 0, n)
			all.empty(n, true)
		}
	}()
	return at.AddrPort
}

// talliedEdge counts the calls for datagrams.
type talliedEdge struct {
	system
	takes, gives, sockets *atomic.Int64
}

func (e talliedEdge) take(socket int, into *batch, first int) (int, syscall.Errno) {
	e.takes.Add(1)
	return e.system.take(socket, into, first)
}

func (e talliedEdge) give(socket int, of *batch, first, last int) (int, syscall.Errno) {
	e.gives.Add(1)
	return e.system.give(socket, of, first, last)
}

func (e talliedEdge) associate(to *endpoint) (int, syscall.Errno) {
	e.sockets.Add(1)
	return e.system.associate(to)
}

// What a busy machine cannot blur: how often the kernel is called.
func TestAnExchangeOfDatagramsCostsFourCallsAndManyAtOnceLess(t *testing.T) {
	ip := families()["IPv4"]
	old := answersAnywhere(t, ip, "old")
	service := netip.AddrPortFrom(ip, freePort())
	var takes, gives, sockets atomic.Int64
	r := startRelay(t, Options{Workers: 1, edge: func() edge { return talliedEdge{takes: &takes, gives: &gives, sockets: &sockets} }},
		ofUDP(newSplit("mx", service, old.at, nil)))
	c := speak(t, service)
	const exchanges = 100
	for range exchanges {
		c.wantFrom("old")
	}
	if takes.Load() != 2*exchanges || gives.Load() != 2*exchanges || sockets.Load() != 1 {
		t.Errorf("%d exchanges took %d times, gave %d times and made %d sockets; want twice, twice and one",
			exchanges, takes.Load(), gives.Load(), sockets.Load())
	}
	held := make(chan struct{})
	r.workers[0].post(func() { <-held })
	before := takes.Load()
	for range exchanges {
		c.say("?")
	}
	close(held)
	nettest.Eventually(t, "the backend has all", func() bool { return r.numbers("old").In == exchanges*uint64(len("who?"))+exchanges })
	if n := takes.Load() - before; n > exchanges/batchMost+2 {
		t.Errorf("%d datagrams that waited were taken %d times, %d at once are possible", exchanges, n, batchMost)
	}
}
