package health_test

import (
	"bufio"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"github.com/splitd/splitd/health"
	"github.com/splitd/splitd/internal/nettest"
	"github.com/splitd/splitd/traffic"
)

// patience is the timeout of checks that are to end before it.
const patience = 30 * time.Second

// place is a namespace with a loopback of its own.
func place(t *testing.T) *nettest.NS {
	t.Helper()
	return nettest.New(t, "here")
}

// check makes one check from the namespace.
func check(ns *nettest.NS, target health.Target) health.Result {
	ctx, cancel := context.WithTimeout(context.Background(), target.Health.Timeout)
	defer cancel()
	var result health.Result
	ns.Do(func() error {
		result = health.Checks{Rand: func() uint16 { return 4711 }}.Check(ctx, target)
		return nil
	})
	return result
}

// serve lets serve have every connection, and returns where.
func serve(t *testing.T, ns *nettest.NS, serve func(net.Conn)) netip.AddrPort {
	t.Helper()
	return netip.MustParseAddrPort(ns.Serve("tcp", "127.0.0.1:0", serve).String())
}

func at(where netip.AddrPort, h traffic.Health) health.Target {
	if h.Timeout == 0 {
		h.Timeout = patience
	}
	return health.Target{
		Key:  health.Key{Split: "mx", Backend: "new", Address: where.Addr()},
		Port: where.Port(), Transport: traffic.TCP, Health: h,
	}
}

// says sends a text, and then reads until the client goes.
func says(text string) func(net.Conn) {
	return func(c net.Conn) {
		_, _ = io.WriteString(c, text)
		_, _ = io.Copy(io.Discard, c)
	}
}

func silent(c net.Conn) { _, _ = io.Copy(io.Discard, c) }

// expect compares an outcome, and looks for words in its reason.
func expect(t *testing.T, name string, got health.Result, want health.Outcome, reason string) {
	t.Helper()
	if got.Outcome != want || !strings.Contains(got.Reason, reason) || (got.Reason == "") != (want == health.Passed) {
		t.Errorf("%s: outcome %d, reason %q; want %d with %q", name, got.Outcome, got.Reason, want, reason)
	}
}

func TestATCPCheckPassesWhenAConnectionOpens(t *testing.T) {
	ns := place(t)
	tcp := traffic.Health{Check: traffic.CheckTCP}
	who := make(chan string, 1)
	where := serve(t, ns, func(c net.Conn) {
		who <- c.RemoteAddr().String()
		silent(c)
	})
	expect(t, "listening", check(ns, at(where, tcp)), health.Passed, "")
	if client := <-who; !strings.HasPrefix(client, "127.0.0.1:") {
		t.Errorf("the server saw the client %q, want its address", client)
	}
	expect(t, "speaking first", check(ns, at(serve(t, ns, says("220 hello\r\n")), tcp)), health.Passed, "")
	closed := netip.MustParseAddrPort("127.0.0.1:9")
	expect(t, "closed", check(ns, at(closed, tcp)), health.Failed, "connect to 127.0.0.1:9: connection refused")
}

func TestAnAddressThatDoesNotAnswerFailsAfterTheTimeout(t *testing.T) {
	here, there := nettest.New(t, "here"), nettest.New(t, "there")
	nettest.Link(t, here, "eth0", []string{"10.9.0.1/24"}, there, "eth0", []string{"10.9.0.2/24"})
	here.Route("10.9.1.0/24", "10.9.0.2") // which forwards nothing
	for _, kind := range []traffic.Check{traffic.CheckTCP, traffic.CheckSMTP, traffic.CheckHTTP, traffic.CheckDNS} {
		target := at(netip.MustParseAddrPort("10.9.1.1:25"), traffic.Health{Check: kind, Timeout: 200 * time.Millisecond})
		expect(t, string(kind), check(here, target), health.Failed, "connect to 10.9.1.1:25: no answer within 200ms")
	}
	noRoute := at(netip.MustParseAddrPort("203.0.113.1:25"), traffic.Health{Check: traffic.CheckTCP})
	expect(t, "without a route", check(here, noRoute), health.Failed, "network is unreachable")
}

