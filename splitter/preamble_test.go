package splitter

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net"
	"net/netip"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/pires/go-proxyproto"
	"golang.org/x/sys/unix"

	"github.com/splitd/splitd/internal/nettest"
	"github.com/splitd/splitd/traffic"
)

// versions are those of the header, and their numbers.
func versions() map[traffic.SendProxy]byte {
	return map[traffic.SendProxy]byte{traffic.SendProxyV1: 1, traffic.SendProxyV2: 2}
}

// told is what a server learns of a flow from its header.
type told struct {
	Version         byte
	Client, Service string
}

func readHeader(from *bufio.Reader) (told, error) {
	h, err := proxyproto.Read(from)
	if err != nil {
		return told{}, err
	}
	if h.Command != proxyproto.PROXY {
		return told{}, errors.New("the header is that of a connection of the proxy's own")
	}
	return told{h.Version, h.SourceAddr.String(), h.DestinationAddr.String()}, nil
}

// expecting is a server that wants a header, greets with its letter, and then is
// an echo. What it is told goes to heard; a zero told is a wrong header.
func expecting(letter byte, heard chan<- told) func(*net.TCPConn) {
	return func(c *net.TCPConn) {
		defer c.Close() //nolint:errcheck // nothing is left to write
		from := bufio.NewReader(c)
		h, err := readHeader(from)
		heard <- h
		if err != nil {
			return
		}
		_, _ = c.Write([]byte{letter})
		_, _ = io.Copy(c, from)
	}
}

func TestWhoeverServesIsToldWhoseTheFlowIsBeforeTheClientSaysAnything(t *testing.T) {
	for family, ip := range families() {
		for version, number := range versions() {
			for name, test := range map[string]struct {
				weight traffic.Weight
				refuse bool
				all    bool // the service is at all addresses
				letter byte
			}{
				"the candidate":         {weight: traffic.Whole, letter: 'n'},
				"the primary":           {weight: 0, letter: 'o'},
				"the primary instead":   {weight: traffic.Whole, refuse: true, letter: 'o'},
				"of a wildcard service": {weight: traffic.Whole, all: true, letter: 'n'},
			} {
				t.Run(family+"/"+string(version)+"/"+name, func(t *testing.T) {
					heard := make(chan told, 10)
					candidateAt := closedPort(ip)
					if !test.refuse {
						candidateAt = startServer(t, ip, expecting('n', heard))
					}
					at := netip.AddrPortFrom(ip, freePort())
					service := at
					if test.all {
						service = netip.AddrPortFrom(wildcard(ip), at.Port())
					}
					split := newSplit("mx", service, startServer(t, ip, expecting('o', heard)), map[string]candidate{"new": {candidateAt, test.weight}})
					split.Proxy.SendProxy = version
					r := startRelay(t, Options{}, split)

					c := dial(t, at)
					var letter [1]byte
					if _, err := io.ReadFull(c, letter[:]); err != nil || letter[0] != test.letter {
						t.Fatalf("greeted by %q, %v, want %q", letter, err, test.letter)
					}
					exchange(t, c, "the client's own words")
					want := told{number, c.LocalAddr().String(), at.String()}
					if diff := cmp.Diff(want, <-heard); diff != "" {
						t.Errorf("the header (-want +got):\n%s", diff)
					}
					backend := map[byte]string{'n': "new", 'o': "old"}[test.letter]
					words := uint64(len("the client's own words"))
					nettest.Eventually(t, "the words are counted, the header is not", func() bool {
						got := r.numbers(backend)
						return got.Flows == 1 && got.In == words && got.Out == words+1
					})
				})
			}
		}
	}
}

func wildcard(ip netip.Addr) netip.Addr {
	if ip.Is4() {
		return netip.IPv4Unspecified()
	}
	return netip.IPv6Unspecified()
}

// A client may end before its backend is connected: it is still a whole stream.
func TestAHeaderComesBeforeTheEndOfAClientThatSaysNothing(t *testing.T) {
	for version := range versions() {
		heard := make(chan told, 1)
		ip := families()["IPv4"]
		service := netip.AddrPortFrom(ip, freePort())
		split := newSplit("mx", service, startServer(t, ip, expecting('o', heard)), nil)
		split.Proxy.SendProxy = version
		startRelay(t, Options{}, split)
		c := dial(t, service)
		if err := c.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(c); err != nil || string(got) != "o" {
			t.Errorf("%s: the client reads %q, %v, want the greeting and a FIN", version, got, err)
		}
		if got := <-heard; got.Client != c.LocalAddr().String() {
			t.Errorf("%s: the server was told of %q, want %q", version, got.Client, c.LocalAddr())
		}
	}
}

