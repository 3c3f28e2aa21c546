package splitter

import (
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
	c, err := net.DialTCP("tcp", nil, net.TCPAddrFromAddrPort(service))
	if err != nil {
		return r, log, err // a reset may come before connect(2) has come back
	}
	defer abortConn(c)
	if err := c.SetDeadline(time.Now().Add(testPatience)); err != nil {
		t.Fatal(err)
	}
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
	if open := r.gates["mx"].tcp.open.Load(); open != 0 {
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
		"v1 of nobody, IPv4":          "PROXY TCP4 0.0.0.0 192.0.2.25 1 25\r\n",
		"v1 of nobody, IPv6":          "PROXY TCP6 :: 2001:db8::25 1 25\r\n",
		"v2 of nobody":                sign + "\x21\x11\x00\x0c\x00\x00\x00\x00\xc0\x00\x02\x19\x00\x01\x00\x19",
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
	if err := raw.Write(func(fd uintptr) bool {
		sent = unix.Sendto(int(fd), []byte{b}, unix.MSG_OOB, nil)
		return !errors.Is(sent, unix.EAGAIN)
	}); err != nil || sent != nil {
		t.Fatal(err, sent)
	}
}

// The proxy's own address is one: by it all its clients would be on one side.
func TestWithAffinityAClientBehindAProxyStaysOnItsSide(t *testing.T) {
	ip := families()["IPv4"]
	service := netip.AddrPortFrom(ip, freePort())
	split := behindProxies(ip, newSplit("mx", service, startServer(t, ip, greeter('o')), map[string]candidate{
		"new": {startServer(t, ip, greeter('n')), traffic.Whole / 2},
	}))
	split.Affinity, split.AffinityPrefix = traffic.AffinitySource, traffic.AffinityPrefix{IPv4: 32, IPv6: 128}
	startRelay(t, Options{}, split)
	sides := map[string]int{}
	for i := range 40 {
		client := netip.AddrFrom4([4]byte{198, 51, 100, byte(i)})
		want := map[string]string{"old": "o", "new": "n"}[split.Where(client).Backend]
		for port := range uint16(3) {
			c := dial(t, service)
			write(t, c, text(netip.AddrPortFrom(client, 50000+port).String()))
			if got := letter(t, c); got != want {
				t.Errorf("%s is served by %q, want %q", client, got, want)
			}
			abortConn(c)
		}
		sides[want]++
	}
	if sides["o"] == 0 || sides["n"] == 0 {
		t.Errorf("the clients are on the sides %v: that tells nothing", sides)
	}
}
