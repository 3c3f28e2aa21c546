package splitter

import (
	"bytes"
	"errors"
	"io"
	"net"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/splitd/splitd/traffic"
)

// whole is a network of one address.
func whole(ip netip.Addr) netip.Prefix { return netip.PrefixFrom(ip, ip.BitLen()) }

// behindProxies is a split whose connections from ip begin with a header.
func behindProxies(ip netip.Addr, split traffic.Split) traffic.Split {
	split.Proxy.AcceptProxy = []netip.Prefix{whole(ip)}
	return split
}

// sign begins every header of version 2.
const sign = "\r\n\r\n\x00\r\nQUIT\n"

// text is a header of version 1 that names the client.
func text(client string) string {
	from, to := netip.MustParseAddrPort(client), netip.MustParseAddrPort("192.0.2.25:25")
	return string(preamble(traffic.SendProxyV1, from, to))
}

// write sends bytes to the relay.
func write(t *testing.T, c *net.TCPConn, words string) {
	t.Helper()
	if _, err := io.WriteString(c, words); err != nil {
		t.Fatal(err)
	}
}

// letter is who serves the connection.
func letter(t *testing.T, c *net.TCPConn) string {
	t.Helper()
	var b [1]byte
	if _, err := io.ReadFull(c, b[:]); err != nil {
		t.Fatalf("nobody serves: %v", err)
	}
	return string(b[:])
}

// Of a client that a header names groups, the log, where and the backend's own
// header know nothing else.
func TestAClientBehindAProxyIsWhoTheHeaderNames(t *testing.T) {
	const v4, v6 = "198.51.100.7:50000", "[2001:db8:c::7]:50000"
	for family, ip := range families() {
		for version := range versions() {
			for client, known := range map[string]string{v4: v4, v6: v6, "[::ffff:198.51.100.7]:50000": v4} {
				t.Run(family+"/"+string(version)+"/"+client, func(t *testing.T) {
					heard := make(chan told, 10)
					service, log := netip.AddrPortFrom(ip, freePort()), &notebook{}
					split := behindProxies(ip, newSplit("mx", service, startServer(t, ip, expecting('o', heard)), map[string]candidate{
						"new": {startServer(t, ip, expecting('n', heard)), 0},
					}))
					split.Proxy.SendProxy = version
					split.Candidates[0].Clients.Always = []netip.Prefix{netip.MustParsePrefix("198.51.100.0/24"), netip.MustParsePrefix("2001:db8:c::/48")}
					r := startRelay(t, Options{FlowLog: log}, split)

					asked := "203.0.113.80:443"
					c := dial(t, service)
					write(t, c, string(preamble(version, netip.MustParseAddrPort(client), netip.MustParseAddrPort(asked)))+"hello")
					if got := letter(t, c); got != "n" {
						t.Errorf("served by %q, want the candidate: its group has the client", got)
					}
					if hello, err := io.ReadAll(io.LimitReader(c, 5)); err != nil || string(hello) != "hello" {
						t.Errorf("behind the header the server reads %q, %v", hello, err)
					}
					if got := <-heard; got.Client != known || got.Service != asked {
						t.Errorf("the backend is told %+v, want client %s, service %s", got, known, asked)
					}
					from := netip.MustParseAddrPort(known)
					open := r.FlowsOf(from.Addr(), "mx", 9)
					if len(open) != 1 || open[0].Client != from || open[0].Service != service || open[0].Via != addrPort(t, c.LocalAddr()) {
						t.Errorf("open flows of the client are %+v", open)
					}
					if n := len(r.FlowsOf(ip, "mx", 9)); n != 0 {
						t.Errorf("%d flows are the proxy's own", n)
					}
					abortConn(c)
					log.end(t)
					for _, n := range log.told() {
						if n.Client != from || n.Via != addrPort(t, c.LocalAddr()) || n.Service != service || n.Why != traffic.WhyAlways {
							t.Errorf("the log has %+v", n)
						}
					}
				})
			}
		}
	}
}

func TestAConnectionOfTheProxysOwnIsTheProxys(t *testing.T) {
	v2 := func(command, family string, rest int) string {
		return sign + command + family + string([]byte{byte(rest >> 8), byte(rest)}) + zeros(rest)
	}
	ip := families()["IPv4"]
	for name, header := range map[string]string{
		"v1, unknown":                  "PROXY UNKNOWN\r\n",
		"v1, unknown with an address":  "PROXY UNKNOWN 198.51.100.7 192.0.2.25 50000 25\r\n",
		"v2, local":                    v2("\x20", "\x00", 0),
		"v2, local with an address":    v2("\x20", "\x11", 12),
		"v2, a client on a socket":     v2("\x21", "\x31", 216),
		"v2, a client of datagrams":    v2("\x21", "\x12", 12),
		"v2, local with more":          v2("\x20", "\x00", 4096),
		"v2, local of another family":  v2("\x20", "\x21", 36),
		"v2, local with less than due": v2("\x20", "\x11", 3),
	} {
		t.Run(name, func(t *testing.T) {
			heard := make(chan told, 1)
			service, log := netip.AddrPortFrom(ip, freePort()), &notebook{}
			split := behindProxies(ip, newSplit("mx", service, startServer(t, ip, expecting('o', heard)), nil))
			split.Proxy.SendProxy = traffic.SendProxyV2
			startRelay(t, Options{FlowLog: log}, split)
			c := dial(t, service)
			write(t, c, header)
			if got := letter(t, c); got != "o" {
				t.Errorf("served by %q", got)
			}
			exchange(t, c, "hello")
			want := told{2, c.LocalAddr().String(), service.String()}
			if diff := cmp.Diff(want, <-heard); diff != "" {
				t.Errorf("the backend is told (-want +got):\n%s", diff)
			}
			abortConn(c)
			log.end(t)
			if n := log.told()[0]; n.Client != addrPort(t, c.LocalAddr()) || n.Via.IsValid() {
				t.Errorf("the log has client %v via %v", n.Client, n.Via)
			}
		})
	}
}