func TestWithoutSendProxyABackendGetsTheClientsBytesAlone(t *testing.T) {
	_, connect := startPairs(t, families()["IPv4"], nil)
	p := connect(t)
	if _, err := p.client.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	if err := p.client.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(p.server); err != nil || string(got) != "hello" {
		t.Errorf("the server reads %q, %v, want hello", got, err)
	}
}

// A large stream goes by splice, behind a header that is copied.
func TestAStreamBehindAHeaderIsTheStreamThatWasSent(t *testing.T) {
	for version := range versions() {
		_, connect := startPairs(t, families()["IPv6"], func(p *traffic.Proxy) { p.SendProxy = version })
		p := connect(t)
		data := randomBytes(5, 8<<20)
		sent := make(chan error, 1)
		go func() {
			_, err := p.client.Write(data)
			sent <- errors.Join(err, p.client.CloseWrite())
		}()
		from := bufio.NewReader(p.server)
		if h, err := readHeader(from); err != nil || h.Client != p.client.LocalAddr().String() {
			t.Fatalf("%s: the header says %+v, %v", version, h, err)
		}
		got, err := io.ReadAll(from)
		if err = errors.Join(err, <-sent); err != nil || !bytes.Equal(got, data) {
			t.Errorf("%s: %d bytes, %v, want the %d that were sent", version, len(got), err, len(data))
		}
	}
}

// halvingEdge takes no more than a half of what it is given, down to a byte.
type halvingEdge struct {
	system
	sends atomic.Int64
}

func (h *halvingEdge) send(socket int, bytes []byte) outcome {
	h.sends.Add(1)
	return h.system.send(socket, bytes[:(len(bytes)+1)/2])
}

func TestAHeaderThatABackendTakesInPiecesArrivesWhole(t *testing.T) {
	for version := range versions() {
		ip := families()["IPv6"]
		service := netip.AddrPortFrom(ip, freePort())
		accepted := make(chan *net.TCPConn, 1)
		split := newSplit("mx", service, startServer(t, ip, func(c *net.TCPConn) { accepted <- c }), nil)
		split.Proxy.SendProxy = version
		halving := &halvingEdge{}
		r := startRelay(t, Options{Workers: 1, edge: func() edge { return halving }}, split)
		p := pair{client: dial(t, service)}
		if _, err := p.client.Write([]byte("hello")); err != nil {
			t.Fatal(err)
		}
		p.server = <-accepted
		t.Cleanup(func() { abortConn(p.server) })
		if err := p.server.SetDeadline(time.Now().Add(testPatience)); err != nil {
			t.Fatal(err)
		}
		wire := preamble(version, addrPort(t, p.client.LocalAddr()), service)
		want := append(wire, "hello"...)
		var got []byte
		piece := make([]byte, 200)
		for len(got) < len(want) {
			n, err := p.server.Read(piece)
			if err != nil {
				t.Fatalf("%s: after %q: %v", version, got, err)
			}
			got = append(got, piece[:n]...)
			// News of this byte is also news that the server takes more.
			if _, err := p.server.Write([]byte{'.'}); err != nil {
				t.Fatal(err)
			}
		}
		if diff := cmp.Diff(string(want), string(got)); diff != "" {
			t.Errorf("%s: (-want +got):\n%s", version, diff)
		}
		if n := halving.sends.Load(); n < 8 {
			t.Errorf("%s: %d sends: the header was not taken in pieces", version, n)
		}
		nettest.Eventually(t, "the client's bytes are counted", func() bool { return r.numbers("old").In == uint64(len("hello")) })
	}
}

func addrPort(t *testing.T, a net.Addr) netip.AddrPort {
	t.Helper()
	at, err := netip.ParseAddrPort(a.String())
	if err != nil {
		t.Fatal(err)
	}
	return at
}

// refusingEdge has every backend reset the connection at its first byte.
type refusingEdge struct{ system }

func (refusingEdge) send(int, []byte) outcome { return given(0, syscall.EPIPE) }

