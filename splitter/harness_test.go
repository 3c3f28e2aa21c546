package splitter

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/splitd/splitd/traffic"
)

// families are the two loopbacks that every behaviour holds on.
func families() map[string]netip.Addr {
	return map[string]netip.Addr{"IPv4": netip.MustParseAddr("127.0.0.1"), "IPv6": netip.IPv6Loopback()}
}

var ports atomic.Uint32

// freePort returns a port that no other test uses, nor another worker of the
// fuzzer, which shares the loopback. They begin anew where scarcePorts begin.
func freePort() uint16 {
	for {
		port := 10000 + ports.Add(1)%(scarcePorts-10000)
		if l, err := net.ListenTCP("tcp", &net.TCPAddr{Port: int(port)}); err == nil {
			_ = l.Close()
			return uint16(port)
		}
	}
}

// testRelay is a Relay that runs until the test ends, and what it logged.
type testRelay struct {
	*Relay
	t    testing.TB
	logs *logBuffer
	stop context.CancelFunc
	done chan struct{}
}

func startRelay(t testing.TB, o Options, splits ...traffic.Split) *testRelay {
	t.Helper()
	if o.Workers == 0 {
		o.Workers = runtime.NumCPU() // not GOMAXPROCS, which each relay raises by one
	}
	logs := &logBuffer{}
	o.Log = slog.New(slog.NewTextHandler(logs, &slog.HandlerOptions{Level: slog.LevelDebug}))
	ctx, stop := context.WithCancel(context.Background())
	r := &testRelay{Relay: New(o), t: t, logs: logs, stop: stop, done: make(chan struct{})}
	go func() {
		defer close(r.done)
		if err := r.Run(ctx); err != nil {
			t.Errorf("Run() = %v, want nil", err)
		}
	}()
	t.Cleanup(func() {
		stop()
		select {
		case <-r.done:
		case <-time.After(testPatience):
			t.Errorf("Run did not return:\n%s", stacks())
		}
		if t.Failed() {
			t.Logf("end of the relay's log:\n%s", logs.tail(4000))
		}
	})
	r.apply(splits...)
	return r
}

// inspect calls look on every worker's own thread.
func (r *testRelay) inspect(look func(*worker)) {
	for _, w := range r.workers {
		seen := make(chan struct{})
		w.post(func() {
			defer close(seen)
			look(w)
		})
		<-seen
	}
}

// openFlows is the number of flows, those that are being connected too.
func (r *testRelay) openFlows() int {
	open := 0
	r.inspect(func(w *worker) { open += w.flows.open })
	return open
}

func (r *testRelay) apply(splits ...traffic.Split) {
	r.t.Helper()
	if err := r.Apply(r.t.Context(), splits); err != nil {
		r.t.Fatalf("Apply() = %v", err)
	}
}

func (r *testRelay) setWeights(split traffic.Split, weights map[string]traffic.Weight) {
	r.t.Helper()
	changed, err := split.WithWeights(weights)
	if err == nil {
		err = r.SetWeights(changed)
	}
	if err != nil {
		r.t.Fatalf("SetWeights(%v) = %v", weights, err)
	}
}

// numbers are Counts of a backend of the split "mx" without pointers.
type numbers struct{ Flows, Active, In, Out, Failed uint64 }

func (r *testRelay) numbers(backend string) numbers {
	r.t.Helper()
	c, ok := r.Counts()[traffic.BackendKey{Split: "mx", Backend: backend}]
	if !ok {
		r.t.Fatalf("no counts of mx/%s", backend)
	}
	return numbers{c.Flows, *c.Active, *c.BytesIn, *c.BytesOut, *c.ConnectFailed}
}

// newSplit is a split of one service address with a primary "old" and
// candidates named in the order given; each backend may be the zero AddrPort
// for a closed port.
func newSplit(name string, service, primary netip.AddrPort, candidates map[string]candidate) traffic.Split {
	s := traffic.Split{
		Name:    name,
		Service: traffic.Service{Addresses: []netip.Addr{service.Addr()}, Ports: []traffic.Port{{Number: service.Port(), Transport: traffic.TCP}}},
		Mode:    traffic.ModeProxy,
		Primary: remote("old", primary),
		Proxy: traffic.Proxy{
			ConnectTimeout: 500 * time.Millisecond, Fallback: traffic.FallbackPrimary,
			IdleTimeout: time.Hour, DrainTimeout: 50 * time.Millisecond,
		},
	}
	for _, name := range []string{"new", "newer"} {
		if c, ok := candidates[name]; ok {
			b := remote(name, c.address)
			b.Weight = c.weight
			s.Candidates = append(s.Candidates, b)
		}
	}
	return s
}

type candidate struct {
	address netip.AddrPort
	weight  traffic.Weight
}

