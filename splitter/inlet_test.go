package splitter

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/splitd/splitd/internal/nettest"
	"github.com/splitd/splitd/traffic"
)

// sameAddress compares as cmp cannot.
var sameAddress = cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })

// The kernel counts and logs its flows, whoever they pass.
func TestWhatTheKernelHandsOverGoesOnToThePrimaryWithTheClientsAddress(t *testing.T) {
	for family, ip := range families() {
		t.Run(family, func(t *testing.T) {
			peers := make(chan netip.AddrPort, 1)
			primary := startServer(t, ip, func(c *net.TCPConn) {
				peers <- c.RemoteAddr().(*net.TCPAddr).AddrPort()
				echo(c)
			})
			log := &notebook{}
			lab := newInletLab(t, ip, primary, func(_ *traffic.Split, o *Options) { o.FlowLog, o.Workers = log, 1 })
			from := aClient(t, family)
			c := dialFrom(t, from, lab.service)
			exchange(t, c, "hello")
			if peer := <-peers; peer.Addr() != from || peer.Port() < borrowFirst || peer.Port() > borrowLast {
				t.Errorf("the primary saw %s, want %s and a port of %d to %d", peer, from, borrowFirst, borrowLast)
			}
			tape := lab.tee.only(t)
			want := Opened{
				BackendKey: traffic.BackendKey{Split: "mx", Backend: "old"}, Generation: 7,
				Client: c.LocalAddr().(*net.TCPAddr).AddrPort(), Service: lab.service, Server: primary, At: tape.flow.At,
			}
			if diff := cmp.Diff(want, tape.flow, sameAddress); diff != "" {
				t.Errorf("the flow (-want +got):\n%s", diff)
			}
			if flows, counts := lab.FlowsOf(from, "", 10), lab.Counts(); len(flows)+len(counts) > 0 {
				t.Errorf("the relay tells of the kernel's flow: %v, %v", flows, counts)
			}
			if open := lab.inlet().Open; open != 1 {
				t.Errorf("%d flows are open, want 1", open)
			}
			if err := c.CloseWrite(); err != nil {
				t.Fatal(err)
			}
			readAll(t, c)
			if end := tape.end(t); end.End != "closed" || !bytes.Equal(tape.bytes[client], []byte("hello")) || !bytes.Equal(tape.bytes[backend], []byte("hello")) {
				t.Errorf("the tap was given %q and %q, and the end %+v", tape.bytes[client], tape.bytes[backend], end)
			}
			nettest.Eventually(t, "no flow is open", func() bool { return lab.inlet().Open == 0 })
			if got := lab.flows(); got != [3]uint64{1, 0, 0} {
				t.Errorf("flows, failed and troubled are %v, want 1 and none", got)
			}
			if diff := cmp.Diff(TeeCounts{Sampled: 1, Tapped: 1}, lab.TeeCounts()["mx"]); diff != "" {
				t.Errorf("counts of the tee (-want +got):\n%s", diff)
			}
			if len(log.news) > 0 {
				t.Errorf("the flow log was told %v", log.news)
			}
		})
	}
}

// As without splitd: there is nobody else who might serve it.
func TestAFlowOfTheKernelThatThePrimaryDoesNotTakeIsReset(t *testing.T) {
	ip := families()["IPv4"]
	for name, test := range map[string]struct {
		answer func(*firewall, netip.AddrPort)
		want   [3]uint64 // flows, failed, trouble
	}{
		"it refuses":       {func(*firewall, netip.AddrPort) {}, [3]uint64{0, 1, 0}},
		"no answer comes":  {func(f *firewall, at netip.AddrPort) { f.answerLegs(at, dropped()...) }, [3]uint64{0, 1, 1}},
		"it has no way to": {func(f *firewall, at netip.AddrPort) { f.answerLegs(at, unreachable()...) }, [3]uint64{0, 1, 1}},
	} {
		t.Run(name, func(t *testing.T) {
			lab := newInletLab(t, ip, closedPort(ip), func(_ *traffic.Split, o *Options) { o.last = shortly })
			test.answer(lab.rules, lab.primary)
			if err := ask(aClient(t, "IPv4"), lab.service); !isReset(err) {
				t.Errorf("the client got %v, want a reset", err)
			}
			if got := lab.flows(); got != test.want {
				t.Errorf("flows, failed and troubled are %v, want %v", got, test.want)
			}
			if told := lab.tee.told(); told != 0 {
				t.Errorf("the tee was told of %d flows", told)
			}
		})
	}
}

