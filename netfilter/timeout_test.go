package netfilter

import (
	"net"
	"testing"
	"time"

	"github.com/splitd/splitd/traffic"
)

// By the kernel's own timeouts, 30 s and 120 s, two hundred thousand questions a
// second would be millions of entries.
func TestUDPFlowsOfASplitExpireAfterItsOwnTimeout(t *testing.T) {
	lab := newSplitLab(t)
	lab.serveUDP(lab.new, fromNew, "10.0.2.12:53")
	s := remoteSplit(1, traffic.Whole)
	s.Service.Ports = []traffic.Port{{Number: 53, Transport: traffic.UDP}, {Number: 54, Transport: traffic.UDP}}
	s.UDPTimeout = 300 * time.Second
	lab.apply(s)
	const answered, unanswered, took = 300, 100, 60

	lab.ask("192.0.2.25:54") // nobody serves it
	if left := lab.timeLeft(54); left > unanswered || left < unanswered-took {
		t.Errorf("a flow without an answer ends in %d s, want %d at first", left, unanswered)
	}
	lab.eventually("a flow that is answered for some seconds lives longer", func() bool {
		lab.ask("192.0.2.25:53")
		return lab.timeLeft(53) > unanswered
	})
	if left := lab.timeLeft(53); left > answered || left < answered-took {
		t.Errorf("a flow with answers ends in %d s, want %d at first", left, answered)
	}
}

// ask sends a datagram, always from the same port, and waits a moment for the
// answer.
func (lab *splitLab) ask(address string) {
	lab.t.Helper()
	var c net.Conn
	lab.client.Do(func() (err error) {
		c, err = (&net.Dialer{LocalAddr: &net.UDPAddr{Port: 5353}}).Dial("udp", address)
		return err
	})
	defer func() { _ = c.Close() }()
	_ = c.SetDeadline(time.Now().Add(200 * time.Millisecond))
	if _, err := c.Write([]byte{'?'}); err != nil {
		lab.t.Fatal(err)
	}
	_, _ = c.Read(make([]byte, 1))
}

// timeLeft is how long the flow to a port has yet before conntrack forgets it,
// in seconds.
func (lab *splitLab) timeLeft(port uint16) (seconds uint32) {
	lab.t.Helper()
	lab.router.Do(func() error {
		conn, err := openConntrack()
		if err != nil {
			return err
		}
		defer func() { _ = conn.Close() }()
		flows, err := conn.Dump(nil)
		for _, f := range flows {
			if f.TupleOrig.Proto.DestinationPort == port {
				seconds = f.Timeout
			}
		}
		return err
	})
	return seconds
}
