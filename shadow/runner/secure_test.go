package runner

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/splitd/splitd/internal/certs"
	"github.com/splitd/splitd/internal/nettest"
	"github.com/splitd/splitd/shadow"
)

// own is a certificate that a server of these tests shows.
var own = sync.OnceValue(func() tls.Certificate {
	c, err := certs.Sign(&x509.Certificate{Subject: pkix.Name{CommonName: "new.example"}, NotBefore: time.Unix(0, 0), NotAfter: time.Unix(1<<32, 0)}, nil, nil)
	if err != nil {
		panic(err)
	}
	return c
})

// agreed is the handshake of the primary.
func agreed() *shadow.Handshake {
	return &shadow.Handshake{Version: tls.VersionTLS13, Ended: time.Now()}
}

// secures is an Options.Secure that takes any certificate.
func secures(ctx context.Context, conn net.Conn, asked shadow.Handshake, _ bool) (net.Conn, shadow.Handshake, error) {
	c := tls.Client(conn, &tls.Config{ServerName: asked.ServerName, InsecureSkipVerify: true})
	if err := c.HandshakeContext(ctx); err != nil {
		asked.Failed = err.Error()
		return nil, asked, err
	}
	asked.Version = c.ConnectionState().Version
	return c, asked, nil
}

// inside has a server speak TLS from the beginning on.
func inside(serve func(net.Conn)) func(net.Conn) {
	return func(c net.Conn) {
		secured := tls.Server(c, &tls.Config{Certificates: []tls.Certificate{own()}})
		if secured.Handshake() == nil {
			serve(secured)
		}
	}
}

// begins answers lines in clear, until one asks to begin TLS: then it says behind its
// answer what more is, and goes on inside.
func begins(more string) func(net.Conn) {
	return func(c net.Conn) {
		from := bufio.NewReader(c)
		for {
			line, err := from.ReadString('\n')
			if err != nil {
				return
			}
			if _, err := io.WriteString(c, "new "+line); err != nil {
				return
			}
			if line == "begin\n" {
				if more != "" {
					go func() { _, _ = io.WriteString(c, more) }()
				}
				inside(answers("new "))(c)
				return
			}
		}
	}
}

func TestAFlowInsideTLSIsPlayedInsideTLS(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var sink told
		r := start(t, &sink, func(o *Options) {
			o.Dial, o.Secure = candidate(inside(answers("new "))), secures
		})
		tap := r.Open(Flow{TLS: agreed()})
		says(tap, "one", "old one")
		says(tap, "two", "old two")
		synctest.Wait()
		if used := r.options.Budget.Used(); used < connection+insideTLS {
			t.Errorf("%d bytes are charged for a connection inside TLS", used)
		}
		tap.End(shadow.Closed, time.Now())
		synctest.Wait()
		want(t, &sink, "TLS: TLS 1.3 TLS 1.3", "one: old one new one", "two: old two new two")
		if used := r.options.Budget.Used(); used != 0 {
			t.Errorf("%d bytes are charged, and no flow is left", used)
		}
	})
}

func TestEachConnectionOfAFlowInsideTLSIsSecured(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var sink told
		r := start(t, &sink, func(o *Options) {
			o.Driver = func(shadow.Session) shadow.Driver { return &lines{redials: "two"} }
			o.Dial, o.Secure = candidate(inside(answers("new "))), secures
			o.Control, o.Learns = candidate(inside(answers("again "))), func() bool { return true }
		})
		tap := r.Open(Flow{TLS: agreed()})
		says(tap, "one", "old one")
		synctest.Wait()
		says(tap, "two", "old two")
		synctest.Wait()
		tap.End(shadow.Closed, time.Now())
		synctest.Wait()
		of := map[string]int{}
		for _, line := range sink.all() {
			of[line]++
		}
		for _, line := range []string{
			"TLS: TLS 1.3 TLS 1.3", "one: old one new one", "two: old two new two",
			"control TLS: TLS 1.3 TLS 1.3", "control one: old one again one", "control two: old two again two",
		} {
			if of[line] != 1 || len(of) != 6 {
				t.Fatalf("told %q", sink.all())
			}
		}
	})
}

