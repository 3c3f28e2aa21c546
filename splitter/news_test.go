package splitter

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/splitd/splitd/internal/nettest"
	"github.com/splitd/splitd/traffic"
)

// notebook remembers what it is told; it does not want flows of some ports.
type notebook struct {
	mu       sync.Mutex
	news     []FlowNews
	unwanted map[uint16]bool
}

func (n *notebook) Wants(client netip.AddrPort) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return !n.unwanted[client.Port()]
}

func (n *notebook) Tell(news FlowNews) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.news = append(n.news, news)
}

func (n *notebook) told() []FlowNews {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Clone(n.news)
}

// end waits for the end of the only flow, and returns it in short.
func (n *notebook) end(t *testing.T) string {
	t.Helper()
	var last FlowNews
	nettest.Eventually(t, "the log has the end of the flow", func() bool {
		told := n.told()
		if len(told) == 0 {
			return false
		}
		last = told[len(told)-1]
		return last.Ends
	})
	return strings.Join(strings.Fields(fmt.Sprint(last.Backend, " ", last.Why, " ", last.But, " ", last.Meant, " ", last.End, " ", last.By, " ", last.Code, " ", last.BytesIn, " ", last.BytesOut)), " ")
}

func TestTheFlowLogTellsOfBeginningAndEnd(t *testing.T) {
	for family, ip := range families() {
		t.Run(family, func(t *testing.T) {
			log := &notebook{}
			server := startServer(t, ip, echo)
			service := netip.AddrPortFrom(ip, freePort())
			split := newSplit("mx", service, server, map[string]candidate{"new": {closedPort(ip), 1}})
			split.Generation = 7
			split.Service.Addresses = []netip.Addr{netip.IPv6Unspecified()}
			if ip.Is4() {
				split.Service.Addresses = []netip.Addr{netip.IPv4Unspecified()}
			}
			startRelay(t, Options{FlowLog: log, Draw: func() traffic.Weight { return 1 }}, split)
			begin := time.Now()
			c := dial(t, service)
			exchange(t, c, "hello")
			own := c.LocalAddr().(*net.TCPAddr).AddrPort()
			_ = c.CloseWrite()
			if _, err := io.Copy(io.Discard, c); err != nil {
				t.Fatal(err)
			}
			log.end(t)
			told := log.told()
			both := FlowNews{
				BackendKey: traffic.BackendKey{Split: "mx", Backend: "old"}, Transport: traffic.TCP, Generation: 7,
				Client: own, Service: service, Server: server, Why: traffic.WhyDraw,
			}
			end := both
			end.Ends, end.End, end.By, end.Code, end.BytesIn, end.BytesOut = true, "closed", "client", "--", 5, 5
			for i := range told {
				n := &told[i]
				if n.Connect <= 0 || n.At.Before(begin) || n.Ends && (n.Lived < n.Connect || n.Lived > time.Since(begin)) {
					t.Errorf("times are %v, connect %v, lived %v", n.At, n.Connect, n.Lived)
				}
				n.At, n.Connect, n.Lived = time.Time{}, 0, 0
			}
			if diff := cmp.Diff([]FlowNews{both, end}, told, cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })); diff != "" {
				t.Errorf("told (-want +got):\n%s", diff)
			}
		})
	}
}

