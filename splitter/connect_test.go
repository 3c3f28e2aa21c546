package splitter

import (
	"errors"
	"io"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/splitd/splitd/internal/nettest"
	"github.com/splitd/splitd/traffic"
)

// The kernel sends a SYN again after a second: later than the connect timeout,
// which is meant for backends behind which there is another one.
func TestALostSYNToWhoeverIsTriedLastResetsNobody(t *testing.T) {
	for family, ip := range families() {
		for name, test := range map[string]struct {
			primary, candidate bool // have the listener
			fallback           traffic.Fallback
		}{
			"the primary alone":                  {primary: true, fallback: traffic.FallbackPrimary},
			"the primary after a candidate":      {primary: true, candidate: true, fallback: traffic.FallbackPrimary},
			"a candidate with nobody to fall to": {candidate: true, fallback: traffic.FallbackNone},
		} {
			t.Run(family+"/"+name, func(t *testing.T) {
				listener, at := fullListener(t, ip)
				service, primary := netip.AddrPortFrom(ip, freePort()), closedPort(ip)
				candidates := map[string]candidate{}
				if test.primary {
					primary = at
				}
				if test.candidate {
					candidates["new"] = candidate{closedPort(ip), traffic.Whole}
				}
				if !test.primary {
					candidates["new"] = candidate{at, traffic.Whole}
				}
				split := newSplit("mx", service, primary, candidates)
				split.Proxy.Fallback = test.fallback
				startRelay(t, Options{Workers: 1}, split)
				before := droppedSYNs(t)
				c := dial(t, service)
				nettest.Eventually(t, "its SYN is lost", func() bool { return droppedSYNs(t) > before })
				acceptFrom(t, listener) // who kept the queue full
				if _, err := unix.Write(acceptFrom(t, listener), []byte("served")); err != nil {
					t.Fatal(err)
				}
				got := make([]byte, len("served"))
				if _, err := io.ReadFull(c, got); err != nil {
					t.Errorf("the client got %q, %v", got, err)
				}
			})
		}
	}
}

// droppedSYNs is how many the kernel had no room for (ListenDrops in netstat of
// proc_pid_net(5)). The calling thread is asked: /proc/net is of the process's first
// one, which another test may have left in a namespace of its own.
func droppedSYNs(t *testing.T) int {
	t.Helper()
	text, err := os.ReadFile("/proc/thread-self/net/netstat")
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(string(text), "\n")
	n, err := strconv.Atoi(strings.Fields(lines[1])[slices.Index(strings.Fields(lines[0]), "ListenDrops")])
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// acceptFrom waits for a connection at a listener that the test has made.
func acceptFrom(t *testing.T, listener int) int {
	t.Helper()
	socket := -1
	nettest.Eventually(t, "a connection has come", func() bool {
		if _, err := unix.Poll([]unix.PollFd{{Fd: int32(listener), Events: unix.POLLIN}}, 10); err != nil && !errors.Is(err, unix.EINTR) {
			t.Fatal(err)
		}
		var err error
		socket, _, err = unix.Accept4(listener, unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK)
		return err == nil
	})
	t.Cleanup(func() { _ = unix.Close(socket) })
	return socket
}

// A worker that is late finds the timeout in the round in which it would have
// heard of the connection.
func TestACandidateThatIsConnectedInTimeServesThoughItsNewsCameLate(t *testing.T) {
	ip := families()["IPv4"]
	for name, test := range map[string]struct {
		answers bool
		target  string
		stage   stage
	}{
		"it is connected":    {true, "new", relaying},
		"there is no answer": {false, "old", connecting},
	} {
		t.Run(name, func(t *testing.T) {
			listener, at := fullListener(t, ip)
			service := netip.AddrPortFrom(ip, freePort())
			split := newSplit("mx", service, blackhole(t, ip), map[string]candidate{"new": {at, traffic.Whole}})
			split.Proxy.ConnectTimeout = time.Minute
			r := startRelay(t, Options{Workers: 1}, split)
			dial(t, service)
			nettest.Eventually(t, "the attempt waits", func() bool { return r.openFlows() == 1 })
			connected, seen := make(chan struct{}), make(chan struct{})
			r.workers[0].post(func() {
				defer close(seen)
				<-connected // of which nothing is heard meanwhile
				w := r.workers[0]
				var f *flow
				w.flows.each(func(one *flow) { f = one })
				now := w.now
				w.now = f.times.connect
				w.expired(f)
				w.now = now
				if f.stage != test.stage || f.target.name != test.target {
					t.Errorf("at its timeout the flow is at stage %d of %s, want %d of %s", f.stage, f.target.name, test.stage, test.target)
				}
			})
			if test.answers {
				acceptFrom(t, listener)
				acceptFrom(t, listener)
			}
			close(connected)
			<-seen
		})
	}
}
