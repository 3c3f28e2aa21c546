package splitter

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/splitd/splitd/internal/nettest"
	"github.com/splitd/splitd/traffic"
)

// The model of a flow that is carried is that of any other: what one end sends the other
// gets, and each end sees the other's.
func FuzzACarriedFlowIsAsAnyOther(f *testing.F) {
	addPrograms(f, 9)
	_, connect := startCarried(f, families()["IPv4"], &carriers{}, Options{}, nil)
	f.Fuzz(func(t *testing.T, program []byte) {
		p := connect(t)
		client, server := newEnd(p.client, 1), newEnd(p.server, 2)
		resetter := play(t, decode(program), client, server, uint64(len(program)))
		client.takeAll()
		server.takeAll()
		for who, d := range map[string]struct{ from, to *end }{"the client's": {client, server}, "the server's": {server, client}} {
			switch {
			case !bytes.HasPrefix(d.from.sent, d.to.got):
				t.Errorf("%s: the %d bytes that arrived are not the first that were sent", who, len(d.to.got))
			case resetter == nil && (len(d.to.got) != len(d.from.sent) || !errors.Is(d.to.failed, io.EOF)):
				t.Errorf("%s: %d of %d bytes arrived, and then %v, want all and a FIN", who, len(d.to.got), len(d.from.sent), d.to.failed)
			case resetter == d.from && !d.from.fin && errors.Is(d.to.failed, io.EOF):
				t.Errorf("%s: a reset came as a FIN", who)
			}
		}
	})
}

func TestACarriedFlowHasItsBytesItsFINsAndItsCounts(t *testing.T) {
	for family, ip := range families() {
		for who, first := range map[string]side{"client": client, "backend": backend} {
			t.Run(family+"/"+who, func(t *testing.T) {
				log, c := &notebook{}, &carriers{}
				r, connect := startCarried(t, ip, c, Options{FlowLog: log}, nil)
				p := connect(t)
				ends := [2]*net.TCPConn{client: p.client, backend: p.server}
				sent := [2][]byte{client: randomBytes(3, 3<<20), backend: randomBytes(4, 5<<20)}
				for _, from := range []side{first, first.other()} {
					go func() {
						_, _ = ends[from].Write(sent[from])
						_ = ends[from].CloseWrite()
					}()
					if got := readAll(t, ends[from.other()]); !bytes.Equal(got, sent[from]) {
						t.Errorf("of side %d %d bytes came, want the %d that were sent", from, len(got), len(sent[from]))
					}
				}
				r.wantNothingLeft(t, c)
				want := numbers{Flows: 1, In: 3 << 20, Out: 5 << 20}
				if diff := cmp.Diff(want, r.numbers("old")); diff != "" {
					t.Errorf("counts (-want +got):\n%s", diff)
				}
				if got, want := log.end(t), "old only closed "+who+" -- 3145728 5242880"; got != want {
					t.Errorf("the log has %q, want %q", got, want)
				}
				if diff := cmp.Diff(TeeCounts{Sampled: 1, Tapped: 1}, r.TeeCounts()["mx"]); diff != "" {
					t.Errorf("counts of tees (-want +got):\n%s", diff)
				}
				if got := c.opened[0].Client; got != addrPort(t, p.client.LocalAddr()) {
					t.Errorf("the tee was told of a flow of %s", got)
				}
			})
		}
	}
}