func TestFromOtherNetworksNothingIsReadButTheClientsBytes(t *testing.T) {
	proxy, other := netip.MustParseAddr("127.0.0.11"), netip.MustParseAddr("127.0.0.12")
	ip := families()["IPv4"]
	service := netip.AddrPortFrom(ip, freePort())
	split := behindProxies(proxy, newSplit("mx", service, startServer(t, ip, echo), nil))
	r := startRelay(t, Options{}, split)
	exchange(t, dialFrom(t, other, service), text("198.51.100.7:50000"))
	if n := len(r.FlowsOf(other, "mx", 9)); n != 1 {
		t.Errorf("%d flows are the client's own, want 1", n)
	}
	c := dialFrom(t, proxy, service)
	write(t, c, text("198.51.100.7:50000"))
	exchange(t, c, "hello")
}

// However the header comes, the stream behind it is whole, and spliced.
func TestAStreamBehindAnAcceptedHeaderIsTheStreamThatWasSent(t *testing.T) {
	ip := families()["IPv6"]
	from, to := netip.MustParseAddrPort("[2001:db8:c::7]:50000"), netip.MustParseAddrPort("[2001:db8::25]:25")
	long := string(preamble(traffic.SendProxyV2, from, to))
	long = long[:14] + string([]byte{0x10, 0x00}) + long[16:] + "\x04\x0f\xd9" + zeros(4057) // a TLV of no meaning, to the most
	for name, test := range map[string]struct {
		header string
		pieces int
	}{
		"v1":                    {string(preamble(traffic.SendProxyV1, from, to)), 1},
		"v2":                    {string(preamble(traffic.SendProxyV2, from, to)), 1},
		"v1, a byte at a time":  {string(preamble(traffic.SendProxyV1, from, to)), 200},
		"v2, a byte at a time":  {string(preamble(traffic.SendProxyV2, from, to)), 200},
		"v2, the longest":       {long, 1},
		"v2, the longest by 50": {long, 50},
	} {
		t.Run(name, func(t *testing.T) {
			counting := &countingEdge{}
			accepted := make(chan *net.TCPConn, 1)
			service := netip.AddrPortFrom(ip, freePort())
			split := behindProxies(ip, newSplit("mx", service, startServer(t, ip, func(c *net.TCPConn) { accepted <- c }), nil))
			forcePoolsEmpty() // of pipes, of which an ordinary user has few
			r := startRelay(t, Options{Workers: 1, edge: func() edge { return counting }}, split)
			c := dial(t, service)
			data := randomBytes(6, 16<<20)
			sent := make(chan error, 1)
			go func() {
				var err error
				for piece := range pieces(test.header, test.pieces) {
					_, e := io.WriteString(c, piece)
					err = errors.Join(err, e)
				}
				_, e := c.Write(data)
				sent <- errors.Join(err, e, c.CloseWrite())
			}()
			server := <-accepted
			t.Cleanup(func() { abortConn(server) })
			got, err := io.ReadAll(server)
			if err = errors.Join(err, <-sent); err != nil || !bytes.Equal(got, data) {
				t.Fatalf("%d bytes, %v, want the %d behind the header", len(got), err, len(data))
			}
			// How much is copied before it streams, and whenever it calms down, is the
			// machine's: a flow that a header has kept from it would splice nothing.
			if n := counting.poured.Load(); n < int64(len(data))/2 {
				t.Errorf("%d of %d bytes were spliced in %d calls; %d times there was no pipe", n, len(data), counting.calls.Load(), r.Faults().Splices)
			}
		})
	}
}

// pieces yields the text in so many parts, or bytes.
func pieces(text string, many int) func(yield func(string) bool) {
	size := max(len(text)/many, 1)
	return func(yield func(string) bool) {
		for len(text) > 0 {
			n := min(size, len(text))
			if !yield(text[:n]) {
				return
			}
			text = text[n:]
		}
	}
}

func TestAClientThatEndsRightBehindItsHeaderIsServed(t *testing.T) {
	ip := families()["IPv4"]
	service := netip.AddrPortFrom(ip, freePort())
	startRelay(t, Options{}, behindProxies(ip, newSplit("mx", service, startServer(t, ip, echo), nil)))
	c := dial(t, service)
	write(t, c, text("198.51.100.7:1")+"hello")
	if err := c.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(c); err != nil || string(got) != "hello" {
		t.Errorf("the client reads %q, %v, want hello and a FIN", got, err)
	}
}