func TestAFlowThatBeginsTLSGoesOnInside(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var sink told
		r := start(t, &sink, func(o *Options) { o.Dial, o.Secure = candidate(begins("")), secures })
		tap := r.Open(Flow{})
		says(tap, "one", "old one")
		says(tap, "begin", "old begin")
		if !tap.Secure(*agreed(), time.Now()) {
			t.Fatal("the shadow is over")
		}
		says(tap, "two", "old two")
		synctest.Wait()
		if used := r.options.Budget.Used(); used < connection+insideTLS {
			t.Errorf("%d bytes are charged for a connection inside TLS", used)
		}
		tap.End(shadow.Closed, time.Now())
		synctest.Wait()
		want(t, &sink, "one: old one new one", "begin: old begin new begin", "TLS: TLS 1.3 TLS 1.3", "two: old two new two")
		if used := r.options.Budget.Used(); used != 0 {
			t.Errorf("%d bytes are charged, and no flow is left", used)
		}
	})
}

// What comes in clear before the handshake is never taken for said inside.
func TestWhatACandidateSaysInClearBeforeTheHandshakeFailsIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var sink told
		r := start(t, &sink, func(o *Options) { o.Dial, o.Secure = candidate(begins("new two\n")), secures })
		tap := r.Open(Flow{})
		says(tap, "begin", "old begin")
		tap.Secure(*agreed(), time.Now())
		says(tap, "two", "old two")
		tap.End(shadow.Closed, time.Now())
		time.Sleep(r.options.Patience)
		synctest.Wait()
		got := sink.all()
		if len(got) != 3 || !strings.HasPrefix(got[1], "TLS: candidate_error") || !strings.HasPrefix(got[2], "two: candidate_error") {
			t.Errorf("told %q", got)
		}
	})
}

func TestACandidateThatFailsInTheHandshakeFailsItsFlow(t *testing.T) {
	for name, test := range map[string]struct {
		serve func(net.Conn)
		want  []string
	}{
		"it speaks in clear": {
			func(c net.Conn) {
				time.Sleep(time.Second) // until the client has asked
				go func() { _, _ = io.Copy(io.Discard, c) }()
				_, _ = io.WriteString(c, "hello, who is there\n")
			},
			[]string{"TLS: candidate_error, the TLS handshake fails: first record does not look like a TLS handshake", "one: candidate_error, no TLS with it"},
		},
		"it closes": {
			func(net.Conn) { time.Sleep(time.Second) },
			[]string{"TLS: candidate_error, the TLS handshake fails: io: read/write on closed pipe", "one: candidate_error, no TLS with it"},
		},
		"it says nothing": {
			func(c net.Conn) { _, _ = io.Copy(io.Discard, c) },
			[]string{"TLS: candidate_error, there was no TLS handshake: timed out", "one: candidate_error, timed out"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var sink told
				r := start(t, &sink, func(o *Options) { o.Dial, o.Secure = candidate(test.serve), secures })
				for range breakerFailures {
					tap := r.Open(Flow{TLS: agreed()})
					says(tap, "one", "old one")
					time.Sleep(r.options.Patience)
					synctest.Wait()
					tap.End(shadow.Closed, time.Now())
				}
				if c := r.Counts(); c.Breaker == "" || c.Open != 0 || r.options.Budget.Used() != 0 {
					t.Errorf("%d flows have failed: %+v, %d bytes", breakerFailures, c, r.options.Budget.Used())
				}
				if got := sink.all(); len(got) != 2*breakerFailures {
					t.Errorf("told %q", got)
				} else {
					sink.lines = got[:2]
					want(t, &sink, test.want...)
				}
			})
		})
	}
}

func TestACandidateThatHangsWhenTLSIsToBeginIsGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var sink told
		r := start(t, &sink, func(o *Options) {
			o.Secure = secures
			o.Dial = candidate(func(c net.Conn) {
				from := bufio.NewReader(c)
				_, _ = from.ReadString('\n')
				_, _ = io.WriteString(c, "new begin\n")
				_, _ = io.Copy(io.Discard, from)
			})
		})
		tap := r.Open(Flow{})
		says(tap, "begin", "old begin")
		tap.Secure(*agreed(), time.Now())
		says(tap, "two", "old two")
		time.Sleep(r.options.Patience)
		synctest.Wait()
		want(t, &sink, "begin: old begin new begin", "two: candidate_error, timed out")
		if c := r.Counts(); c.Open != 0 || r.options.Budget.Used() != 0 {
			t.Errorf("afterwards: %+v, %d bytes", c, r.options.Budget.Used())
		}
	})
}