func TestACarriedFlowEndsAsAnyOther(t *testing.T) {
	key := traffic.BackendKey{Split: "mx", Backend: "old"}
	soon := func(set func(*traffic.Proxy, time.Duration)) func(*traffic.Proxy) {
		return func(p *traffic.Proxy) { set(p, 50*time.Millisecond) }
	}
	for name, test := range map[string]struct {
		proxy  func(*traffic.Proxy)
		silent bool // nothing is said before
		do     func(t *testing.T, r *testRelay, p pair)
		want   string
		reset  []side // who is
	}{
		"reset by the client":  {do: func(_ *testing.T, _ *testRelay, p pair) { abortConn(p.client) }, want: "reset client CD 2 2", reset: []side{backend}},
		"reset by the primary": {do: func(_ *testing.T, _ *testRelay, p pair) { abortConn(p.server) }, want: "reset backend SD 2 2", reset: []side{client}},
		"reset by the client after its FIN": {do: func(t *testing.T, _ *testRelay, p pair) {
			_ = p.client.CloseWrite()
			readAll(t, p.server)
			abortConn(p.client)
		}, want: "reset client CL 2 2", reset: []side{backend}},
		"reset by the primary after its FIN": {do: func(t *testing.T, _ *testRelay, p pair) {
			_ = p.server.CloseWrite()
			readAll(t, p.client)
			abortConn(p.server)
		}, want: "reset backend SL 2 2", reset: []side{client}},
		"reset by the client after the primary's FIN": {do: func(t *testing.T, _ *testRelay, p pair) {
			_ = p.server.CloseWrite()
			readAll(t, p.client)
			abortConn(p.client)
		}, want: "reset client CL 2 2", reset: []side{backend}},
		"killed": {
			do:   func(_ *testing.T, r *testRelay, _ pair) { r.End(r.OpenFlows(key)) },
			want: "killed splitd KD 2 2", reset: []side{client, backend},
		},
		"killed after a FIN": {do: func(t *testing.T, r *testRelay, p pair) {
			_ = p.client.CloseWrite()
			readAll(t, p.server)
			r.End(r.OpenFlows(key))
		}, want: "killed splitd KL 2 2", reset: []side{client, backend}},
		"stopped": {
			do:   func(_ *testing.T, r *testRelay, _ pair) { r.stop() },
			want: "stopped splitd KD 2 2", reset: []side{client, backend},
		},
		"idle": {
			proxy: soon(func(p *traffic.Proxy, d time.Duration) { p.IdleTimeout = d }),
			do:    func(*testing.T, *testRelay, pair) {},
			want:  "idle splitd cD 2 2", reset: []side{client, backend},
		},
		"half-closed for too long": {
			proxy: soon(func(p *traffic.Proxy, d time.Duration) { p.HalfClosedTimeout = d }),
			do:    func(_ *testing.T, _ *testRelay, p pair) { _ = p.client.CloseWrite() },
			want:  "idle splitd cL 2 2", reset: []side{client, backend},
		},
		"without a first byte": {
			proxy:  soon(func(p *traffic.Proxy, d time.Duration) { p.FirstByteTimeout = d }),
			silent: true,
			do:     func(t *testing.T, _ *testRelay, p pair) { write(t, p.client, "hello?") },
			want:   "silent splitd sH 6 0", reset: []side{client, backend},
		},
	} {
		t.Run(name, func(t *testing.T) {
			log, c := &notebook{}, &carriers{}
			r, connect := startCarried(t, families()["IPv4"], c, Options{FlowLog: log}, func(s *traffic.Split) {
				if test.proxy != nil {
					test.proxy(&s.Proxy)
				}
			})
			p := connect(t)
			if !test.silent {
				if err := talk(p.client, p.server); err != nil {
					t.Fatal(err)
				}
			}
			test.do(t, r, p)
			if got, want := log.end(t), "old only "+test.want; got != want {
				t.Errorf("the log has %q, want %q", got, want)
			}
			for _, s := range test.reset {
				awaitReset(t, [2]*net.TCPConn{client: p.client, backend: p.server}[s])
			}
			nettest.Eventually(t, "nobody carries it", func() bool { return c.carrying() == 0 })
		})
	}
}

// The relay's own RST throws away what the kernel has not sent, and so would do that of a
// socket which is closed before it was read to the end.
func TestWhatACarrierHasWrittenArrivesBeforeTheEnd(t *testing.T) {
	const words = 4 << 20
	for name, test := range map[string]struct {
		carry func(ctx context.Context, c, primary net.Conn) error
		end   func(p pair)
		reset bool
		want  string
	}{
		"where it fails": {
			carry: func(_ context.Context, c, primary net.Conn) error {
				_, _ = c.Read(make([]byte, 1)) // and not the rest
				_, _ = c.Write(randomBytes(1, words))
				_, _ = primary.Write(randomBytes(1, words))
				return errors.New("a fault of the carrier's own")
			},
			want: "failed splitd PD",
		},
		"where it returns before both have ended": {
			carry: func(_ context.Context, c, primary net.Conn) error {
				_, _ = c.Read(make([]byte, 1))
				_, _ = c.Write(randomBytes(1, words))
				_, _ = primary.Write(randomBytes(1, words))
				return nil
			},
			want: "closed client --",
		},
	} {
		t.Run(name, func(t *testing.T) {
			log, c := &notebook{}, &carriers{carry: test.carry}
			r, connect := startCarried(t, families()["IPv4"], c, Options{FlowLog: log}, nil)
			p := connect(t)
			write(t, p.client, "a word that is read, and others that are not")
			var got [2][]byte
			var reads sync.WaitGroup
			for i, conn := range []*net.TCPConn{p.client, p.server} {
				reads.Go(func() { got[i] = readAll(t, conn) })
			}
			reads.Wait()
			for i := range got {
				if !bytes.Equal(got[i], randomBytes(1, words)) {
					t.Errorf("side %d has %d bytes, want the %d that were written", i, len(got[i]), words)
				}
			}
			_, _ = p.client.Close(), p.server.Close()
			if end := log.end(t); !strings.HasPrefix(end, "old only "+test.want) {
				t.Errorf("the log has %q, want %q", end, test.want)
			}
			r.wantNothingLeft(t, c)
		})
	}
}