func TestABackendThatResetsInsteadOfTakingTheHeaderResetsTheClient(t *testing.T) {
	ip := families()["IPv4"]
	service := netip.AddrPortFrom(ip, freePort())
	split := newSplit("mx", service, startServer(t, ip, abortConn), nil)
	split.Proxy.SendProxy = traffic.SendProxyV2
	r := startRelay(t, Options{edge: func() edge { return refusingEdge{} }}, split)
	if _, err := greeting(service); !isReset(err) {
		t.Errorf("client got %v, want a reset", err)
	}
	nettest.Eventually(t, "the flow is over", func() bool { return r.numbers("old").Active == 0 })
	if got := r.numbers("old"); got.In != 0 {
		t.Errorf("%d bytes were counted to the backend, want none", got.In)
	}
}

// Else Nagle's algorithm would hold them until the backend has acknowledged the
// header, which it may put off for 40 ms.
func TestTheClientsFirstBytesDoNotWaitBehindTheHeader(t *testing.T) {
	r, connect := startPairs(t, families()["IPv4"], func(p *traffic.Proxy) { p.SendProxy = traffic.SendProxyV1 })
	p := connect(t)
	if _, err := p.client.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	from := bufio.NewReader(p.server)
	if _, err := readHeader(from); err != nil {
		t.Fatal(err)
	}
	if _, err := from.ReadByte(); err != nil {
		t.Fatal(err)
	}
	wantPrompt(t, r, 1)
}

// wantPrompt compares whether the backend of the only flow gets small writes at once.
func wantPrompt(t *testing.T, r *testRelay, want int) {
	t.Helper()
	r.inspect(func(w *worker) {
		w.flows.each(func(f *flow) {
			on, err := unix.GetsockoptInt(int(f.sockets[backend]), unix.IPPROTO_TCP, unix.TCP_NODELAY)
			if err != nil || on != want {
				t.Errorf("TCP_NODELAY is %d, %v, want %d", on, err, want)
			}
		})
	})
}

// Most flows have no second one, and are spared the call.
func TestAClientsSmallWritesGoToTheBackendAtOnceFromTheSecondOn(t *testing.T) {
	r, connect := startPairs(t, families()["IPv4"], func(*traffic.Proxy) {})
	p := connect(t)
	for _, want := range []int{0, 1} {
		if _, err := p.client.Write([]byte("hi")); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(p.server, make([]byte, 2)); err != nil {
			t.Fatal(err)
		}
		wantPrompt(t, r, want)
	}
}

// The header is not the client's question: who is not asked need not answer.
func TestABackendIsNotBlamedForClientsThatSayNothing(t *testing.T) {
	ip := families()["IPv4"]
	service := netip.AddrPortFrom(ip, freePort())
	hangs := startServer(t, ip, func(c *net.TCPConn) {
		_, _ = io.Copy(io.Discard, c)
		_ = c.Close()
	})
	split := newSplit("mx", service, startServer(t, ip, echo), map[string]candidate{"new": {hangs, traffic.Whole}})
	split.Proxy.FirstByteTimeout = 100 * time.Millisecond
	split.Proxy.SendProxy = traffic.SendProxyV1
	r := startRelay(t, Options{}, split)
	const flows = 2 * circuitFailures
	for range flows {
		if _, err := greeting(service); !isReset(err) {
			t.Fatalf("client got %v, want a reset", err)
		}
	}
	if got := r.numbers("new"); got.Flows != flows {
		t.Errorf("the candidate has had %d flows of %d", got.Flows, flows)
	}
}

func TestAProbeOfACandidateSendsNothing(t *testing.T) {
	ip := families()["IPv4"]
	service, candidateAt := netip.AddrPortFrom(ip, freePort()), closedPort(ip)
	split := newSplit("mx", service, startServer(t, ip, greeter('o')), map[string]candidate{"new": {candidateAt, traffic.Whole}})
	split.Proxy.SendProxy = traffic.SendProxyV2
	startRelay(t, Options{}, split)
	knock := func() {
		if letter, err := greeting(service); letter != 'o' || err != nil {
			t.Fatalf("served by %q, %v, want the primary", letter, err)
		}
	}
	for range circuitFailures {
		knock()
	}
	type read struct {
		bytes string
		err   error
	}
	first := make(chan read, 1)
	startServerAt(t, candidateAt, func(c *net.TCPConn) {
		_, _ = c.Write([]byte{'o'})
		got, err := io.ReadAll(c)
		select {
		case first <- read{string(got), err}:
		default:
		}
		_ = c.Close()
	})
	nettest.Eventually(t, "the candidate is probed", func() bool {
		knock()
		return len(first) > 0
	})
	if got := <-first; got.bytes != "" {
		t.Errorf("the probe sends %q, want nothing", got.bytes)
	}
}