// A flow that is passed through unseen says nothing of the candidate, and is none of
// those that may be too many.
func TestAFlowOfWhichNothingCanBeSeenIsCountedAndPlayedToNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var sink told
		var dialled, ended atomic.Int64
		r := start(t, &sink, func(o *Options) {
			o.Flows, o.Ended = 1, func() { ended.Add(1) }
			o.Dial = func(ctx context.Context, of Flow) (net.Conn, error) {
				dialled.Add(1)
				return hangs(ctx, of)
			}
			o.Control, o.Learns = o.Dial, func() bool { return true }
		})
		fills := r.Open(Flow{})
		synctest.Wait()
		for range 3 {
			tap := r.Open(Flow{Opaque: "HTTP/2"})
			if tap.Take(shadow.Client, []byte("x"), false, time.Now()) {
				t.Error("it takes what cannot be seen")
			}
			tap.End(shadow.Closed, time.Now())
		}
		synctest.Wait()
		want(t, &sink, "TLS: opaque, HTTP/2", "TLS: opaque, HTTP/2", "TLS: opaque, HTTP/2")
		if c := r.Counts(); c.Declined != (Declined{}) || c.Open != 1 || dialled.Load() != 2 || ended.Load() != 3 {
			t.Errorf("%+v, %d dialled, %d ended", c, dialled.Load(), ended.Load())
		}
		fills.End(shadow.Closed, time.Now())
		r.Close()
		if r.Open(Flow{Opaque: "HTTP/2"}) != nil || r.Counts().Declined.Stopped != 1 {
			t.Errorf("it is closed: %+v", r.Counts())
		}
	})
}

func TestADriverIsToldThatWhatFollowsCannotBeSeen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var sink told
		r := start(t, &sink, same)
		tap := r.Open(Flow{})
		says(tap, "one", "old one")
		synctest.Wait() // until the candidate has answered: both may come first else
		tap.Opaque("HTTP/2", time.Now())
		tap.End(shadow.Closed, time.Now())
		synctest.Wait()
		want(t, &sink, "one: old one new one", ": opaque, HTTP/2")
	})
}

// Over real sockets: who has said all says so inside TLS and below it, and is answered
// still.
func TestTheEndOfOneDirectionIsToldInsideTLS(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	heard, below := make(chan string, 1), make(chan error, 1)
	go func() {
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer func() { _ = c.Close() }()
		inside(func(s net.Conn) {
			all, err := io.ReadAll(s)
			heard <- fmt.Sprint(string(all), err)
			_, err = c.Read(make([]byte, 1))
			below <- err
			_, _ = io.WriteString(s, "bye\n")
		})(c)
	}()
	var sink told
	r := start(t, &sink, func(o *Options) {
		o.Driver = func(shadow.Session) shadow.Driver { return &halves{} }
		o.Dial = func(ctx context.Context, _ Flow) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "tcp", l.Addr().String())
		}
		o.Secure = secures
	})
	tap := r.Open(Flow{TLS: agreed()})
	tap.Take(shadow.Client, []byte("hello"), true, time.Now())
	if got := <-heard; got != "hello<nil>" {
		t.Errorf("it heard %q", got)
	}
	if err := <-below; !errors.Is(err, io.EOF) {
		t.Errorf("below TLS: %v, want its end", err)
	}
	nettest.Eventually(t, "the answer is told", func() bool { return len(sink.all()) == 2 })
	want(t, &sink, "TLS: TLS 1.3 TLS 1.3", "halves: bye bye")
}

// halves is a driver that passes on all of the client, and tells what the candidate says.
type halves struct{ once }

func (h *halves) Hear(e shadow.Event) (m shadow.Moves) {
	switch {
	case e.From == shadow.Client:
		m.Send, m.FIN, m.Owed = append(m.Send, e.Bytes...), e.End != shadow.Open, true
	case len(e.Bytes) > 0:
		f := []shadow.Field{{Value: strings.TrimSpace(string(e.Bytes))}}
		m.Exchanges, m.Done, h.over = []shadow.Exchange{{Endpoint: "halves", Primary: shadow.Reply{Fields: f}, Candidate: shadow.Reply{Fields: f}}}, true, true
	}
	return m
}