func TestLastWordsOfASideThatIsResetAreCarriedToTheOther(t *testing.T) {
	c := &carriers{}
	r, connect := startCarried(t, families()["IPv4"], c, Options{}, nil)
	p := connect(t)
	words := randomBytes(5, 1<<20)
	nettest.Eventually(t, "the relay has all of them", func() bool {
		if len(words) > 0 {
			n, err := p.server.Write(words)
			if err != nil {
				t.Fatal(err)
			}
			words = words[n:]
		}
		return r.numbers("old").Out == 1<<20
	})
	abortConn(p.server)
	got, err := io.ReadAll(p.client)
	if len(got) != 1<<20 || !isReset(err) {
		t.Errorf("the client has %d bytes and then %v, want all and a reset", len(got), err)
	}
	r.wantNothingLeft(t, c)
}

func TestAPanicOfACarrierCostsItsFlowAlone(t *testing.T) {
	c := &carriers{carry: func(ctx context.Context, client, primary net.Conn) error {
		word := make([]byte, 1)
		if _, err := client.Read(word); err != nil || word[0] == '!' {
			panic("a fault of Carry")
		}
		_, err := primary.Write(word)
		return errors.Join(err, copyBoth(ctx, client, primary))
	}}
	log := &notebook{}
	r, connect := startCarried(t, families()["IPv4"], c, Options{Workers: 1, FlowLog: log}, nil)
	breaks, beside := connect(t), connect(t)
	write(t, breaks.client, "!")
	awaitReset(t, breaks.client)
	awaitReset(t, breaks.server)
	if err := talk(beside.client, beside.server); err != nil {
		t.Errorf("a flow beside it: %v", err)
	}
	if got, want := log.end(t), "old only fault splitd ID 1 0"; got != want {
		t.Errorf("the log has %q, want %q", got, want)
	}
	if diff := cmp.Diff(TeeCounts{Sampled: 2, Tapped: 2, Panicked: 1}, r.TeeCounts()["mx"]); diff != "" {
		t.Errorf("counts (-want +got):\n%s", diff)
	}
	if n := r.Faults().Panics; n != 1 {
		t.Errorf("%d panics that cut a flow off, want 1", n)
	}
	nettest.Eventually(t, "the log tells of it", func() bool { return strings.Contains(r.logs.String(), `who="a carrier"`) })
}

// It may be computing something, or simply be slow: its flow is gone for its peers all the
// same, and the relay ends when it has returned.
func TestACarrierThatDoesNotReturnHoldsUpNoPeer(t *testing.T) {
	release := make(chan struct{})
	c := &carriers{carry: func(ctx context.Context, client, primary net.Conn) error {
		<-ctx.Done()
		for _, conn := range []net.Conn{client, primary} {
			if _, err := conn.Read(make([]byte, 1)); err == nil {
				return errors.New("a read has succeeded")
			}
			if _, err := conn.Write([]byte("late")); err == nil {
				return errors.New("a write has succeeded")
			}
		}
		<-release
		return nil
	}}
	r, connect := startCarried(t, families()["IPv4"], c, Options{}, func(s *traffic.Split) { s.Proxy.MaxClientFlows = 1 })
	p := connect(t)
	r.End(r.OpenFlows(traffic.BackendKey{Split: "mx", Backend: "old"}))
	awaitReset(t, p.client)
	awaitReset(t, p.server)
	again := connect(t) // or the limit would keep it out
	r.stop()
	awaitReset(t, again.client)
	if r.returned(shortly) {
		t.Error("Run has returned while flows are carried")
	}
	close(release)
	if !r.returned(testPatience) {
		t.Error("Run does not return")
	}
	if n := r.files.used.Load(); n != 0 {
		t.Errorf("%d descriptors are still counted", n)
	}
}

func TestTheEndOfTheRelayWaitsForCarriedFlows(t *testing.T) {
	c := &carriers{}
	r, connect := startCarried(t, families()["IPv4"], c, Options{}, func(s *traffic.Split) { s.Proxy.DrainTimeout = 0 })
	p := connect(t)
	r.stop()
	if r.returned(shortly) {
		t.Fatal("Run returned under an open flow")
	}
	if err := talk(p.client, p.server); err != nil {
		t.Errorf("while it drains: %v", err)
	}
	_ = p.client.CloseWrite()
	readAll(t, p.server)
	_ = p.server.CloseWrite()
	readAll(t, p.client)
	if !r.returned(testPatience) {
		t.Error("Run does not return")
	}
}

