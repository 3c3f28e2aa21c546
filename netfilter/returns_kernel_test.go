package netfilter

import (
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/nftables"

	"github.com/splitd/splitd/internal/nettest"
	"github.com/splitd/splitd/traffic"
)

const (
	client4, client6   = "192.0.2.100", "2001:db8::100"
	service4, service6 = "192.0.2.1:25", "[2001:db8::1]:25"
)

func TestRepliesGoBackThroughTheRouterByAddress(t *testing.T) {
	t.Parallel()
	lab := newReturnLab(t) // no other route to the client at all
	lab.serve("25")
	lab.translate("10.0.0.200", "fd00::200")
	lab.fails(lab.client, service4)
	lab.fails(lab.client, service6)
	lab.apply(byAddress()...)
	lab.reaches(lab.client, service4, client4)
	lab.reaches(lab.client, service6, client6)
	lab.cleanup()
	lab.fails(lab.client, service4)
	lab.fails(lab.client, service6)
}

func TestRepliesGoBackThroughTheRouterByMark(t *testing.T) {
	t.Parallel()
	lab := newReturnLab(t)
	lab.wrongWay()
	lab.serve("25")
	lab.translate("10.0.0.12", "fd00::12")
	lab.fails(lab.client, service4)
	lab.fails(lab.client, service6)
	lab.apply(byMark(traffic.Port{Number: 25, Transport: traffic.TCP})...)
	lab.reaches(lab.client, service4, client4)
	lab.reaches(lab.client, service6, client6)
	lab.cleanup()
	lab.fails(lab.client, service4)
	lab.fails(lab.client, service6)
}

func TestRepliesWithoutAWayAreDroppedAndLeaveByNoOther(t *testing.T) {
	t.Parallel()
	for name, paths := range map[string][]traffic.ReturnPath{"address": byAddress(), "mark": byMark()} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			lab := newReturnLab(t)
			lab.wrongWay()
			lab.serve("25")
			lab.translate("10.0.0.200", "fd00::200")
			lab.apply(paths...)
			leaked := lab.countLeaks()
			ask := lab.keepAsking()
			for _, address := range []string{service4, service6} {
				lab.reaches(lab.client, address, map[string]string{service4: client4, service6: client6}[address])
				open := ask(address)
				lab.loseWay()
				open()
				lab.apply(paths...)
			}
			if n := leaked(); n != 0 {
				t.Errorf("%d packets left by the wrong router", n)
			}
		})
	}
}

// keepAsking returns a function that opens a connection and gives back one that
// makes the new host send on it.
func (lab returnLab) keepAsking() func(address string) func() {
	lab.t.Helper()
	accepted := make(chan net.Conn, 1)
	var l net.Listener
	lab.host.Do(func() (err error) { l, err = net.Listen("tcp", ":26"); return err })
	lab.t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			accepted <- c
		}
	}()
	return func(address string) func() {
		lab.t.Helper()
		host, _, err := net.SplitHostPort(address)
		if err != nil {
			lab.t.Fatal(err)
		}
		lab.client.Do(func() error {
			dialer := net.Dialer{Timeout: time.Second}
			c, err := dialer.DialContext(lab.t.Context(), "tcp", net.JoinHostPort(host, "26"))
			if err == nil {
				lab.t.Cleanup(func() { _ = c.Close() })
			}
			return err
		})
		server := <-accepted
		lab.t.Cleanup(func() { _ = server.Close() })
		return func() {
			lab.t.Helper()
			before := lab.sent()
			if _, err := io.WriteString(server, "does it leak?"); err != nil {
				lab.t.Logf("the reply was refused: %v", err)
			}
			nettest.Eventually(lab.t, "a segment was sent", func() bool { return lab.sent() > before })
		}
	}
}

// sent is the number of TCP segments that the new host sent, retransmitted
// ones included (RFC 4022, tcpOutSegs; the kernel leaves retransmissions out).
func (lab returnLab) sent() uint64 {
	lab.t.Helper()
	var sum uint64
	lab.host.Do(func() error {
		text, err := readThreadNet("snmp")
		if err != nil {
			return err
		}
		var names []string
		for line := range strings.Lines(text) {
			fields := strings.Fields(line)
			if fields[0] != "Tcp:" {
				continue
			}
			if names == nil {
				names = fields
				continue
			}
			for i, name := range names {
				if name == "OutSegs" || name == "RetransSegs" {
					n, err := strconv.ParseUint(fields[i], 10, 64)
					if err != nil {
						return err
					}
					sum += n
				}
			}
		}
		return nil
	})
	return sum
}

// readThreadNet reads a file of /proc/net of the thread's own namespace.
func readThreadNet(name string) (string, error) {
	text, err := os.ReadFile("/proc/thread-self/net/" + name)
	return string(text), err
}

