package splitter

import (
	"bytes"
	"io"
	"net"
	"net/netip"
	"runtime"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/splitd/splitd/internal/nettest"
	"github.com/splitd/splitd/traffic"
)

// shortEdge has no memory for the first accepts.
type shortEdge struct {
	system
	left   int
	cause  syscall.Errno
	worker *worker
	tries  []int64 // the ticks at which its worker has tried to accept
}

func (s *shortEdge) accept(listener int) (int, netip.AddrPort, syscall.Errno) {
	s.tries = append(s.tries, s.worker.now)
	if s.left--; s.left >= 0 {
		return 0, netip.AddrPort{}, s.cause
	}
	return s.system.accept(listener)
}

func TestAcceptGoesOnAfterAShortageThatPasses(t *testing.T) {
	for _, cause := range []syscall.Errno{unix.ENOBUFS, unix.ENOMEM, unix.ENFILE} {
		t.Run(cause.Error(), func(t *testing.T) {
			ip := families()["IPv4"]
			service := netip.AddrPortFrom(ip, freePort())
			short := &shortEdge{cause: cause, left: 4}
			r := startRelay(t, Options{Workers: 1, edge: func() edge { return short }}, newSplit("mx", service, startServer(t, ip, echo), nil))
			r.inspect(func(w *worker) { short.worker = w })
			exchange(t, dial(t, service), "served in the end")
			r.inspect(func(*worker) {
				for i, pause := range []int64{5, 10, 20, 40} {
					if after := short.tries[i+1] - short.tries[i]; after < pause {
						t.Errorf("accept was tried again %d ticks after error %d, before its pause of %d was over", after, i, pause)
					}
				}
			})
			if got := r.Faults().Accepts; got != 4 {
				t.Errorf("%d accept errors were counted, want 4", got)
			}
		})
	}
}

// Their backends do not even accept: the connections wait in the kernel.
func TestFiveThousandSilentClientsHinderNobody(t *testing.T) {
	ip := families()["IPv4"]
	service := netip.AddrPortFrom(ip, freePort())
	splits := []traffic.Split{newSplit("mx", service, startServer(t, ip, echo), nil)}
	var silent []netip.AddrPort
	for _, name := range []string{"a", "b"} {
		at := netip.AddrPortFrom(ip, freePort())
		sockets, err := listen(tcpSpot(at), 1, false)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { closeAll(sockets) })
		silent = append(silent, netip.AddrPortFrom(ip, freePort()))
		splits = append(splits, newSplit(name, silent[len(silent)-1], at, nil))
	}
	counting := &countingEdge{}
	r := startRelay(t, Options{edge: func() edge { return counting }}, splits...)
	goroutines := runtime.NumGoroutine()
	const clients, speakers, callsOfOne = 5000, 200, 20
	for i := range clients {
		dialFrom(t, netip.AddrFrom4([4]byte{127, 0, 1, byte(i % 250)}), silent[i%len(silent)])
	}
	nettest.Eventually(t, "all have a flow", func() bool {
		flows := uint64(0)
		for _, c := range r.Counts() {
			flows += c.Flows
		}
		return flows == clients
	})
	if n := runtime.NumGoroutine() - goroutines; n > 20 {
		t.Errorf("%d goroutines for %d flows", n, clients)
	}
	before := counting.calls.Load()
	for range speakers {
		c := dial(t, service)
		exchange(t, c, "one that speaks")
		abortConn(c)
	}
	if calls := counting.calls.Load() - before; calls > speakers*callsOfOne {
		t.Errorf("%d calls of the data path for %d speakers beside %d silent clients, want none for those", calls, speakers, clients)
	}
}