func TestAFlowThatEndsDuringAHandshakeHangsUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var sink told
		var left atomic.Bool
		made := make(chan struct{})
		r := start(t, &sink, func(o *Options) {
			o.Dial = candidate(func(c net.Conn) { begins("")(c); left.Store(true) })
			o.Secure = func(ctx context.Context, conn net.Conn, asked shadow.Handshake, control bool) (net.Conn, shadow.Handshake, error) {
				inside, h, err := secures(ctx, conn, asked, control)
				<-made
				return inside, h, err
			}
		})
		tap := r.Open(Flow{})
		says(tap, "begin", "old begin")
		tap.Secure(*agreed(), time.Now())
		synctest.Wait()
		tap.End(shadow.Closed, time.Now())
		synctest.Wait()
		close(made)
		synctest.Wait()
		if !left.Load() || r.Counts().Open != 0 {
			t.Errorf("the candidate's connection is closed: %v; %d flows are open", left.Load(), r.Counts().Open)
		}
	})
}

// Many at once, over real sockets, of which some are cut off anywhere.
func TestFlowsThatBeginTLSEndWheneverTheyAreCutOff(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var servers sync.WaitGroup
	defer servers.Wait()
	defer func() { _ = l.Close() }()
	servers.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			servers.Go(func() {
				begins("")(c)
				_ = c.Close()
			})
		}
	})
	var sink told
	budget := NewBudget(64 << 20)
	r := start(t, &sink, func(o *Options) {
		o.Budget, o.Secure = budget, secures
		o.Dial = func(ctx context.Context, _ Flow) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "tcp", l.Addr().String())
		}
	})
	var relays sync.WaitGroup
	for i := range 100 {
		relays.Go(func() {
			tap := r.Open(Flow{})
			for n, say := range []func() bool{
				func() bool { return says(tap, "one", "old one") },
				func() bool { return says(tap, "begin", "old begin") },
				func() bool { return tap.Secure(*agreed(), time.Now()) },
				func() bool { return says(tap, "two", "old two") },
			} {
				if i%5 == n {
					break
				}
				if !say() {
					t.Error("the shadow is over")
				}
				for range i {
					runtime.Gosched()
				}
			}
			if i%2 == 0 {
				tap.End(shadow.Closed, time.Now())
			} else {
				tap.Drop()
			}
		})
	}
	relays.Wait()
	nettest.Eventually(t, "all are over", func() bool { return r.Counts().Open == 0 })
	if used := budget.Used(); used != 0 {
		t.Errorf("%d bytes are charged, and no flow is left", used)
	}
}

// late is a connection on which more comes while its reader is called back for a handshake.
type late struct {
	net.Conn
	more func()
}

func (l late) SetReadDeadline(at time.Time) error {
	if !at.IsZero() && at.Before(time.Now()) {
		l.more()
		return nil
	}
	return l.Conn.SetReadDeadline(at)
}

// It came before the candidate could have begun TLS, so anybody in between may have said it.
func TestWhatIsReadWhileTLSIsToBeginFailsTheHandshake(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var sink told
		r := start(t, &sink, func(o *Options) {
			o.Secure = secures
			o.Dial = func(context.Context, Flow) (net.Conn, error) {
				ours, theirs := net.Pipe()
				go func() {
					from := bufio.NewReader(theirs)
					_, _ = from.ReadString('\n')
					_, _ = io.WriteString(theirs, "new begin\n")
				}()
				return late{ours, func() { go func() { _, _ = io.WriteString(theirs, "new two\n") }() }}, nil
			}
		})
		tap := r.Open(Flow{})
		says(tap, "begin", "old begin")
		tap.Secure(*agreed(), time.Now())
		says(tap, "two", "old two")
		synctest.Wait()
		want(t, &sink, "begin: old begin new begin", "TLS: candidate_error, the TLS handshake fails: it has said more in clear before the handshake", "two: candidate_error, no TLS with it")
		tap.End(shadow.Closed, time.Now())
	})
}

// With TLS 1.3 a server refuses the client's half of the handshake behind its own.
func TestACandidateThatWantsACertificateOfTheClientMakesNoTLS(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var sink told
		r := start(t, &sink, func(o *Options) {
			o.Secure = secures
			o.Dial = candidate(func(c net.Conn) {
				_ = tls.Server(c, &tls.Config{Certificates: []tls.Certificate{own()}, ClientAuth: tls.RequireAnyClientCert}).Handshake()
				_, _ = io.Copy(io.Discard, c)
			})
		})
		tap := r.Open(Flow{TLS: agreed()})
		says(tap, "one", "old one")
		synctest.Wait()
		tap.End(shadow.Closed, time.Now())
		synctest.Wait()
		want(t, &sink, "TLS: TLS 1.3 TLS 1.3", "one: candidate_error, no TLS with it")
	})
}