// They are for flows of mode proxy: the kernel has none of them.
func TestLimitsOfModeProxyAreNotForFlowsOfTheKernel(t *testing.T) {
	ip := families()["IPv4"]
	lab := newInletLab(t, ip, startServer(t, ip, echo), func(s *traffic.Split, _ *Options) {
		s.Proxy.IdleTimeout, s.Proxy.FirstByteTimeout, s.Proxy.HalfClosedTimeout = time.Millisecond, time.Millisecond, time.Millisecond
		s.Proxy.MaxFlows, s.Proxy.MaxClientFlows = 1, 1
		s.Proxy.SendProxy, s.Proxy.AcceptProxy = traffic.SendProxyV1, []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
		s.Candidates = []traffic.Backend{remote("new", closedPort(ip))}
		s.Candidates[0].Weight = traffic.Whole
	})
	first, second := dialFrom(t, aClient(t, "IPv4"), lab.service), dialFrom(t, aClient(t, "IPv4"), lab.service)
	nettest.Eventually(t, "both are served", func() bool { return lab.inlet().Flows == 2 })
	waits := 0
	lab.inspect(func(w *worker) {
		w.flows.each(func(f *flow) {
			if f.times.idle != 0 || f.times.first != 0 || f.patience() != 0 {
				waits++
			}
		})
	})
	if waits > 0 {
		t.Errorf("%d flows have a time by which something has to come", waits)
	}
	for _, c := range []*net.TCPConn{first, second} {
		exchange(t, c, "hello")
	}
}

// Peers are asked whether they are there as often as if there were no relay.
func TestSocketsOfTheKernelsFlowsAskTheirPeersAsTheHostDoes(t *testing.T) {
	ip := families()["IPv4"]
	lab := newInletLab(t, ip, startServer(t, ip, echo), nil)
	exchange(t, dialFrom(t, aClient(t, "IPv4"), lab.service), "hello")
	lab.inspect(func(w *worker) {
		w.flows.each(func(f *flow) {
			f.times.lasting = w.now
			w.expired(f)
			for s, socket := range f.sockets {
				on, _ := unix.GetsockoptInt(int(socket), unix.SOL_SOCKET, unix.SO_KEEPALIVE)
				idle, _ := unix.GetsockoptInt(int(socket), unix.IPPROTO_TCP, unix.TCP_KEEPIDLE)
				patience, _ := unix.GetsockoptInt(int(socket), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT)
				if on != 1 || idle != 7200 || patience != 0 {
					t.Errorf("side %d: keep-alive is %d, after %d s, patience is %d ms; want 1, 7200 and 0", s, on, idle, patience)
				}
			}
		})
	})
}

func TestAPrimaryThatIsMasqueradedForSeesThisHost(t *testing.T) {
	ip := families()["IPv4"]
	lab := newInletLab(t, ip, startServer(t, ip, tellPeer), func(s *traffic.Split, _ *Options) { s.Return = traffic.ReturnMasquerade })
	from := aClient(t, "IPv4")
	peer, err := askPeer(t, from, lab.service)
	if err != nil || peer.Addr() == from {
		t.Errorf("the primary saw %s, %v", peer, err)
	}
}

func TestAnInletKeepsItsPortAndTakesOnWhatItsSplitBecomes(t *testing.T) {
	ip := families()["IPv4"]
	lab := newInletLab(t, ip, startServer(t, ip, echo), nil)
	exchange(t, dialFrom(t, aClient(t, "IPv4"), lab.service), "hello")
	if g := lab.tee.only(t).flow.Generation; g != 7 {
		t.Errorf("the generation is %d, want 7", g)
	}
	port := lab.inlet().Port
	lab.split.Generation = 8
	if again := lab.openInlet(lab.split); again != port {
		t.Errorf("it moved from port %d to %d", port, again)
	}
	exchange(t, dialFrom(t, aClient(t, "IPv4"), lab.service), "hello")
	if g := lab.tee.only(t).flow.Generation; g != 8 {
		t.Errorf("the generation is %d, want 8", g)
	}
	other := kernelSplit("web", netip.AddrPortFrom(ip, freePort()), lab.primary)
	if at := lab.openInlet(other); at == port {
		t.Errorf("two splits have port %d", port)
	}
	if again := startRelay(t, Options{LegMark: legMark}).openInlet(lab.split); again == port {
		t.Errorf("a second relay has port %d, too", port)
	}
}