func remote(name string, at netip.AddrPort) traffic.Backend {
	return traffic.Backend{Name: name, Addresses: []traffic.Address{{IP: at.Addr(), Port: at.Port()}}}
}

// startServer listens on ip and gives every connection to handle, which owns
// it. It is gone, with all its goroutines, when the test ends.
func startServer(t testing.TB, ip netip.Addr, handle func(*net.TCPConn)) netip.AddrPort {
	t.Helper()
	return startServerAt(t, netip.AddrPortFrom(ip, freePort()), handle)
}

func startServerAt(t testing.TB, at netip.AddrPort, handle func(*net.TCPConn)) netip.AddrPort {
	t.Helper()
	l, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(at))
	if err != nil {
		t.Fatal(err)
	}
	var handlers sync.WaitGroup
	handlers.Go(func() {
		for {
			c, err := l.AcceptTCP()
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err != nil {
				t.Errorf("server accept: %v", err)
				return
			}
			handlers.Go(func() { handle(c) })
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		handlers.Wait()
	})
	return at
}

// greeter answers at once with its one-letter name and waits for the end.
func greeter(letter byte) func(*net.TCPConn) {
	return func(c *net.TCPConn) {
		_, _ = c.Write([]byte{letter})
		_, _ = io.Copy(io.Discard, c)
		_ = c.Close()
	}
}

// echo sends everything back, and its FIN after the client's.
func echo(c *net.TCPConn) {
	_, _ = io.Copy(c, c)
	_ = c.Close()
}

// closedPort is an address where nothing listens: connections are refused.
func closedPort(ip netip.Addr) netip.AddrPort { return netip.AddrPortFrom(ip, freePort()) }

func dial(t testing.TB, to netip.AddrPort) *net.TCPConn {
	t.Helper()
	c, err := net.DialTCP("tcp", nil, net.TCPAddrFromAddrPort(to))
	if err != nil {
		t.Fatalf("dial %s: %v", to, err)
	}
	t.Cleanup(func() { abortConn(c) })
	if err := c.SetDeadline(time.Now().Add(testPatience)); err != nil {
		t.Fatal(err)
	}
	return c
}

// abortConn closes with an RST, which leaves no TIME_WAIT behind.
func abortConn(c *net.TCPConn) {
	_ = c.SetLinger(0)
	_ = c.Close()
}

// greeting dials, reads one byte and closes with an RST.
func greeting(to netip.AddrPort) (byte, error) {
	c, err := net.DialTCP("tcp", nil, net.TCPAddrFromAddrPort(to))
	if err != nil {
		return 0, err
	}
	defer abortConn(c)
	if err := c.SetDeadline(time.Now().Add(testPatience)); err != nil {
		return 0, err
	}
	var b [1]byte
	_, err = io.ReadFull(c, b[:])
	return b[0], err
}

// exchange writes text and reads as much back. It has its own time, however long the
// test has taken so far.
func exchange(t testing.TB, c *net.TCPConn, text string) {
	t.Helper()
	if err := c.SetDeadline(time.Now().Add(testPatience)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(c, text); err != nil {
		t.Fatalf("write: %v", err)
	}
	got := make([]byte, len(text))
	if _, err := io.ReadFull(c, got); err != nil || string(got) != text {
		t.Fatalf("read %q, %v, want %q", got, err, text)
	}
}

func isReset(err error) bool { return errors.Is(err, syscall.ECONNRESET) }

// seededDraw is a Draw that every run draws alike, whatever the order of the
// goroutines.
func seededDraw(seed uint64) func() traffic.Weight {
	var mu sync.Mutex
	r := rand.New(rand.NewPCG(seed, seed))
	return func() traffic.Weight {
		mu.Lock()
		defer mu.Unlock()
		return traffic.Weight(r.IntN(int(traffic.Whole)))
	}
}

// openFiles lists what the file descriptors of this process point to.
func openFiles(t testing.TB) []string {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	var files []string
	for _, e := range entries {
		if target, err := os.Readlink("/proc/self/fd/" + e.Name()); err == nil {
			files = append(files, target)
		}
	}
	return files
}

func countFiles(t testing.TB, prefix string) int {
	n := 0
	for _, f := range openFiles(t) {
		if strings.HasPrefix(f, prefix) {
			n++
		}
	}
	return n
}

func stacks() []byte {
	text := make([]byte, 1<<20)
	return text[:runtime.Stack(text, true)]
}

type logBuffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *logBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

// testPatience is how long a test waits for what must happen soon, and how
// long one of its connections lasts: what no busy machine needs.
const testPatience = time.Minute

// tail returns the last n bytes.
func (b *logBuffer) tail(n int) string {
	text := b.String()
	return text[max(len(text)-n, 0):]
}

func tcpSpot(at netip.AddrPort) spot { return spot{at, traffic.TCP} }