// alerts is a connection whose server ends it by an alert in the middle of its first answer.
type alerts struct {
	net.Conn
	read bool
}

func (a *alerts) Read(b []byte) (int, error) {
	if a.read {
		return 0, &net.OpError{Op: "remote error", Err: tls.AlertError(80)}
	}
	a.read = true
	return a.Conn.Read(b[:4])
}

// It is an end as any other then, and no handshake that failed.
func TestAnAlertInTheMiddleOfAnAnswerIsAReset(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var sink told
		r := start(t, &sink, func(o *Options) {
			o.Secure = func(_ context.Context, conn net.Conn, h shadow.Handshake, _ bool) (net.Conn, shadow.Handshake, error) {
				h.Version = tls.VersionTLS13
				return &alerts{Conn: conn}, h, nil
			}
		})
		tap := r.Open(Flow{TLS: agreed()})
		says(tap, "one", "old one")
		synctest.Wait()
		tap.End(shadow.Closed, time.Now())
		synctest.Wait()
		want(t, &sink, "TLS: TLS 1.3 TLS 1.3", "one: candidate_error, reset")
	})
}

// That a candidate makes a handshake says no more than that it can be connected: it has not
// answered.
func TestAHandshakeAloneIsNoAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var sink told
		fails := true
		serve := inside(func(c net.Conn) { _, _ = io.Copy(io.Discard, c) })
		r := start(t, &sink, func(o *Options) {
			o.Secure = secures
			o.Dial = func(ctx context.Context, of Flow) (net.Conn, error) {
				if fails {
					return refuses(ctx, of)
				}
				return candidate(serve)(ctx, of)
			}
		})
		for i := range breakerFailures + 1 {
			fails = i != breakerFailures-1
			tap := r.Open(Flow{TLS: agreed()})
			if fails {
				says(tap, "one", "old one")
			}
			synctest.Wait()
			tap.End(shadow.Closed, time.Now())
			synctest.Wait()
		}
		if c := r.Counts(); c.Breaker == "" {
			t.Errorf("%d flows have failed in a row, but for one that asked nothing: %+v", breakerFailures, c)
		}
	})
}

// What a candidate's certificate has in it is the candidate's.
func TestWhyACandidateIsLeftAloneIsShortAndClean(t *testing.T) {
	for why, fails := range map[string]func(context.Context) error{
		"no TLS with it: x509: certificate is valid for ": func(context.Context) error {
			return errors.New("x509: certificate is valid for " + strings.Repeat("\x1b[2J\nname.example, ", 4000))
		},
		"it could not be connected, or has made no TLS handshake, in time": func(ctx context.Context) error {
			<-ctx.Done()
			return ctx.Err()
		},
	} {
		synctest.Test(t, func(t *testing.T) {
			var sink told
			r := start(t, &sink, func(o *Options) {
				o.Secure = func(ctx context.Context, _ net.Conn, h shadow.Handshake, _ bool) (net.Conn, shadow.Handshake, error) {
					err := fails(ctx)
					h.Failed = err.Error()
					return nil, h, err
				}
			})
			for range breakerFailures {
				tap := r.Open(Flow{TLS: agreed()})
				says(tap, "one", "old one")
				time.Sleep(r.options.Patience)
				synctest.Wait()
				tap.End(shadow.Closed, time.Now())
				synctest.Wait()
			}
			if b := r.Counts().Breaker; !strings.Contains(b, why) || len(b) > 400 || strings.ContainsAny(b, "\x1b\n") {
				t.Errorf("it is left alone for %q, want %q", b, why)
			}
		})
	}
}

// What TLS takes is the budget's, and no part of what a flow may hold of what is said.
func TestTLSTakesNothingOfWhatAFlowMayHold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var sink told
		r := start(t, &sink, func(o *Options) {
			o.Dial, o.Secure, o.FlowBudget, o.Keep = candidate(begins("")), secures, insideTLS/2, 1<<10
		})
		tap := r.Open(Flow{})
		says(tap, "begin", "old begin")
		tap.Secure(*agreed(), time.Now())
		synctest.Wait()
		says(tap, "two", "old two")
		synctest.Wait()
		tap.End(shadow.Closed, time.Now())
		synctest.Wait()
		want(t, &sink, "begin: old begin new begin", "TLS: TLS 1.3 TLS 1.3", "two: old two new two")
	})
}