// loseWay takes the ways back out of the kernel, as a device that goes down does.
func (lab returnLab) loseWay() {
	lab.t.Helper()
	lab.host.Do(func() error {
		routes, err := readRoutes()
		if err != nil {
			return err
		}
		for _, r := range routes {
			if !r.blackhole {
				if err := r.remove(); err != nil {
					return err
				}
			}
		}
		return nil
	})
}

func TestOtherTrafficOfTheNewHostKeepsItsWay(t *testing.T) {
	t.Parallel()
	for name, paths := range map[string][]traffic.ReturnPath{"address": byAddress(), "mark": byMark(traffic.Port{Number: 25, Transport: traffic.TCP})} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			lab := newReturnLab(t)
			lab.wrongWay()
			lab.serve("25")
			lab.serve("26")
			// Who reaches the new host by the other router is answered by it.
			nettest.Link(t, lab.away, "eth1", []string{"198.51.100.1/24", "fd51::1/64"}, lab.client, "eth1", []string{"198.51.100.100/24", "fd51::100/64"})
			eventuallyUp(t, lab.away, lab.client)
			lab.away.Sysctl("net/ipv4/ip_forward", "1")
			lab.away.Sysctl("net/ipv6/conf/all/forwarding", "1")
			lab.client.Route("10.7.0.0/24", "198.51.100.1")
			lab.client.Route("fd07::/64", "fd51::1")
			lab.apply(paths...)
			for _, port := range []string{"25", "26"} {
				lab.reaches(lab.client, "10.7.0.12:"+port, "198.51.100.100")
				lab.reaches(lab.client, "[fd07::12]:"+port, "fd51::100")
				lab.reaches(lab.router, "10.0.0.12:"+port, "10.0.0.1")
				lab.reaches(lab.router, "[fd00::12]:"+port, "fd00::1")
			}
		})
	}
}

func TestOnlyThePortsOfAPathAreMarked(t *testing.T) {
	t.Parallel()
	lab := newReturnLab(t)
	lab.wrongWay()
	lab.serve("25")
	lab.serve("26")
	lab.translate("10.0.0.12", "fd00::12")
	lab.apply(byMark(traffic.Port{Number: 25, Transport: traffic.TCP})...)
	lab.reaches(lab.client, service4, client4)
	lab.fails(lab.client, "192.0.2.1:26")
	lab.fails(lab.client, "[2001:db8::1]:26")
}

func TestForwardedRepliesOfContainersGoBackThroughTheRouter(t *testing.T) {
	t.Parallel()
	lab := newReturnLab(t)
	lab.wrongWay()
	box := nettest.New(t, "container")
	withoutDAD(box)
	nettest.Link(t, lab.host, "br0", []string{"172.17.0.1/24", "fd17::1/64"}, box, "eth0", []string{"172.17.0.2/24", "fd17::2/64"})
	eventuallyUp(t, lab.host, box)
	box.Route("0.0.0.0/0", "172.17.0.1")
	box.Route("::/0", "fd17::1")
	lab.host.Sysctl("net/ipv4/ip_forward", "1")
	lab.host.Sysctl("net/ipv6/conf/all/forwarding", "1")
	lab.router.Route("172.17.0.0/24", "10.0.0.12")
	lab.router.Route("fd17::/64", "fd00::12")
	inBox := lab
	inBox.host = box
	inBox.serve("25")
	lab.translate("172.17.0.2", "fd17::2")
	lab.fails(lab.client, service4)
	lab.apply(byMark()...)
	lab.reaches(lab.client, service4, client4)
	lab.reaches(lab.client, service6, client6)
}

func TestApplyingAgainChangesNothing(t *testing.T) {
	t.Parallel()
	for name, paths := range map[string][]traffic.ReturnPath{
		"address": byAddress(), "mark": byMark(traffic.Port{Number: 25, Transport: traffic.TCP}, traffic.Port{Number: 53, Transport: traffic.UDP}),
		"tunnel": {{Name: "tunnel", Device: "eth0", Match: traffic.MatchMark}}, "none": nil,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			lab := newReturnLab(t)
			if changed := lab.apply(paths...); changed != (paths != nil) {
				t.Errorf("first apply changed = %t", changed)
			}
			lab.inSync(paths)
			generation := lab.generation()
			if lab.apply(paths...) {
				t.Error("second apply changed something")
			}
			if now := lab.generation(); now != generation {
				t.Errorf("second apply made a transaction: generation %d -> %d", generation, now)
			}
		})
	}
}

// generation counts the nftables transactions of the new host.
func (lab returnLab) generation() uint32 {
	lab.t.Helper()
	var generation uint32
	lab.host.Do(func() error {
		conn, err := nftables.New()
		if err != nil {
			return err
		}
		gen, err := conn.GetGen()
		if err == nil {
			generation = gen.ID
		}
		return err
	})
	return generation
}
