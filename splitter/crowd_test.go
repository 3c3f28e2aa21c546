package splitter

import (
	"fmt"
	"net"
	"net/netip"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/splitd/splitd/internal/nettest"
	"github.com/splitd/splitd/traffic"
)

func TestFlowsOfUDPHaveAShareOfFilesAndPorts(t *testing.T) {
	for _, c := range []struct{ files, ports, want int64 }{
		{1_048_384, 28_232, 21_174}, {800, 28_232, 400}, {1, 28_232, 1}, {0, 28_232, 0}, {1000, 1, 1},
	} {
		if got := crowdFor(c.files, c.ports); got != c.want {
			t.Errorf("of %d files and %d ports: %d flows, want %d", c.files, c.ports, got, c.want)
		}
	}
	if err := setLocalPorts(30000, 30999); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := setLocalPorts(ephemeralFirst, 65000); err != nil {
			t.Error(err)
		}
	})
	if got := localPorts(); got != 1000 {
		t.Errorf("this host has %d ports, want 1000", got)
	}
}

// crowded is a relay that may have so many flows of UDP, of two splits.
type crowded struct {
	*testRelay
	mx, other   netip.AddrPort
	old, silent *answerer
	next        uint16
}

func startCrowded(t *testing.T, o Options, most int64) *crowded {
	t.Helper()
	ip := families()["IPv4"]
	service := func() netip.AddrPort { return netip.AddrPortFrom(ip, freePort()) }
	c := &crowded{mx: service(), other: service(), next: 40000}
	at := service()
	c.old, c.silent = answers(t, at, "o"), answersAnywhere(t, ip, "silent")
	startServerAt(t, at, greeter('o'))
	mx, other := newSplit("mx", c.mx, at, nil), ofUDP(newSplit("other", c.other, c.silent.at, nil))
	mx.Service.Ports = append(mx.Service.Ports, traffic.Port{Number: c.mx.Port(), Transport: traffic.UDP})
	o.crowd = most
	c.testRelay = startRelay(t, o, mx, other)
	return c
}

// source is a client at a port that nobody else is given.
func (c *crowded) source(to netip.AddrPort) speaker {
	c.t.Helper()
	c.next++
	from := &net.UDPAddr{IP: clientAt(byte(c.next>>8), byte(c.next)).AsSlice(), Port: int(c.next)}
	conn, err := net.DialUDP("udp", from, net.UDPAddrFromAddrPort(to))
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { _ = conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(testPatience)); err != nil {
		c.t.Fatal(err)
	}
	return speaker{c.t, conn}
}

// flood sends a datagram of so many sources, and waits until each has been looked at.
func (c *crowded) flood(sources int, text string) {
	c.t.Helper()
	before := c.numbers("old").In
	for range sources {
		s := c.source(c.mx)
		s.say(text)
		_ = s.Close()
	}
	nettest.Eventually(c.t, "all have come through", func() bool { return c.numbers("old").In == before+uint64(sources*len(text)) })
}

// Answered ones too: their sources may be invented as well.
func TestAFloodOfSourcesKeepsNobodyOutAndEndsNoFlowThatGoesOn(t *testing.T) {
	for _, text := range []string{"?unanswered", "answered"} {
		t.Run(text, func(t *testing.T) {
			const most, sources = 60, 1500
			c := startCrowded(t, Options{Workers: 2}, most)
			proven, waiting := c.source(c.mx), c.source(c.other)
			proven.wantFrom("o")
			proven.wantFrom("o")
			waiting.say("?a line of a log")
			nettest.Eventually(t, "it is there", func() bool { return c.silent.times("?a line of a log") == 1 })
			port := c.old.ports()
			for range sources / 50 {
				c.flood(50, text)
				proven.wantFrom("o")
				c.source(c.mx).wantFrom("o")
				if letter, err := greeting(c.mx); letter != 'o' || err != nil {
					t.Fatalf("a connection: %q, %v", letter, err)
				}
			}
			if port != 1 {
				t.Errorf("the first flow has had %d sockets", port)
			}
			if got := c.openFlows(); got > most+2 {
				t.Errorf("%d flows are open, of UDP there may be %d", got, most)
			}
			waiting.say("?another one")
			nettest.Eventually(t, "it is there", func() bool { return c.silent.times("?another one") == 1 })
			if n := c.silent.ports(); n != 1 {
				t.Errorf("the other split's flow has had %d sockets, want 1", n)
			}
			if got := c.Refusals()["mx"]; len(got) != 1 || got[traffic.RefusedCrowdedOut] < sources-most {
				t.Errorf("refusals %v, want that flows made room and nothing else", got)
			}
			if got := c.Faults(); got != (Faults{}) {
				t.Errorf("faults %+v", got)
			}
		})
	}
}