func TestAnSMTPCheckPassesWithAGreetingOf2xx(t *testing.T) {
	ns := place(t)
	tests := []struct {
		name, says string
		want       health.Outcome
		reason     string
	}{
		{"ready", "220 mx.example.org ESMTP\r\n", health.Passed, ""},
		{"several lines", "220-mx.example.org\r\n220-no spam\r\n220 ESMTP\r\n", health.Passed, ""},
		{"no text", "220\n", health.Passed, ""},
		{"no service", "554 5.3.2 go\taway \x1b[31m\r\n", health.Failed, "greeting 554 5.3.2 go away [31m"},
		{"busy", "421-later\r\n421 please\r\n", health.Failed, "greeting 421 later"},
		{"something else", "SSH-2.0-OpenSSH\r\n", health.Failed, "no SMTP reply"},
		{"two codes", "220-a\r\n221 b\r\n", health.Failed, "no SMTP reply"},
		{"endless line", strings.Repeat("2", 4096), health.Failed, "more than 2048 bytes"},
		{"endless lines", strings.Repeat("220-x\r\n", 200), health.Failed, "more than 100 lines"},
	}
	for _, tt := range tests {
		where := serve(t, ns, says(tt.says))
		target := at(where, traffic.Health{Check: traffic.CheckSMTP, Timeout: patience})
		if tt.want == health.Passed { // the server must close after QUIT
			where = serve(t, ns, politely(t, tt.says))
			target = at(where, target.Health)
		}
		expect(t, tt.name, check(ns, target), tt.want, tt.reason)
	}
	gone := serve(t, ns, func(net.Conn) {})
	expect(t, "closing", check(ns, at(gone, traffic.Health{Check: traffic.CheckSMTP})), health.Failed, "closed without a greeting")
	hangs := at(serve(t, ns, silent), traffic.Health{Check: traffic.CheckSMTP, Timeout: 100 * time.Millisecond})
	expect(t, "silent", check(ns, hangs), health.Failed, "wait for the greeting: no answer within 100ms: is it TLS? write health: {check: tcp}")
}

// politely greets, and fails the test unless QUIT is what comes next.
func politely(t *testing.T, greeting string) func(net.Conn) {
	return func(c net.Conn) {
		_, _ = io.WriteString(c, greeting)
		line, err := bufio.NewReader(c).ReadString('\n')
		if line != "QUIT\r\n" {
			t.Errorf("after the greeting the server read %q, %v; want QUIT", line, err)
		}
		_, _ = io.WriteString(c, "221 bye\r\n")
	}
}