func TestHeadersAreThoseOfTheSpecification(t *testing.T) {
	for name, test := range map[string]struct {
		client, service string
		v1, v2          string
	}{
		"IPv4": {
			"198.51.100.7:50000", "192.0.2.25:25", "PROXY TCP4 198.51.100.7 192.0.2.25 50000 25\r\n",
			sign + "\x21\x11\x00\x0c\xc6\x33\x64\x07\xc0\x00\x02\x19\xc3\x50\x00\x19",
		},
		"IPv6": {
			"[2001:db8::7]:65535", "[2001:db8::25]:1", "PROXY TCP6 2001:db8::7 2001:db8::25 65535 1\r\n",
			sign + "\x21\x21\x00\x24\x20\x01\x0d\xb8" + zeros(11) + "\x07\x20\x01\x0d\xb8" + zeros(11) + "\x25\xff\xff\x00\x01",
		},
		"IPv4 in IPv6 is IPv4": {
			"[::ffff:198.51.100.7]:50000", "[::ffff:192.0.2.25]:25", "PROXY TCP4 198.51.100.7 192.0.2.25 50000 25\r\n",
			sign + "\x21\x11\x00\x0c\xc6\x33\x64\x07\xc0\x00\x02\x19\xc3\x50\x00\x19",
		},
		"of two families both are IPv6": {
			"198.51.100.7:50000", "[2001:db8::25]:25", "PROXY TCP6 ::ffff:198.51.100.7 2001:db8::25 50000 25\r\n",
			sign + "\x21\x21\x00\x24" + zeros(10) + "\xff\xff\xc6\x33\x64\x07\x20\x01\x0d\xb8" + zeros(11) + "\x25\xc3\x50\x00\x19",
		},
		"the longest": {
			"[1111:2222:3333:4444:5555:6666:7777:8888]:65535", "[1111:2222:3333:4444:5555:6666:7777:9999]:65535",
			"PROXY TCP6 1111:2222:3333:4444:5555:6666:7777:8888 1111:2222:3333:4444:5555:6666:7777:9999 65535 65535\r\n",
			sign + "\x21\x21\x00\x24\x11\x11\x22\x22\x33\x33\x44\x44\x55\x55\x66\x66\x77\x77\x88\x88\x11\x11\x22\x22\x33\x33\x44\x44\x55\x55\x66\x66\x77\x77\x99\x99\xff\xff\xff\xff",
		},
		"a link-local client has no zone": {
			"[fe80::7%lo]:50000", "[fe80::25]:25", "PROXY TCP6 fe80::7 fe80::25 50000 25\r\n",
			sign + "\x21\x21\x00\x24\xfe\x80" + zeros(13) + "\x07\xfe\x80" + zeros(13) + "\x25\xc3\x50\x00\x19",
		},
	} {
		t.Run(name, func(t *testing.T) {
			from, to := netip.MustParseAddrPort(test.client), netip.MustParseAddrPort(test.service)
			for version, want := range map[traffic.SendProxy]string{traffic.SendProxyV1: test.v1, traffic.SendProxyV2: test.v2} {
				got := preamble(version, from, to)
				if diff := cmp.Diff(want, string(got)); diff != "" {
					t.Errorf("%s (-want +got):\n%s", version, diff)
				}
				if _, err := readHeader(bufio.NewReader(bytes.NewReader(got))); err != nil {
					t.Errorf("%s: it cannot be read: %v", version, err)
				}
			}
		})
	}
}

func zeros(n int) string { return string(make([]byte, n)) }

// The tee is told of what the client and the primary say, and of nothing else.
func TestATapIsNotGivenTheHeader(t *testing.T) {
	ip := families()["IPv4"]
	service, tee, heard := netip.AddrPortFrom(ip, freePort()), &recorder{}, make(chan told, 1)
	split := newSplit("mx", service, startServer(t, ip, expecting('o', heard)), nil)
	split.Sample, split.Proxy.SendProxy = traffic.Whole, traffic.SendProxyV1
	startRelay(t, Options{Tee: tee}, split)
	c := dial(t, service)
	var letter [1]byte
	if _, err := io.ReadFull(c, letter[:]); err != nil {
		t.Fatal(err)
	}
	exchange(t, c, "hello")
	tape := tee.only(t)
	tape.length(t, backend, len("ohello"))
	tape.read(func() {
		if got := string(tape.bytes[client]); got != "hello" {
			t.Errorf("the tap was given %q of the client, want hello", got)
		}
	})
}