// Each row is how one flow ends: its backend, why that, the end, who ended it,
// two letters, and the bytes in and out.
func TestTheFlowLogSaysHowAFlowEndedAndWhoEndedIt(t *testing.T) {
	ip, broken := families()["IPv4"], &brokenEdge{}
	for name, test := range map[string]struct {
		candidate func(t *testing.T) netip.AddrPort // nil: there is none in the draw
		primary   netip.AddrPort                    // the zero one is a server that the test has the other end of
		proxy     func(*traffic.Proxy)
		do        func(t *testing.T, r *testRelay, p pair)
		want      string
	}{
		"the client closes first": {
			do:   func(_ *testing.T, _ *testRelay, p pair) { _ = p.client.Close(); _ = p.server.Close() },
			want: "old only closed client -- 2 2",
		},
		"the backend closes first": {
			do:   func(t *testing.T, _ *testRelay, p pair) { closeThen(t, p.server, p.client) },
			want: "old only closed backend -- 2 2",
		},
		"the client resets":  {do: func(_ *testing.T, _ *testRelay, p pair) { abortConn(p.client) }, want: "old only reset client CD 2 2"},
		"the backend resets": {do: func(_ *testing.T, _ *testRelay, p pair) { abortConn(p.server) }, want: "old only reset backend SD 2 2"},
		"the client resets after the backend's end": {
			do: func(t *testing.T, _ *testRelay, p pair) {
				_ = p.server.CloseWrite()
				if _, err := io.Copy(io.Discard, p.client); err != nil {
					t.Fatal(err)
				}
				abortConn(p.client)
			},
			want: "old only reset client CL 2 2",
		},
		"nothing moves, and the client spoke last": {
			proxy: func(p *traffic.Proxy) { p.IdleTimeout = idle },
			do: func(t *testing.T, r *testRelay, p pair) {
				nettest.Eventually(t, "some ticks of the kernel have passed", func() (passed bool) {
					r.inspect(func(w *worker) {
						w.flows.each(func(f *flow) { ago, _ := w.edge.heard(int(f.sockets[client])); passed = ago > 3*idleGrain })
					})
					return passed
				})
				if _, err := p.client.Write([]byte("well?")); err != nil {
					t.Fatal(err)
				}
			},
			want: "old only idle splitd sD 7 2",
		},
		"the backend sends no first byte": {
			primary: startServer(t, ip, func(c *net.TCPConn) { _, _ = io.Copy(io.Discard, c); _ = c.Close() }),
			proxy:   func(p *traffic.Proxy) { p.FirstByteTimeout = 50 * time.Millisecond },
			want:    "old only silent splitd sH 0 0",
		},
		"we panic": {
			do: func(t *testing.T, _ *testRelay, p pair) {
				broken.armed.Store(true)
				if _, err := p.client.Write([]byte("boom")); err != nil {
					t.Fatal(err)
				}
			},
			want: "old only fault splitd ID 2 2",
		},
		"it is killed": {
			do: func(_ *testing.T, r *testRelay, _ pair) {
				r.End(r.OpenFlows(traffic.BackendKey{Split: "mx", Backend: "old"}))
			},
			want: "old only killed splitd KD 2 2",
		},
		"the relay stops": {do: func(_ *testing.T, r *testRelay, _ pair) { r.stop() }, want: "old only stopped splitd KD 2 2"},
		"the candidate refuses": {
			candidate: func(*testing.T) netip.AddrPort { return closedPort(ip) },
			do:        func(_ *testing.T, _ *testRelay, p pair) { _ = p.client.Close(); _ = p.server.Close() },
			want:      "old draw fallback new closed client -- 2 2",
		},
		"nobody can be connected": {
			candidate: func(*testing.T) netip.AddrPort { return closedPort(ip) }, primary: closedPort(ip),
			want: "old draw fallback new refused backend SC 0 0",
		},
		"the candidate does not answer, and nobody takes over": {
			candidate: func(t *testing.T) netip.AddrPort { return blackhole(t, ip) },
			proxy:     func(p *traffic.Proxy) { p.ConnectTimeout, p.Fallback = 50*time.Millisecond, traffic.FallbackNone },
			primary:   closedPort(ip),
			want:      "new draw unanswered backend sC 0 0",
		},
		"the candidate is closed before it answers": {
			candidate: func(t *testing.T) netip.AddrPort { return blackhole(t, ip) },
			proxy:     func(p *traffic.Proxy) { p.ConnectTimeout = time.Minute }, primary: closedPort(ip),
			do: func(t *testing.T, r *testRelay, _ pair) {
				nettest.Eventually(t, "the attempt is freed", func() bool { return r.Free(attemptsAt(ofNew)) == 1 })
			},
			want: "old draw closed new refused backend SC 0 0",
		},
	} {
		t.Run(name, func(t *testing.T) {
			log := &notebook{}
			server, accepted := keeper(t, ip)
			served := !test.primary.IsValid()
			if !served {
				server = test.primary
			}
			service := netip.AddrPortFrom(ip, freePort())
			split := newSplit("mx", service, server, nil)
			if test.candidate != nil {
				split = newSplit("mx", service, server, map[string]candidate{"new": {test.candidate(t), traffic.Whole}})
			}
			if test.proxy != nil {
				test.proxy(&split.Proxy)
			}
			r := startRelay(t, Options{FlowLog: log, last: 50 * time.Millisecond, edge: func() edge { return broken }}, split)
			p := pair{}
			if !served {
				if c, err := net.Dial("tcp", service.String()); err == nil { // else it was quick
					t.Cleanup(func() { abortConn(c.(*net.TCPConn)) })
				}
			} else {
				p.client, p.server = dial(t, service), <-accepted
				t.Cleanup(func() { abortConn(p.server) })
				if err := talk(p.client, p.server); err != nil {
					t.Fatal(err)
				}
			}
			if test.do != nil {
				test.do(t, r, p)
			}
			if got := log.end(t); got != test.want {
				t.Errorf("told %q, want %q", got, test.want)
			}
		})
	}
}

// closeThen has one side end, and the other after it has seen that.
func closeThen(t *testing.T, first, second *net.TCPConn) {
	t.Helper()
	_ = first.CloseWrite()
	if _, err := io.Copy(io.Discard, second); err != nil {
		t.Fatal(err)
	}
	_ = second.Close()
}

func TestAFlowThatTheLogDoesNotWantLeavesNoTrace(t *testing.T) {
	ip := families()["IPv4"]
	service := netip.AddrPortFrom(ip, freePort())
	wanted, other := freePort(), freePort()
	log := &notebook{unwanted: map[uint16]bool{other: true}}
	r := startRelay(t, Options{FlowLog: log}, newSplit("mx", service, startServer(t, ip, echo), nil))
	for _, port := range []uint16{other, wanted} {
		c, err := net.DialTCP("tcp", &net.TCPAddr{IP: ip.AsSlice(), Port: int(port)}, net.TCPAddrFromAddrPort(service))
		if err != nil {
			t.Fatal(err)
		}
		exchange(t, c, "hello")
		abortConn(c)
	}
	log.end(t)
	nettest.Eventually(t, "both have ended", func() bool { return r.openFlows() == 0 })
	for _, n := range log.told() {
		if n.Client.Port() != wanted {
			t.Errorf("told of %v", n.Client)
		}
	}
}