// The client's kernel drops what comes for it, so that nothing is acknowledged:
// as if its host had gone.
func TestAPeerThatIsGoneIsGivenUpInTime(t *testing.T) {
	r, connect := startPairs(t, families()["IPv4"], func(p *traffic.Proxy) { p.PeerTimeout = 500 * time.Millisecond })
	p, bystander := connect(t), connect(t)
	r.inspect(func(w *worker) {
		w.flows.each(func(f *flow) {
			if ms, err := unix.GetsockoptInt(int(f.sockets[client]), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT); ms != 500 {
				t.Errorf("the kernel gives a client up after %d ms, %v, its time is 500 ms", ms, err)
			}
		})
	})
	deafen(t, p.client)
	if _, err := p.server.Write([]byte("are you there?")); err != nil {
		t.Fatal(err)
	}
	awaitReset(t, p.server)
	if err := talk(bystander.client, bystander.server); err != nil {
		t.Errorf("another flow: %v", err)
	}
	nettest.Eventually(t, "only the other flow is active", func() bool { return r.numbers("old").Active == 1 })
}

// deafen drops all that comes for the connection: a filter that takes 0 bytes.
func deafen(t *testing.T, c *net.TCPConn) {
	t.Helper()
	raw, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	program := []unix.SockFilter{{Code: unix.BPF_RET | unix.BPF_K}}
	var failure error
	err = raw.Control(func(fd uintptr) {
		failure = unix.SetsockoptSockFprog(int(fd), unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: 1, Filter: &program[0]})
	})
	if err != nil || failure != nil {
		t.Fatal(err, failure)
	}
}

// A peer that reads nothing stops the other, which sends without end: what flows
// may hold does not grow, and no more pipes are open than there may be, however
// many of them stream. Each reads until its flow streams, however slow the machine
// is.
func TestBytesWithoutEndForWhoReadsNothingFillNoMemory(t *testing.T) {
	ip := families()["IPv4"]
	chunk := bytes.Repeat([]byte("without end "), 10_000)
	endless := func(_ *testing.T, c *net.TCPConn, _ <-chan struct{}) {
		_ = c.SetWriteBuffer(256 << 10)
		for {
			if _, err := c.Write(chunk); err != nil {
				return
			}
		}
	}
	deaf := func(t *testing.T, c *net.TCPConn, streaming <-chan struct{}) {
		defer abortConn(c)
		readUntil(c, streaming)
		_ = c.SetReadBuffer(4 << 10)
		<-t.Context().Done()
	}
	for name, test := range map[string]struct {
		weight         traffic.Weight
		client, server func(*testing.T, *net.TCPConn, <-chan struct{})
		flows          int
	}{
		"replies of the primary":                {0, deaf, endless, 20},
		"replies of a candidate":                {traffic.Whole, deaf, endless, 20},
		"an upload to the primary":              {0, endless, deaf, 20},
		"more streams than there may be pipes":  {0, deaf, endless, 2 * pipesOfAll},
		"uploads to a candidate that hears all": {traffic.Whole, endless, deaf, 20},
	} {
		t.Run(name, func(t *testing.T) {
			streaming := make(chan struct{})
			service, server := netip.AddrPortFrom(ip, freePort()), startServer(t, ip, func(c *net.TCPConn) { test.server(t, c, streaming) })
			split := newSplit("mx", service, server, map[string]candidate{"new": {server, test.weight}})
			if test.weight == 0 {
				split = newSplit("mx", service, server, nil)
			} else {
				split.Primary = remote("old", closedPort(ip))
			}
			r := startRelay(t, Options{Workers: 2}, split)
			streamed := map[*flow]bool{}
			before := liveHeap()
			for i := range test.flows {
				c := dial(t, service)
				go test.client(t, c, streaming)
				r.awaitStreams(i+1, streamed)
				streaming <- struct{}{} // to its sink: all others have stopped
			}
			r.awaitFull(test.flows)
			if grown := int64(liveHeap()) - int64(before); grown > int64(test.flows)*2*bufferSize+1<<20 {
				t.Errorf("%d flows hold %d KiB", test.flows, grown>>10)
			}
			pipes := 0
			r.inspect(func(w *worker) { pipes += w.pipes.open })
			if pipes > pipesOfAll || pipes == 0 {
				t.Errorf("%d pipes are open, at most %d may be, and some should", pipes, pipesOfAll)
			}
			if lack := r.Faults().Splices; (lack > 0) != (test.flows > pipesOfAll) {
				t.Errorf("with %d streams a pipe was lacking %d times", test.flows, lack)
			}
		})
	}
}