func TestAnInletOfAnotherFamilyTakesThePlaceOfOne(t *testing.T) {
	four, six := families()["IPv4"], families()["IPv6"]
	lab := newInletLab(t, four, startServer(t, four, echo), nil)
	held := dialFrom(t, aClient(t, "IPv4"), lab.service)
	exchange(t, held, "hello")
	both := lab.split
	both.Service.Addresses = []netip.Addr{four, six}
	port := lab.openInlet(both)
	exchange(t, held, "still there")
	for _, ip := range []netip.Addr{four, six} {
		nettest.Eventually(t, "it is open", func() bool {
			c, err := net.DialTCP("tcp", nil, net.TCPAddrFromAddrPort(netip.AddrPortFrom(ip, port)))
			if err == nil {
				abortConn(c)
			}
			return err == nil
		})
	}
}

// Who is handed over by the kernel's rules has asked for another address.
func TestAnInletServesNobodyWhoConnectsToItself(t *testing.T) {
	for family, ip := range families() {
		t.Run(family, func(t *testing.T) {
			lab := newInletLab(t, ip, startServer(t, ip, echo), nil)
			for _, from := range []netip.Addr{ip, aClient(t, family)} {
				if err := ask(from, netip.AddrPortFrom(ip, lab.port)); !isReset(err) {
					t.Errorf("%s got %v, want a reset", from, err)
				}
			}
			nettest.Eventually(t, "no flow is open", func() bool { return lab.inlet().Open == 0 })
			if got := lab.flows(); got != [3]uint64{} {
				t.Errorf("flows, failed and troubled are %v, want none", got)
			}
			nettest.Eventually(t, "the log says so", func() bool { return strings.Contains(lab.logs.String(), "which is no service") })
		})
	}
}

// The kernel's rules of an earlier start may lead a split's flows to another one's
// inlet until they are replaced. Its clients are served, and what they say is played to
// no candidate but their own split's.
func TestAFlowOfAnotherSplitIsServedAndNotShadowed(t *testing.T) {
	for family, ip := range families() {
		from := aClient(t, family)
		for name, other := range map[string]func(*traffic.Service){
			"of another port":    func(s *traffic.Service) { s.Ports[0].Number++ },
			"of another address": func(s *traffic.Service) { s.Addresses[0] = from },
			"of UDP":             func(s *traffic.Service) { s.Ports[0].Transport = traffic.UDP },
		} {
			t.Run(family+" "+name, func(t *testing.T) {
				lab := newInletLab(t, ip, startServer(t, ip, echo), func(s *traffic.Split, _ *Options) { other(&s.Service) })
				c := dialFrom(t, from, lab.service)
				exchange(t, c, "a mail")
				if err := c.CloseWrite(); err != nil {
					t.Fatal(err)
				}
				readAll(t, c)
				nettest.Eventually(t, "the flow has ended", func() bool { return lab.inlet().Flows == 1 && lab.inlet().Open == 0 })
				if diff := cmp.Diff(TeeCounts{}, lab.TeeCounts()["mx"]); diff != "" || lab.tee.told() != 0 {
					t.Errorf("the tee was told of %d flows (-want +got):\n%s", lab.tee.told(), diff)
				}
				nettest.Eventually(t, "the log says so", func() bool { return strings.Contains(lab.logs.String(), "not shadowed") })
			})
		}
	}
}