func TestFlowsThatGoOnMakeNoRoom(t *testing.T) {
	c := startCrowded(t, Options{Workers: 1}, 5)
	var all []speaker
	for range 5 {
		s := c.source(c.mx)
		s.wantFrom("o")
		s.wantFrom("o")
		all = append(all, s)
	}
	c.source(c.mx).say("?one too many")
	nettest.Eventually(t, "it is refused", func() bool { return c.Refusals()["mx"][traffic.RefusedNoPorts] == 1 })
	for _, s := range all {
		s.wantFrom("o")
	}
	c.End(c.OpenFlows(ofOld)[:1])
	c.source(c.mx).wantFrom("o")
	if n := c.old.times("?one too many"); n != 0 {
		t.Error("it has come through")
	}
}

func TestTheFlowThatHasBeenSilentForLongestMakesRoomFirst(t *testing.T) {
	c := startCrowded(t, Options{Workers: 1}, 3)
	first, second, third := c.source(c.mx), c.source(c.mx), c.source(c.mx)
	for i, s := range []speaker{first, second, third, first} {
		question := fmt.Sprint("?", i)
		s.say(question)
		nettest.Eventually(t, "it is there", func() bool { return c.old.times(question) == 1 })
	}
	c.source(c.mx).wantFrom("o")
	var left []netip.AddrPort
	c.inspect(func(w *worker) {
		w.flows.each(func(f *flow) { left = append(left, f.client) })
	})
	for _, s := range []speaker{first, third} {
		at := s.LocalAddr().(interface{ AddrPort() netip.AddrPort }).AddrPort()
		found := false
		for _, l := range left {
			found = found || l == at
		}
		if !found {
			t.Errorf("%s has made room; left are %v", at, left)
		}
	}
}

// portlessEdge has no local port for sockets of UDP while it is told so.
type portlessEdge struct {
	system
	none  *atomic.Bool
	asked *atomic.Int64
}

func (e *portlessEdge) associate(to *endpoint) (int, syscall.Errno) {
	if e.none.Load() {
		e.asked.Add(1)
		return 0, unix.EAGAIN
	}
	return e.system.associate(to)
}

// To look for one among 28,000 that are taken costs more than all else.
func TestWithoutLocalPortsTheRelaySeldomLooksForOne(t *testing.T) {
	var none atomic.Bool
	var asked atomic.Int64
	c := startCrowded(t, Options{Workers: 1, edge: func() edge { return &portlessEdge{none: &none, asked: &asked} }}, 1000)
	old := c.source(c.mx)
	old.wantFrom("o")
	old.wantFrom("o")
	none.Store(true)
	const sources = 2000
	for range sources {
		s := c.source(c.mx)
		s.say("?nothing")
		_ = s.Close()
	}
	nettest.Eventually(t, "all have been looked at", func() bool {
		return c.Refusals()["mx"][traffic.RefusedNoPorts]+c.Faults().Dials+c.Faults().Datagrams == sources
	})
	if got := asked.Load(); got > sources/10 {
		t.Errorf("of %d datagrams %d had a port looked for", sources, got)
	}
	old.wantFrom("o")
	if letter, err := greeting(c.mx); letter != 'o' || err != nil {
		t.Errorf("a connection: %q, %v", letter, err)
	}
	none.Store(false)
	nettest.Eventually(t, "there are flows again", func() bool {
		s := c.source(c.mx)
		s.say("?again")
		return c.numbers("old").Active > 1
	})
}
