package splitter

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/splitd/splitd/internal/nettest"
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
			startRelay(t, Options{Workers: 1, edge: func() edge { return counting }}, split)
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
			if n := counting.poured.Load(); n < int64(len(data))*8/10 {
				t.Errorf("%d of %d bytes were spliced", n, len(data))
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

// headerless is what befalls a connection with such a beginning; do comes after
// it was sent.
func headerless(t *testing.T, o Options, begin string, do func(*net.TCPConn)) (r *testRelay, log *notebook, err error) {
	t.Helper()
	ip, log := families()["IPv4"], &notebook{}
	service := netip.AddrPortFrom(ip, freePort())
	served := func(c *net.TCPConn) {
		t.Error("a backend was connected")
		abortConn(c)
	}
	o.FlowLog = log
	r = startRelay(t, o, behindProxies(ip, newSplit("mx", service, startServer(t, ip, served), nil)))
	c := dial(t, service)
	if begin != "" {
		_, _ = io.WriteString(c, begin) // the reset may come before the last byte
	}
	if do != nil {
		do(c)
	}
	_, err = c.Read(make([]byte, 1))
	return r, log, err
}

// wantRefusal checks that one connection was refused for that reason, told of and
// forgotten.
func wantRefusal(t *testing.T, r *testRelay, log *notebook, why traffic.Refusal, end string) {
	t.Helper()
	nettest.Eventually(t, "the connection is over", func() bool { return r.openFlows() == 0 })
	if diff := cmp.Diff(map[string]map[traffic.Refusal]uint64{"mx": {why: 1}}, r.Refusals()); diff != "" {
		t.Errorf("Refusals() (-want +got):\n%s", diff)
	}
	if got := log.end(t); got != end {
		t.Errorf("the log has %q, want %q", got, end)
	}
	if n := log.told()[0]; len(log.told()) != 1 || n.Backend != "" || n.Server.IsValid() || n.Client.Addr() != families()["IPv4"] || n.Lived <= 0 {
		t.Errorf("the log has %+v", log.told())
	}
	if open := r.gates["mx"].open.Load(); open != 0 {
		t.Errorf("%d flows are still counted", open)
	}
}

func TestBytesThatAreNoHeaderAreResetAndCounted(t *testing.T) {
	good := string(preamble(traffic.SendProxyV2, netip.MustParseAddrPort("198.51.100.7:1"), netip.MustParseAddrPort("192.0.2.25:25")))
	with := func(at int, b string) string { return good[:at] + b + good[at+len(b):] }
	for name, begin := range map[string]string{
		"a client's words":            "EHLO client.example\r\n",
		"TLS":                         "\x16\x03\x01\x02\x00\x01",
		"one wrong byte":              "\x00",
		"almost v1":                   "PROXX TCP4 198.51.100.7 192.0.2.25 1 25\r\n",
		"almost v2":                   with(11, "\x0b"),
		"v1 in lower case":            "proxy TCP4 198.51.100.7 192.0.2.25 1 25\r\n",
		"v1 without CR":               "PROXY TCP4 198.51.100.7 192.0.2.25 1 25\n",
		"v1 without blank":            "PROXYTCP4 198.51.100.7 192.0.2.25 1 25\r\n",
		"v1 without addresses":        "PROXY TCP4\r\n",
		"v1 without anything":         "PROXY\r\n",
		"v1 with a port too large":    "PROXY TCP4 198.51.100.7 192.0.2.25 65536 25\r\n",
		"v1 with a negative port":     "PROXY TCP4 198.51.100.7 192.0.2.25 -1 25\r\n",
		"v1 with a port of zeros":     "PROXY TCP4 198.51.100.7 192.0.2.25 0001 25\r\n",
		"v1 of another family":        "PROXY TCP4 2001:db8::7 2001:db8::25 1 25\r\n",
		"v1 with a zone":              "PROXY TCP6 fe80::7%lo fe80::25%lo 1 25\r\n",
		"v1 of no protocol":           "PROXY SCTP 198.51.100.7 192.0.2.25 1 25\r\n",
		"v1 with a name":              "PROXY TCP4 client.example mx.example 1 25\r\n",
		"v1 with more":                "PROXY TCP4 198.51.100.7 192.0.2.25 1 25 extra\r\n",
		"v1 without end":              "PROXY TCP4 " + strings.Repeat("1", 200),
		"v1 that ends too late":       "PROXY UNKNOWN " + strings.Repeat("1", 92) + "\r\n",
		"v2 of another version":       with(12, "\x31"),
		"v2 of no command":            with(12, "\x22"),
		"v2 of no protocol":           with(13, "\x13"),
		"v2 of no family":             with(13, "\x41"),
		"v2 of an unknown connection": with(13, "\x00"),
		"v2 that is too short":        with(14, "\x00\x0b"),
		"v2 that is too long":         with(14, "\x10\x01"),
		"v2 of the largest length":    with(14, "\xff\xff"),
	} {
		t.Run(name, func(t *testing.T) {
			r, log, err := headerless(t, Options{}, begin, nil)
			if !isReset(err) {
				t.Errorf("the client got %v, want a reset", err)
			}
			wantRefusal(t, r, log, traffic.RefusedBadHeader, "bad_header splitd PR 0 0")
			nettest.Eventually(t, "the log says so", func() bool {
				return strings.Contains(r.logs.String(), "no PROXY header, which proxy.accept_proxy wants")
			})
		})
	}
}

func TestAHeaderThatDoesNotComeInTimeIsResetAndCounted(t *testing.T) {
	for name, begin := range map[string]string{
		"nothing": "", "a part of v1": "PROXY TCP4 198", "the sign of v1": "PROXY", "a part of v2": sign, "v2 without its end": sign + "\x21\x11\x00\x0c\x01\x02",
	} {
		t.Run(name, func(t *testing.T) {
			r, log, err := headerless(t, Options{header: 20 * time.Millisecond}, begin, nil)
			if !isReset(err) {
				t.Errorf("the client got %v, want a reset", err)
			}
			wantRefusal(t, r, log, traffic.RefusedLateHeader, "late_header splitd cR 0 0")
		})
	}
}

func TestAConnectionThatEndsBeforeItsHeaderIsCounted(t *testing.T) {
	for name, begin := range map[string]string{"nothing": "", "a part of v1": "PROXY TCP4 198", "a part of v2": sign + "\x21"} {
		t.Run(name+", then its end", func(t *testing.T) {
			r, log, err := headerless(t, Options{}, begin, func(c *net.TCPConn) { _ = c.CloseWrite() })
			if !isReset(err) {
				t.Errorf("the client got %v, want a reset", err)
			}
			wantRefusal(t, r, log, traffic.RefusedNoHeader, "no_header client CR 0 0")
		})
		t.Run(name+", then a reset", func(t *testing.T) {
			r, log, _ := headerless(t, Options{}, begin, abortConn)
			wantRefusal(t, r, log, traffic.RefusedNoHeader, "no_header client CR 0 0")
		})
	}
}

// recv(2) stops at urgent data, and so would a header with some in it for ever.
func TestAHeaderWithUrgentDataInItIsNeverWhole(t *testing.T) {
	r, log, err := headerless(t, Options{header: 100 * time.Millisecond}, "PROXY TCP4 198.51.100.7", func(c *net.TCPConn) {
		sendUrgent(t, c, 'x')
		_, _ = io.WriteString(c, " 192.0.2.25 1 25\r\n")
	})
	if !isReset(err) {
		t.Errorf("the client got %v, want a reset", err)
	}
	wantRefusal(t, r, log, traffic.RefusedLateHeader, "late_header splitd cR 0 0")
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

// A proxy has all its clients' flows: a limit for each client is no limit for it.
func TestLimitsOfAClientAreThoseOfTheHeadersAddress(t *testing.T) {
	ip := families()["IPv4"]
	service := netip.AddrPortFrom(ip, freePort())
	split := behindProxies(ip, newSplit("mx", service, startServer(t, ip, echo), nil))
	split.Proxy.MaxClientFlows = 2
	log := &notebook{}
	r := startRelay(t, Options{FlowLog: log}, split)
	open := func(client string) *net.TCPConn {
		c := dial(t, service)
		write(t, c, text(client))
		return c
	}
	var first *net.TCPConn
	for i := range 2 {
		for _, client := range []string{"198.51.100.7", "198.51.100.8"} {
			first = open(fmt.Sprintf("%s:%d", client, 1000+i))
			exchange(t, first, "within the limit")
		}
	}
	if _, err := open("198.51.100.8:2000").Read(make([]byte, 1)); !isReset(err) {
		t.Errorf("one more flow of a client: %v, want a reset", err)
	}
	if diff := cmp.Diff(map[string]map[traffic.Refusal]uint64{"mx": {traffic.RefusedMaxClientFlows: 1}}, r.Refusals()); diff != "" {
		t.Errorf("Refusals() (-want +got):\n%s", diff)
	}
	for _, n := range log.told() {
		if n.Ends {
			t.Errorf("the log has an end: %+v", n)
		}
	}
	abortConn(first)
	nettest.Eventually(t, "a place is free", func() bool { return r.openFlows() == 3 })
	exchange(t, open("198.51.100.8:2001"), "in its place")
}

// Who sends no header takes no more places than the split has, and not for long.
func TestConnectionsWithoutHeaderCountForTheSplitAndEndInTime(t *testing.T) {
	ip := families()["IPv4"]
	service := netip.AddrPortFrom(ip, freePort())
	split := behindProxies(ip, newSplit("mx", service, startServer(t, ip, echo), nil))
	const most = 200
	split.Proxy.MaxFlows = most
	r := startRelay(t, Options{header: time.Second}, split)
	before := countFiles(t, "socket:")
	var silent []*net.TCPConn
	for range most {
		silent = append(silent, dial(t, service))
	}
	for i, c := range silent {
		if i%2 == 0 {
			_, _ = io.WriteString(c, "PROXY ")
		}
	}
	wantReset(t, ip, service) // by the limit, or late
	for _, c := range silent {
		if _, err := c.Read(make([]byte, 1)); !isReset(err) {
			t.Fatalf("a silent client got %v, want a reset", err)
		}
		_ = c.Close()
	}
	nettest.Eventually(t, "their descriptors are free", func() bool { return r.openFlows() == 0 && countFiles(t, "socket:") <= before })
	refused := r.Refusals()["mx"]
	if n := refused[traffic.RefusedLateHeader] + refused[traffic.RefusedMaxFlows]; n != most+1 {
		t.Errorf("refused are %v, want %d in all", refused, most+1)
	}
	c := dial(t, service)
	write(t, c, text("198.51.100.7:1"))
	exchange(t, c, "hello")
}

func sendUrgent(t *testing.T, c *net.TCPConn, b byte) {
	t.Helper()
	raw, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var sent error
	if err := raw.Control(func(fd uintptr) { sent = unix.Sendto(int(fd), []byte{b}, unix.MSG_OOB, nil) }); err != nil || sent != nil {
		t.Fatal(err, sent)
	}
}