// What the kernel does not hand over any more goes to the primary by itself, as does
// what it would while nobody listens.
func TestAnInletThatIsClosedLosesNobody(t *testing.T) {
	for family, ip := range families() {
		t.Run(family, func(t *testing.T) {
			lab := newInletLab(t, ip, startServer(t, ip, echo), nil)
			from := aClient(t, family)
			held := dialFrom(t, from, lab.service)
			exchange(t, held, "hello")
			slow := dialSlowly(t, lab.service)
			lab.CloseInlet("mx")
			exchange(t, slow, "on its way in")
			exchange(t, held, "still there")
			nettest.Eventually(t, "new flows pass the relay by", func() bool {
				told := lab.tee.told()
				if err := ask(from, lab.service); err != nil {
					t.Fatal(err)
				}
				return lab.tee.told() == told
			})
		})
	}
}

// They come and go under connections of clients, who notice nothing.
func TestNoConnectionIsLostWhileInletsComeAndGo(t *testing.T) {
	ip := families()["IPv4"]
	lab := newInletLab(t, ip, startServer(t, ip, echo), nil)
	from := aClient(t, "IPv4")
	stop := make(chan struct{})
	var group sync.WaitGroup
	failed := make(chan error, 8)
	for range 4 {
		group.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if err := ask(from, lab.service); err != nil {
					failed <- err
					return
				}
			}
		})
	}
	for range 20 {
		flows := lab.inlet().Flows
		nettest.Eventually(t, "some flows are handed over", func() bool { return lab.inlet().Flows >= flows+20 })
		lab.CloseInlet("mx")
		nettest.Eventually(t, "it is closed", func() bool { return lab.openFronts() == 0 })
		if again := lab.openInlet(lab.split); again != lab.port {
			t.Fatalf("the inlet is at port %d, before it was at %d", again, lab.port)
		}
	}
	close(stop)
	group.Wait()
	close(failed)
	for err := range failed {
		t.Error(err)
	}
}

// ask has a word echoed over a connection of its own.
func ask(from netip.Addr, service netip.AddrPort) error {
	c, err := net.DialTCP("tcp", &net.TCPAddr{IP: from.AsSlice()}, net.TCPAddrFromAddrPort(service))
	if err != nil {
		return err
	}
	defer abortConn(c)
	_ = c.SetDeadline(time.Now().Add(testPatience))
	var b [1]byte
	if _, err = c.Write([]byte("?")); err == nil {
		_, err = io.ReadFull(c, b[:])
	}
	if err != nil {
		return fmt.Errorf("from %s: %w", c.LocalAddr(), err)
	}
	return nil
}

func TestTheEndOfARelayDrainsTheFlowsOfTheKernel(t *testing.T) {
	ip := families()["IPv4"]
	lab := newInletLab(t, ip, startServer(t, ip, echo), func(s *traffic.Split, _ *Options) { s.Proxy.DrainTimeout = 0 })
	held := dialFrom(t, aClient(t, "IPv4"), lab.service)
	exchange(t, held, "hello")
	lab.stop()
	nettest.Eventually(t, "it drains", func() bool { return strings.Contains(lab.logs.String(), "draining") })
	exchange(t, held, "still there")
	if _, err := lab.OpenInlet(lab.split); !errors.Is(err, ErrStopped) {
		t.Errorf("OpenInlet() = %v, want ErrStopped", err)
	}
	exchange(t, dialFrom(t, aClient(t, "IPv4"), lab.service), "by itself")
	_ = held.CloseWrite()
	readAll(t, held)
	<-lab.done
}

func TestAnInletNeedsTheCapability(t *testing.T) {
	ip := families()["IPv4"]
	split := kernelSplit("mx", netip.AddrPortFrom(ip, freePort()), closedPort(ip))
	r := startRelay(t, Options{LegMark: legMark})
	refused := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlock: the thread ends with its lack
		if err := dropCapabilities(unix.CAP_NET_ADMIN, unix.CAP_NET_RAW); err != nil {
			refused <- err
			return
		}
		_, err := r.OpenInlet(split)
		refused <- err
	}()
	err := <-refused
	if !errors.Is(err, unix.EPERM) || !strings.Contains(err.Error(), `open an inlet for the sample of split "mx": sockets that keep the client's address need CAP_NET_ADMIN`) {
		t.Errorf("OpenInlet() = %v, want EPERM and its cure", err)
	}
	if len(r.Inlets()) > 0 {
		t.Errorf("there are %v", r.Inlets())
	}
}