// What was read before is written by who has read it.
func TestTheRelayGoesOnWithAFlowThatACarrierGivesBack(t *testing.T) {
	for name, header := range map[string]traffic.SendProxy{"without a header": "", "with one": traffic.SendProxyV1} {
		t.Run(name, func(t *testing.T) {
			calls, log := newCallEdge(), &notebook{}
			c := &carriers{carry: func(_ context.Context, client, primary net.Conn) error {
				hello := make([]byte, 5)
				if _, err := io.ReadFull(client, hello); err != nil {
					return err
				}
				_, err := primary.Write(hello)
				return errors.Join(err, ErrUnseen)
			}}
			r, connect := startCarried(t, families()["IPv4"], c, Options{Workers: 1, FlowLog: log, edge: func() edge { return calls }},
				func(s *traffic.Split) { s.Proxy.SendProxy = header })
			p := connect(t)
			write(t, p.client, "hello, and more")
			introduced := skipHeader(t, p.server, header)
			got := make([]byte, len("hello, and more"))
			if _, err := io.ReadFull(p.server, got); err != nil || string(got) != "hello, and more" {
				t.Fatalf("the primary reads %q, %v", got, err)
			}
			nettest.Eventually(t, "nobody carries it", func() bool { return c.carrying() == 0 && r.files.used.Load() == filesOfFlow })
			data := randomBytes(7, 8<<20)
			go func() {
				_, _ = p.server.Write(data)
				_ = p.server.CloseWrite()
			}()
			if got := readAll(t, p.client); !bytes.Equal(got, data) {
				t.Errorf("the client has read %d bytes, want the %d that were sent", len(got), len(data))
			}
			if calls.count("draw") == 0 {
				t.Error("its stream is not spliced")
			}
			_ = p.client.CloseWrite()
			readAll(t, p.server)
			r.wantNothingLeft(t, c)
			if got, want := log.end(t), "old only closed backend -- 15 8388608"; got != want {
				t.Errorf("the log has %q, want %q", got, want)
			}
			if in := r.numbers("old").In; in != 15 {
				t.Errorf("%d bytes are counted in, want 15 and none of the header's %d", in, introduced)
			}
		})
	}
}

// skipHeader reads the PROXY header of version 1, if there is to be one, and says how long it is.
func skipHeader(t *testing.T, from io.Reader, version traffic.SendProxy) int {
	t.Helper()
	if version == "" {
		return 0
	}
	var line []byte
	for !bytes.HasSuffix(line, []byte("\r\n")) {
		var b [1]byte
		if _, err := io.ReadFull(from, b[:]); err != nil {
			t.Fatal(err)
		}
		line = append(line, b[0])
	}
	if !bytes.HasPrefix(line, []byte("PROXY TCP4 ")) {
		t.Errorf("the header is %q", line)
	}
	return len(line)
}

// lendingEdge has no descriptors to lend, from the nth on.
type lendingEdge struct {
	system
	left int
}

func (l *lendingEdge) lend(socket int) (int, syscall.Errno) {
	if l.left--; l.left < 0 {
		return 0, unix.EMFILE
	}
	return l.system.lend(socket)
}

func TestAFlowThatCannotBeLentGoesOnUnseen(t *testing.T) {
	for name, test := range map[string]struct {
		edge func() edge
		most int64
	}{
		"the process has no descriptor":       {edge: func() edge { return &lendingEdge{} }},
		"it has one":                          {edge: func() edge { return &lendingEdge{left: 1} }},
		"flows have as many as they may have": {edge: func() edge { return system{} }, most: filesOfFlow},
	} {
		t.Run(name, func(t *testing.T) {
			log, c := &notebook{}, &carriers{}
			r, connect := startCarried(t, families()["IPv4"], c, Options{Workers: 1, FlowLog: log, edge: test.edge}, nil)
			if test.most > 0 {
				r.inspect(func(*worker) { r.files.most = test.most })
			}
			forcePoolsEmpty()
			sockets := countFiles(t, "socket:")
			p := connect(t)
			if err := talk(p.client, p.server); err != nil {
				t.Fatal(err)
			}
			if n := countFiles(t, "socket:") - sockets; n != 4 {
				t.Errorf("the flow and its ends have %d sockets, want 4", n)
			}
			closeThen(t, p.client, p.server)
			if got, want := log.end(t), "old only closed client -- 2 2"; got != want {
				t.Errorf("the log has %q, want %q", got, want)
			}
			c.look(func() {
				if len(c.ends) != 1 || c.ends[0].End != "short" || c.taken != 0 {
					t.Errorf("its tap was given %d chunks and the ends %v, want that it fell short", c.taken, c.ends)
				}
			})
			nettest.Eventually(t, "the log tells of it", func() bool { return strings.Contains(r.logs.String(), "goes on unseen") })
			nettest.Eventually(t, "no descriptor is counted", func() bool { return r.files.used.Load() == 0 })
		})
	}
}

