package splitter

import (
	"net"
	"net/netip"
	"sync"
	"testing"

	"github.com/splitd/splitd/internal/nettest"
	"github.com/splitd/splitd/traffic"
)

// The candidate takes connections and no byte of them, while their clients send
// without end.
func TestACandidateThatAcceptsAndHangsCostsItsOwnFlowsAlone(t *testing.T) {
	ip := families()["IPv4"]
	service := netip.AddrPortFrom(ip, freePort())
	over := make(chan struct{})
	hangs := startServer(t, ip, func(c *net.TCPConn) {
		<-over
		abortConn(c)
	})
	t.Cleanup(func() { close(over) })
	split := newSplit("mx", service, startServer(t, ip, echo), map[string]candidate{"new": {hangs, traffic.Whole}})
	r := startRelay(t, Options{}, split)
	const flows = 20
	chunk := make([]byte, 1<<20)
	var uploads sync.WaitGroup
	var clients []*net.TCPConn
	for range flows {
		c := dial(t, service)
		clients = append(clients, c)
		uploads.Go(func() {
			for {
				if _, err := c.Write(chunk); err != nil {
					return
				}
			}
		})
	}
	last, still := uint64(0), 0
	nettest.Eventually(t, "all is full", func() bool {
		n := r.numbers("new")
		if still++; n.Flows < flows || n.In == 0 || n.In != last {
			still = 0
		}
		last = n.In
		return still == 100 // looks in a row
	})
	r.setWeights(split, map[string]traffic.Weight{"new": 0})
	for range 200 {
		c := dial(t, service)
		exchange(t, c, "one of the primary")
		abortConn(c)
	}
	if got := r.numbers("old"); got.Flows != 200 || got.Failed != 0 {
		t.Errorf("the primary: %+v, want 200 flows", got)
	}
	for _, c := range clients {
		abortConn(c)
	}
	uploads.Wait()
	nettest.Eventually(t, "those that hung have ended with their clients", func() bool { return r.openFlows() == 0 })
}