func TestAnHTTPCheckPassesWithStatus2xxOr3xx(t *testing.T) {
	ns := place(t)
	tests := []struct {
		name, says string
		want       health.Outcome
		reason     string
	}{
		{"ok", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", health.Passed, ""},
		{"old", "HTTP/1.0 204 No Content\r\n\r\n", health.Passed, ""},
		{"elsewhere", "HTTP/1.1 301 Moved\r\nLocation: https://192.0.2.1/\r\n\r\n", health.Passed, ""},
		{"after an interim answer", "HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\n\r\n", health.Passed, ""},
		{"not there", "HTTP/1.1 404 Not Found\r\n\r\n", health.Failed, "GET /healthz: status 404 Not Found"},
		{"TLS", "HTTP/1.1 400 Bad Request\r\n\r\n", health.Failed, "GET /healthz: status 400 Bad Request: is it TLS? write health: {check: tcp}"},
		{"broken", "HTTP/1.1 503 Service Unavailable\r\n\r\n", health.Failed, "503"},
		{"something else", "220 mx.example.org ESMTP\r\n\r\n", health.Failed, "malformed"},
		{"half", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n", health.Failed, "closed without a whole answer"},
		{"nothing", "", health.Failed, "closed without a whole answer: is it TLS?"},
		{"endless", "HTTP/1.1 200 OK\r\nX: " + strings.Repeat("x", 1<<20), health.Failed, "closed without a whole answer"},
	}
	for _, tt := range tests {
		asked := make(chan string, 1)
		where := serve(t, ns, func(c net.Conn) {
			asked <- head(c)
			_, _ = io.WriteString(c, tt.says)
		})
		h := traffic.Health{Check: traffic.CheckHTTP, Path: "/healthz", Host: "www.example.org"}
		expect(t, tt.name, check(ns, at(where, h)), tt.want, tt.reason)
		want := "GET /healthz HTTP/1.1\r\nHost: www.example.org\r\nUser-Agent: splitd\r\nAccept: */*\r\nConnection: close\r\n\r\n"
		if got := <-asked; got != want {
			t.Errorf("%s: the server read %q, want %q", tt.name, got, want)
		}
	}
	asked := make(chan string, 1)
	where := serve(t, ns, func(c net.Conn) { asked <- head(c) })
	check(ns, at(where, traffic.Health{Check: traffic.CheckHTTP}))
	if got, want := <-asked, fmt.Sprintf("GET / HTTP/1.1\r\nHost: %s\r\n", where); !strings.HasPrefix(got, want) {
		t.Errorf("by default the server read %q, want %q", got, want)
	}
	hangs := at(serve(t, ns, silent), traffic.Health{Check: traffic.CheckHTTP, Timeout: 100 * time.Millisecond})
	expect(t, "silent", check(ns, hangs), health.Failed, "GET /: no answer within 100ms")
}

// head reads a request up to its empty line.
func head(c net.Conn) string {
	var text strings.Builder
	r := bufio.NewReader(c)
	for !strings.HasSuffix(text.String(), "\r\n\r\n") {
		line, err := r.ReadString('\n')
		text.WriteString(line)
		if err != nil {
			break
		}
	}
	return text.String()
}

// reply makes an answer to a query, as change says.
func reply(t *testing.T, query []byte, change func(*dnsmessage.Message)) []byte {
	var m dnsmessage.Message
	if err := m.Unpack(query); err != nil {
		t.Errorf("the server read no query: %v", err)
		return nil
	}
	m.Response = true
	change(&m)
	packed, err := m.Pack()
	if err != nil {
		t.Error(err)
	}
	return packed
}

func code(c dnsmessage.RCode) func(*dnsmessage.Message) {
	return func(m *dnsmessage.Message) { m.RCode = c }
}

func TestADNSCheckPassesWithAnAnswerToItsQuery(t *testing.T) {
	ns := place(t)
	const www = "www.Example.org AAAA"
	tests := []struct {
		name, query string
		change      func(*dnsmessage.Message)
		want        health.Outcome
		reason      string
	}{
		{"found", www, code(dnsmessage.RCodeSuccess), health.Passed, ""},
		{"known not to be", www, code(dnsmessage.RCodeNameError), health.Passed, ""},
		{"in other letters", www, func(m *dnsmessage.Message) { m.Questions[0].Name = dnsmessage.MustNewName("WWW.example.ORG.") }, health.Passed, ""},
		{"refused", www, code(dnsmessage.RCodeRefused), health.Failed, "answer Refused"},
		{"refused, as the root may be", "", code(dnsmessage.RCodeRefused), health.Passed, ""},
		{"broken", "", code(dnsmessage.RCodeServerFailure), health.Failed, `query ". NS": answer ServerFailure`},
		{"query not understood", www, func(m *dnsmessage.Message) { m.RCode, m.Questions = dnsmessage.RCodeFormatError, nil }, health.Failed, "answer FormatError"},
		{"another number", www, func(m *dnsmessage.Message) { m.ID++ }, health.Failed, "no answer"},
		{"no response", www, func(m *dnsmessage.Message) { m.Response = false }, health.Failed, "no answer"},
		{"to another question", www, func(m *dnsmessage.Message) { m.Questions[0].Type = dnsmessage.TypeA }, health.Failed, "no answer"},
	}
	for _, tt := range tests {
		answer := func(query []byte) []byte { return reply(t, query, tt.change) }
		h := traffic.Health{Check: traffic.CheckDNS, Query: tt.query}
		if strings.HasPrefix(tt.reason, "no answer") {
			h.Timeout = 200 * time.Millisecond
		}
		udp := at(serveUDP(t, ns, answer), h)
		udp.Transport = traffic.UDP
		expect(t, tt.name+", udp", check(ns, udp), tt.want, tt.reason)
		tcp := at(serve(t, ns, func(c net.Conn) { answerTCP(c, answer) }), h)
		expect(t, tt.name+", tcp", check(ns, tcp), tt.want, tt.reason)
	}
	nobody := at(netip.MustParseAddrPort("127.0.0.1:9"), traffic.Health{Check: traffic.CheckDNS})
	nobody.Transport = traffic.UDP
	expect(t, "closed, udp", check(ns, nobody), health.Failed, "connection refused")
}

func TestALostPacketDoesNotFailADNSCheck(t *testing.T) {
	ns := place(t)
	var seen atomic.Int64
	target := at(serveUDP(t, ns, func(query []byte) []byte {
		if seen.Add(1) == 1 {
			return []byte("no DNS")
		}
		return reply(t, query, code(dnsmessage.RCodeSuccess))
	}), traffic.Health{Check: traffic.CheckDNS, Timeout: 4 * time.Second}) // asked again after half of it
	target.Transport = traffic.UDP
	expect(t, "answered the second time", check(ns, target), health.Passed, "")
	if n := seen.Load(); n != 2 {
		t.Errorf("the server was asked %d times, want twice", n)
	}
}

func serveUDP(t *testing.T, ns *nettest.NS, answer func([]byte) []byte) netip.AddrPort {
	t.Helper()
	var c net.PacketConn
	ns.Do(func() (err error) { c, err = net.ListenPacket("udp", "127.0.0.1:0"); return err })
	t.Cleanup(func() { _ = c.Close() })
	go func() {
		packet := make([]byte, 4096)
		for {
			n, from, err := c.ReadFrom(packet)
			if err != nil {
				return
			}
			_, _ = c.WriteTo(answer(packet[:n]), from)
		}
	}()
	return netip.MustParseAddrPort(c.LocalAddr().String())
}

func answerTCP(c net.Conn, answer func([]byte) []byte) {
	var length [2]byte
	if _, err := io.ReadFull(c, length[:]); err != nil {
		return
	}
	query := make([]byte, binary.BigEndian.Uint16(length[:]))
	if _, err := io.ReadFull(c, query); err != nil {
		return
	}
	packed := answer(query)
	_, _ = c.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(packed))), packed...))
}