// readUntil reads what comes until it is told that this is over, or all ends.
func readUntil(c *net.TCPConn, over <-chan struct{}) {
	piece := make([]byte, 16<<10)
	for {
		select {
		case <-over:
			return
		default:
		}
		if _, err := c.Read(piece); err != nil {
			return
		}
	}
}

// awaitStreams waits until each of so many flows has been spliced, or would have
// been if there were a pipe, and adds them to those that were seen to.
func (r *testRelay) awaitStreams(flows int, streamed map[*flow]bool) {
	r.t.Helper()
	nettest.Eventually(r.t, "all have streamed", func() bool {
		r.eachWay(func(f *flow, w way) {
			if w.splice || w.lacking {
				streamed[f] = true
			}
		})
		return len(streamed) == flows
	}, func() any { return len(streamed) })
}

// awaitFull waits until each of so many flows holds what its sink does not take, and
// nothing moves.
func (r *testRelay) awaitFull(flows int) {
	r.t.Helper()
	last, still, stuck := uint64(0), 0, 0
	nettest.Eventually(r.t, "all is full", func() bool {
		stuck = 0
		r.eachWay(func(_ *flow, w way) {
			if w.held > 0 && !w.writable {
				stuck++
			}
		})
		moved := uint64(0)
		for _, c := range r.Counts() {
			moved += *c.BytesIn + *c.BytesOut
		}
		if still++; stuck != flows || moved != last {
			still = 0
		}
		last = moved
		return still == 100 // looks in a row
	}, func() any { return stuck })
}

// eachWay looks at both ways of all flows.
func (r *testRelay) eachWay(look func(*flow, way)) {
	r.inspect(func(w *worker) {
		w.flows.each(func(f *flow) {
			for _, way := range f.stream.ways {
				look(f, way)
			}
		})
	})
}

// liveHeap is what the heap holds after a collection, in bytes; what has a cleanup
// takes a second one.
func liveHeap() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// inTurn is a server that hears one client after the other to its end. What a
// goroutine for each would leave behind in Go's memory is not the relay's.
func inTurn(t *testing.T, ip netip.Addr) netip.AddrPort {
	t.Helper()
	at := netip.AddrPortFrom(ip, freePort())
	l, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(at))
	if err != nil {
		t.Fatal(err)
	}
	var serving sync.WaitGroup
	t.Cleanup(func() {
		_ = l.Close()
		serving.Wait()
	})
	serving.Go(func() {
		for {
			c, err := l.AcceptTCP()
			if err != nil {
				return
			}
			_, _ = io.Copy(io.Discard, c)
			abortConn(c)
		}
	})
	return at
}

func TestAResetStormOfFiftyThousandLeavesNothingBehind(t *testing.T) {
	storm := 50_000
	if testing.Short() {
		storm /= 10
	}
	ip := families()["IPv4"]
	service := netip.AddrPortFrom(ip, freePort())
	r := startRelay(t, Options{}, newSplit("mx", service, inTurn(t, ip), nil))
	exchangeless := func() {
		c, err := net.DialTCP("tcp", nil, net.TCPAddrFromAddrPort(service))
		if err == nil {
			_, _ = c.Write([]byte("never mind"))
			abortConn(c)
		}
	}
	for range 100 { // so that every worker has had some
		exchangeless()
	}
	nettest.Eventually(t, "the first are over", func() bool { return r.openFlows() == 0 })
	goroutines, files, lines := runtime.NumGoroutine(), len(openFiles(t)), len(r.logs.String())
	heap := liveHeap()
	var clients sync.WaitGroup
	for range 4 {
		clients.Go(func() {
			for range storm / 4 {
				exchangeless()
			}
		})
	}
	clients.Wait()
	nettest.Eventually(t, "goroutines and files are back at base", func() bool {
		return r.openFlows() == 0 && runtime.NumGoroutine() <= goroutines && len(openFiles(t)) <= files
	})
	nettest.Eventually(t, "memory is back at base", func() bool { return int64(liveHeap())-int64(heap) <= 1<<20 })
	if n := len(r.logs.String()) - lines; n > 20_000 {
		t.Errorf("the storm left %d bytes in the log", n)
	}
}