// Who carries a flow may use its connections as any others.
func TestACarriersConnectionsAreConnections(t *testing.T) {
	type result struct {
		local, remote string
		err           error
	}
	results := make(chan result, 1)
	c := &carriers{carry: func(_ context.Context, client, primary net.Conn) error {
		res := result{local: client.LocalAddr().String(), remote: client.RemoteAddr().String()}
		check := func(what string, is bool) {
			if !is {
				res.err = errors.Join(res.err, errors.New(what))
			}
		}
		var timeout net.Error
		_ = client.SetReadDeadline(time.Now())
		_, err := client.Read(make([]byte, 1))
		check("no timeout", errors.As(err, &timeout) && timeout.Timeout() && errors.Is(err, os.ErrDeadlineExceeded))
		_ = client.SetReadDeadline(time.Time{})
		n, err := client.Read(make([]byte, 9))
		check("no read after a timeout", n == 1 && err == nil)

		waits := make(chan error)
		go func() {
			_, err := primary.Read(make([]byte, 1))
			waits <- err
		}()
		_ = primary.Close()
		check("Close ends no read", errors.Is(<-waits, net.ErrClosed))
		_, err = primary.Write([]byte("more"))
		check("a write after Close", errors.Is(err, net.ErrClosed))
		check("a deadline after Close", errors.Is(primary.SetDeadline(time.Time{}), net.ErrClosed))
		check("a second Close", errors.Is(primary.Close(), net.ErrClosed))
		results <- res
		return ErrUnseen // so it was not closed
	}}
	r, connect := startCarried(t, families()["IPv4"], c, Options{}, nil)
	p := connect(t)
	nettest.Eventually(t, "it is carried", func() bool { return c.carrying() == 1 || len(results) == 1 })
	write(t, p.client, "x")
	got := <-results
	want := result{local: p.client.RemoteAddr().String(), remote: p.client.LocalAddr().String()}
	if got.err != nil || got.local != want.local || got.remote != want.remote {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if err := talk(p.client, p.server); err != nil {
		t.Error(err)
	}
	_, _ = p.client.Close(), p.server.Close()
	r.wantNothingLeft(t, c)
}

// Who carries it may wait for one side while the other is reset, and not look.
func TestACarrierThatSeesNoResetHasAWhile(t *testing.T) {
	key := traffic.BackendKey{Split: "mx", Backend: "old"}
	c := &carriers{carry: func(ctx context.Context, _, _ net.Conn) error {
		<-ctx.Done()
		return nil
	}}
	log := &notebook{}
	r, connect := startCarried(t, families()["IPv4"], c, Options{Workers: 1, FlowLog: log}, nil)
	p := connect(t)
	abortConn(p.client)
	nettest.Eventually(t, "its time is set", func() bool {
		set := false
		r.inspect(func(w *worker) {
			w.flows.each(func(f *flow) { set = f.times.cut > 0 && f.times.cut <= w.now+ticks(lastWords) })
		})
		return set
	})
	r.inspect(func(w *worker) {
		w.flows.each(func(f *flow) {
			f.times.cut = max(w.now, 1) // it is over; 0 is none
			w.appoint(f)
		})
	})
	awaitReset(t, p.server)
	if got, want := log.end(t), "old only reset client CD 0 0"; got != want {
		t.Errorf("the log has %q, want %q", got, want)
	}
	if n := len(r.OpenFlows(key)); n != 0 {
		t.Errorf("%d flows are open", n)
	}
	r.wantNothingLeft(t, c)
}

// A FIN would look like a whole stream.
func TestAFlowWhoseResetACarrierHasNotSeenIsResetWhenItFails(t *testing.T) {
	release := make(chan struct{})
	c := &carriers{carry: func(context.Context, net.Conn, net.Conn) error {
		<-release
		return errors.New("something else")
	}}
	log := &notebook{}
	r, connect := startCarried(t, families()["IPv4"], c, Options{FlowLog: log}, nil)
	p := connect(t)
	abortConn(p.client)
	nettest.Eventually(t, "the relay knows of it", func() bool {
		knows := false
		r.inspect(func(w *worker) { w.flows.each(func(f *flow) { knows = f.stream.lost[client] }) })
		return knows
	})
	close(release)
	if n, err := p.server.Read(make([]byte, 1)); n != 0 || !isReset(err) {
		t.Errorf("the primary reads %d bytes and %v, want a reset", n, err)
	}
	if got, want := log.end(t), "old only reset client CD 0 0"; got != want {
		t.Errorf("the log has %q, want %q", got, want)
	}
	r.wantNothingLeft(t, c)
}

// A FIN would look like a whole stream.
func TestAResetThatACarrierTakesForAnEndIsPassedOnAsAReset(t *testing.T) {
	c := &carriers{carry: func(_ context.Context, client, primary net.Conn) error {
		_, _ = io.Copy(primary, client)
		return primary.(interface{ CloseWrite() error }).CloseWrite()
	}}
	log := &notebook{}
	r, connect := startCarried(t, families()["IPv4"], c, Options{FlowLog: log}, nil)
	p := connect(t)
	write(t, p.client, "half a")
	if _, err := io.ReadFull(p.server, make([]byte, 6)); err != nil {
		t.Fatal(err)
	}
	abortConn(p.client)
	if n, err := p.server.Read(make([]byte, 1)); n != 0 || !isReset(err) {
		t.Errorf("the primary reads %d bytes and %v, want a reset", n, err)
	}
	if got, want := log.end(t), "old only reset client CD 6 0"; got != want {
		t.Errorf("the log has %q, want %q", got, want)
	}
	r.wantNothingLeft(t, c)
}

func TestAPrimaryHasItsHeaderBeforeItsFlowIsCarried(t *testing.T) {
	for family, ip := range families() {
		for version, number := range versions() {
			t.Run(family+"/"+string(version), func(t *testing.T) {
				heard := make(chan told, 1)
				c, service := &carriers{}, netip.AddrPortFrom(ip, freePort())
				split := newSplit("mx", service, startServer(t, ip, expecting('o', heard)), nil)
				split.Sample, split.Proxy.SendProxy = traffic.Whole, version
				r := startRelay(t, Options{Tee: c}, split)
				conn := dial(t, service)
				if got := letter(t, conn); got != "o" {
					t.Errorf("served by %q", got)
				}
				exchange(t, conn, "hello")
				if diff := cmp.Diff(told{number, conn.LocalAddr().String(), service.String()}, <-heard); diff != "" {
					t.Errorf("the header (-want +got):\n%s", diff)
				}
				_ = conn.CloseWrite()
				readAll(t, conn)
				r.wantNothingLeft(t, c)
				if got := r.numbers("old"); got.In != 5 || got.Out != 6 {
					t.Errorf("%d bytes in and %d out are counted, want 5 and 6: the header is nobody's", got.In, got.Out)
				}
			})
		}
	}
}

func TestAFlowBehindAProxyIsCarriedAsItsClients(t *testing.T) {
	ip := families()["IPv4"]
	c, log, service := &carriers{}, &notebook{}, netip.AddrPortFrom(ip, freePort())
	split := behindProxies(ip, newSplit("mx", service, startServer(t, ip, echo), nil))
	split.Sample = traffic.Whole
	r := startRelay(t, Options{Tee: c, FlowLog: log}, split)
	conn := dial(t, service)
	write(t, conn, text("198.51.100.7:50000"))
	exchange(t, conn, "hello")
	_ = conn.CloseWrite()
	readAll(t, conn)
	if got, want := log.end(t), "old only closed client -- 5 5"; got != want {
		t.Errorf("the log has %q, want %q", got, want)
	}
	c.look(func() {
		if len(c.opened) != 1 || c.opened[0].Client.String() != "198.51.100.7:50000" {
			t.Errorf("the tee was told of %+v", c.opened)
		}
	})
	r.wantNothingLeft(t, c)
}

func TestAPrimaryOfATransparentSplitSeesTheClientOfACarriedFlow(t *testing.T) {
	for family, ip := range families() {
		t.Run(family, func(t *testing.T) {
			c, who, service := &carriers{}, aClient(t, family), netip.AddrPortFrom(ip, freePort())
			split := transparent(newSplit("mx", service, startServer(t, ip, tellPeer), nil))
			split.Sample = traffic.Whole
			r := startRelay(t, Options{LegMark: 1 << 20, Tee: c}, split)
			if peer, err := askPeer(t, who, service); err != nil || peer.Addr() != who {
				t.Errorf("the primary saw %s, %v, want %s", peer, err, who)
			}
			r.wantNothingLeft(t, c)
		})
	}
}

func TestAFlowOfTheKernelIsCarried(t *testing.T) {
	for family, ip := range families() {
		t.Run(family, func(t *testing.T) {
			c := &carriers{}
			lab := newInletLab(t, ip, startServer(t, ip, tellPeer), func(s *traffic.Split, o *Options) {
				s.Sample, o.Tee = traffic.Whole, c
			})
			who := aClient(t, family)
			for range 3 {
				if peer, err := askPeer(t, who, lab.service); err != nil || peer.Addr() != who {
					t.Errorf("the primary saw %s, %v, want %s", peer, err, who)
				}
			}
			nettest.Eventually(t, "all is over", func() bool {
				return lab.inlet().Open == 0 && c.carrying() == 0 && lab.files.used.Load() == 0
			})
			c.look(func() {
				if len(c.opened) != 3 || c.opened[0].Service != lab.service {
					t.Errorf("the tee was told of %+v", c.opened)
				}
			})
			if diff := cmp.Diff([3]uint64{3, 0, 0}, lab.flows()); diff != "" {
				t.Errorf("flows of the inlet (-want +got):\n%s", diff)
			}
		})
	}
}

func TestAFlowBesideACarriedOneIsSplicedAndItsOwnIsNotTouched(t *testing.T) {
	calls, c := newCallEdge(), &carriers{}
	r, connect := startCarried(t, families()["IPv4"], c, Options{Workers: 1, edge: func() edge { return calls }}, nil)
	carried := connect(t)
	if err := talk(carried.client, carried.server); err != nil {
		t.Fatal(err)
	}
	stream := func(p pair) {
		t.Helper()
		data := randomBytes(2, 8<<20)
		go func() {
			_, _ = p.server.Write(data)
			_ = p.server.CloseWrite()
		}()
		if got := readAll(t, p.client); !bytes.Equal(got, data) {
			t.Errorf("the client has read %d bytes, want the %d that were sent", len(got), len(data))
		}
	}
	stream(carried)
	for _, call := range []string{"recv", "send", "draw", "pour", "shut"} {
		if n := calls.count(call); n != 0 {
			t.Errorf("the worker asks %d times for %s of a flow that is carried", n, call)
		}
	}
	r.setSample(0)
	beside := connect(t)
	stream(beside)
	if calls.count("draw") == 0 {
		t.Error("a flow that is not sampled is not spliced")
	}
	for _, p := range []pair{carried, beside} {
		_ = p.client.CloseWrite()
		readAll(t, p.server)
	}
	r.wantNothingLeft(t, c)
}

// setSample changes that of the split mx.
func (r *testRelay) setSample(sample traffic.Weight) {
	r.t.Helper()
	r.mu.Lock()
	split := r.splits["mx"]
	r.mu.Unlock()
	split.Sample = sample
	if err := r.SetWeights(split); err != nil {
		r.t.Fatalf("SetWeights() = %v", err)
	}
}

// The news may come when another flow has its place.
func TestNewsOfACarrierWhoseFlowWasEndedAreNotTakenForThoseOfTheNextInItsPlace(t *testing.T) {
	hold, over := make(chan struct{}), make(chan struct{})
	var first sync.Once
	c := &carriers{carry: func(ctx context.Context, client, primary net.Conn) error {
		mine := false
		first.Do(func() { mine = true })
		if !mine {
			return copyBoth(ctx, client, primary)
		}
		defer close(over)
		<-hold
		_ = client.(interface{ CloseWrite() error }).CloseWrite()
		return errors.New("too late")
	}}
	r, connect := startCarried(t, families()["IPv4"], c, Options{Workers: 1}, func(s *traffic.Split) { s.Proxy.HalfClosedTimeout = time.Millisecond })
	p := connect(t)
	nettest.Eventually(t, "it is carried", func() bool { return c.carrying() == 1 })
	var was ticket
	r.inspect(func(w *worker) { w.flows.each(func(f *flow) { was = f.ticket(ofClient) }) })
	r.End(r.OpenFlows(traffic.BackendKey{Split: "mx", Backend: "old"}))
	awaitReset(t, p.client)
	next := connect(t)
	r.inspect(func(w *worker) {
		w.flows.each(func(f *flow) {
			if f.place != was.place || f.turn == was.turn {
				t.Errorf("the next flow has place %d, turn %d; the one before had %d, %d", f.place, f.turn, was.place, was.turn)
			}
		})
	})
	close(hold)
	<-over
	nettest.Eventually(t, "its descriptors are back", func() bool { return r.files.used.Load() == 2*filesOfFlow })
	r.inspect(func(*worker) {}) // who hears of it
	if err := talk(next.client, next.server); err != nil {
		t.Errorf("the next flow: %v", err)
	}
}

func TestNothingIsLeftOfAThousandCarriedFlows(t *testing.T) {
	ip := families()["IPv4"]
	c, service := &carriers{}, netip.AddrPortFrom(ip, freePort())
	split := newSplit("mx", service, startServer(t, ip, echo), map[string]candidate{"new": {startServer(t, ip, echo), 0}})
	split.Sample = traffic.Whole
	r := startRelay(t, Options{Tee: c, Draw: seededDraw(5)}, split)
	forcePoolsEmpty()
	goroutines, files := runtime.NumGoroutine(), len(openFiles(t))
	key := traffic.BackendKey{Split: "mx", Backend: "old"}
	endings := []func(*net.TCPConn){
		abortConn,
		func(c *net.TCPConn) {
			_, _ = c.Write(make([]byte, 100<<10))
			abortConn(c)
		},
		func(c *net.TCPConn) {
			_, _ = c.Write(make([]byte, 100<<10))
			_ = c.CloseWrite()
			_, _ = c.Read(make([]byte, 1))
			_ = c.Close()
		},
		func(c *net.TCPConn) {
			_, _ = c.Write([]byte("a word"))
			_, _ = c.Read(make([]byte, 6))
			_ = c.CloseWrite()
			if n, err := c.Read(make([]byte, 1)); !errors.Is(err, io.EOF) && !isReset(err) {
				t.Errorf("after the FIN: %d bytes, %v", n, err)
			}
			_ = c.Close()
		},
		func(c *net.TCPConn) {
			_, _ = c.Write([]byte("a word"))
			_, _ = c.Read(make([]byte, 1))
			r.End(r.OpenFlows(key)) // and others' too
			_ = c.Close()
		},
	}
	stop := make(chan struct{})
	var weights, load sync.WaitGroup
	weights.Go(func() {
		for i := traffic.Weight(0); ; i++ {
			select {
			case <-stop:
				return
			default:
				r.setWeights(split, map[string]traffic.Weight{"new": i % 2 * traffic.Whole / 4})
			}
		}
	})
	for _, end := range endings {
		load.Go(func() {
			for range 200 {
				c, err := net.DialTCP("tcp", nil, net.TCPAddrFromAddrPort(service))
				if isReset(err) { // which may overtake connect(2)
					continue
				}
				if err != nil {
					t.Error(err)
					return
				}
				_ = c.SetDeadline(time.Now().Add(testPatience))
				end(c)
			}
		})
	}
	load.Wait()
	close(stop)
	weights.Wait()
	r.wantNothingLeft(t, c)
	nettest.Eventually(t, "goroutines and files are back at base", func() bool {
		forcePoolsEmpty()
		return runtime.NumGoroutine() <= goroutines && len(openFiles(t)) <= files
	})
	if counts := r.TeeCounts()["mx"]; counts.Tapped < 500 || counts.Tapped != uint64(len(c.opened)) {
		t.Errorf("%+v, and %d flows were opened", counts, len(c.opened))
	}
}

// pipeEdge lends what cannot be written to.
type pipeEdge struct{ system }

func (pipeEdge) lend(int) (int, syscall.Errno) {
	var ends [2]int
	if err := unix.Pipe2(ends[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
		return 0, unix.EMFILE
	}
	_ = unix.Close(ends[1])
	return ends[0], 0
}

func TestACarrierIsToldOnceOfAFlowThatEndsBeforeItIsCarried(t *testing.T) {
	ip := families()["IPv4"]
	c, service := &carriers{}, netip.AddrPortFrom(ip, freePort())
	split := newSplit("mx", service, startServer(t, ip, echo), nil)
	split.Sample, split.Proxy.SendProxy = traffic.Whole, traffic.SendProxyV2
	r := startRelay(t, Options{Tee: c, edge: func() edge { return pipeEdge{} }}, split)
	if conn, err := net.Dial("tcp", service.String()); err == nil { // else it is reset already
		_, _ = io.ReadAll(conn)
		_ = conn.Close()
	}
	nettest.Eventually(t, "the flow was taken, and nothing is left of it", func() bool {
		n := r.numbers("old")
		return n.Flows == 1 && n.Active == 0 && r.files.used.Load() == 0
	})
	c.look(func() {
		if len(c.ends) != 1 || c.ends[0].End != "short" || c.ends[0].By != "splitd" || c.open != 0 {
			t.Errorf("it was told %v, want once that it fell short", c.ends)
		}
	})
}
