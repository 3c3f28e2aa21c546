package terminator

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/splitd/splitd/shadow"
)

// ready is a stand with a primary that does with each connection inside TLS what it is told
// to, and that is known.
func ready(t *testing.T, serve func(raw net.Conn, inside *tls.Conn)) *stand {
	t.Helper()
	a := newAuthority(t)
	config := &tls.Config{Certificates: []tls.Certificate{a.sign(t, newKey(t), "a.test")}}
	s := newStand(t, a, set{protocol: "raw", serve: echoes(config)})
	s.knows(s.asks("a.test"))
	s.serves(func(conn net.Conn) {
		inside := tls.Server(conn, config)
		if inside.Handshake() == nil {
			serve(conn, inside)
		}
	})
	return s
}

// end is how a stream inside TLS has ended for who reads it.
func end(inside *tls.Conn, under *under) (said, how string) {
	b, err := io.ReadAll(inside)
	switch {
	case err != nil:
		return string(b), "broken"
	case under.ended:
		return string(b), "FIN"
	}
	return string(b), "close_notify"
}

// under notes whether its FIN was read.
type under struct {
	net.Conn
	ended bool
}

func (u *under) Read(b []byte) (int, error) {
	n, err := u.Conn.Read(b)
	u.ended = u.ended || errors.Is(err, io.EOF)
	return n, err
}

func TestAnEndIsPassedOnAsItIs(t *testing.T) {
	for want, ending := range map[string]func(net.Conn, *tls.Conn){
		"close_notify": func(_ net.Conn, inside *tls.Conn) { _ = inside.CloseWrite() },
		"FIN":          func(raw net.Conn, _ *tls.Conn) { _ = raw.(*net.TCPConn).CloseWrite() },
	} {
		t.Run("of the primary: "+want, func(t *testing.T) {
			s := ready(t, func(raw net.Conn, inside *tls.Conn) {
				_, _ = io.WriteString(inside, "half")
				ending(raw, inside)
				_, _ = io.Copy(io.Discard, inside)
			})
			conn, flow := s.connect()
			u := &under{Conn: conn}
			inside := tls.Client(u, s.asks("a.test"))
			check(t, inside.Handshake())
			if said, how := end(inside, u); said != "half" || how != want {
				t.Errorf("said %q, ended by %s", said, how)
			}
			_ = conn.Close()
			<-flow.done
			if flow.err != nil || flow.end != "closed" {
				t.Errorf("flow: %v, %q", flow.err, flow.end)
			}
		})
		t.Run("of the client: "+want, func(t *testing.T) {
			seen := make(chan [2]string, 1)
			a := newAuthority(t)
			config := &tls.Config{Certificates: []tls.Certificate{a.sign(t, newKey(t), "a.test")}}
			s := newStand(t, a, set{protocol: "raw", serve: echoes(config)})
			s.knows(s.asks("a.test"))
			s.serves(func(conn net.Conn) {
				u := &under{Conn: conn}
				said, how := end(tls.Server(u, config), u)
				seen <- [2]string{said, how}
			})
			conn, flow := s.connect()
			inside := tls.Client(conn, s.asks("a.test"))
			_, err := io.WriteString(inside, "half")
			check(t, err)
			ending(conn, inside)
			if got := <-seen; got != [2]string{"half", want} {
				t.Errorf("the primary: %q", got)
			}
			_ = conn.Close()
			<-flow.done
		})
	}
}

func TestAClientThatHasEndedHearsTheRest(t *testing.T) {
	const much = 1 << 20
	s := ready(t, func(_ net.Conn, inside *tls.Conn) {
		b, err := io.ReadAll(inside)
		if err != nil {
			return
		}
		_, _ = inside.Write(b)
		_ = inside.CloseWrite()
	})
	answer, _, flow := s.through(s.asks("a.test"), strings.Repeat("x", much))
	if len(answer) != much || flow.err != nil {
		t.Errorf("answer of %d bytes, %v", len(answer), flow.err)
	}
	if len(flow.said) != 2 || len(flow.said[0]) != much+len("client: ") || len(flow.said[1]) != much+len("primary: ") {
		t.Errorf("told %d pieces", len(flow.said))
	}
}

func TestAResetEndsTheFlowAndIsItsSides(t *testing.T) {
	t.Run("client", func(t *testing.T) {
		s := ready(t, func(_ net.Conn, inside *tls.Conn) { _, _ = io.Copy(io.Discard, inside) })
		conn, flow := s.connect()
		check(t, tls.Client(conn, s.asks("a.test")).Handshake())
		check(t, conn.SetLinger(0))
		check(t, conn.Close())
		<-flow.done
		if !failsWith(flow.err, shadow.Client) || flow.end != "reset" {
			t.Errorf("flow: %v, %q", flow.err, flow.end)
		}
	})
	t.Run("primary", func(t *testing.T) {
		s := ready(t, func(raw net.Conn, inside *tls.Conn) {
			_, _ = inside.Read(make([]byte, 1))
			_ = raw.(*net.TCPConn).SetLinger(0)
			_ = raw.Close()
		})
		conn, flow := s.connect()
		inside := tls.Client(conn, s.asks("a.test"))
		_, err := io.WriteString(inside, "x")
		check(t, err)
		if b, err := io.ReadAll(inside); len(b) > 0 {
			t.Errorf("%q, %v", b, err)
		}
		<-flow.done
		if !failsWith(flow.err, shadow.Primary) || flow.end != "reset by primary" {
			t.Errorf("flow: %v, %q", flow.err, flow.end)
		}
	})
}

func TestAClientThatRefusesOurCertificateIsItsOwnFailure(t *testing.T) {
	s := ready(t, func(_ net.Conn, inside *tls.Conn) { _, _ = io.Copy(io.Discard, inside) })
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		config := s.asks("a.test")
		config.MaxVersion = version
		s.knows(config)
		config.RootCAs = newAuthority(t).pool()
		conn, flow := s.connect()
		if err := tls.Client(conn, config).Handshake(); err == nil {
			t.Error("it has taken the certificate")
		}
		_ = conn.Close()
		<-flow.done
		if !failsWith(flow.err, shadow.Client) || flow.end != "reset" {
			t.Errorf("flow: %v, %q", flow.err, flow.end)
		}
	}
	if n := s.Numbers().FailedClient; n == 0 {
		t.Errorf("numbers: %+v", s.Numbers())
	}
}

func TestWhoIsTakenAwayReturnsWhateverItWaitsFor(t *testing.T) {
	cause := errors.New("the relay wants it")
	a := newAuthority(t)
	for name, c := range map[string]struct {
		protocol string
		client   []string // what it says, each after the primary's turn
		primary  []string
	}{
		"silence":             {"http", nil, nil},
		"half a hello":        {"http", []string{"\x16\x03\x01\x02\x00\x01"}, nil},
		"clear":               {"http", []string{"GET"}, nil},
		"a dialogue":          {"smtp", nil, []string{"220 mx\r\n"}},
		"behind STARTTLS":     {"smtp", []string{"STARTTLS\r\nNOOP\r\n"}, []string{"220 mx\r\n"}},
		"before a hello":      {"smtp", []string{"STARTTLS\r\n"}, []string{"220 mx\r\n", "220 go\r\n"}},
		"behind its own FIN":  {"smtp", []string{"STARTTLS\r\nNOOP\r\n", ""}, []string{"220 mx\r\n"}},
		"a dialogue in doubt": {"smtp", []string{"what\nis this\r\n"}, []string{"220 mx\r\n"}},
	} {
		t.Run(name, func(t *testing.T) {
			s := newStand(t, a, set{protocol: c.protocol, serve: func(net.Conn) {}})
			client, theirs := net.Pipe()
			primary, ours := net.Pipe()
			ctx, cancel := context.WithCancelCause(context.Background())
			done := make(chan error)
			go func() { done <- s.Carry(ctx, Flow{}, halves{theirs}, halves{ours}, deafTeller{}) }()
			go func() { _, _ = io.Copy(io.Discard, client) }()
			go func() {
				for _, say := range c.primary {
					_, _ = io.WriteString(primary, say)
				}
				_, _ = io.Copy(io.Discard, primary)
			}()
			for _, say := range c.client {
				if say == "" {
					_ = client.Close()
					break
				}
				_, err := io.WriteString(client, say)
				check(t, err)
			}
			cancel(cause)
			if err := <-done; !errors.Is(err, cause) {
				t.Errorf("it returns %v", err)
			}
			_, _ = client.Close(), primary.Close()
		})
	}
}

// Who refuses an upload answers, and closes before he has read all of it: the kernel resets
// the connection behind the answer (RFC 9112, section 9.6).
func TestTheLastWordsOfAPrimaryThatRefusesAnUploadReachTheClient(t *testing.T) {
	const flows = 30
	answer := strings.Repeat("552 too big\n", 1700)
	refuses := func(conn io.ReadWriter) {
		_, _ = io.ReadFull(conn, make([]byte, 64<<10))
		_, _ = io.WriteString(conn, answer)
	}
	clear := func(protocol string) func(*testing.T) (*stand, func(net.Conn) io.ReadWriter) {
		return func(t *testing.T) (*stand, func(net.Conn) io.ReadWriter) {
			s := newStand(t, newAuthority(t), set{protocol: protocol, serve: func(conn net.Conn) { refuses(conn) }})
			return s, func(conn net.Conn) io.ReadWriter { return conn }
		}
	}
	for name, made := range map[string]func(*testing.T) (*stand, func(net.Conn) io.ReadWriter){
		"raw in clear": clear("raw"), "smtp in clear": clear("smtp"),
		"inside TLS": func(t *testing.T) (*stand, func(net.Conn) io.ReadWriter) {
			s := ready(t, func(_ net.Conn, inside *tls.Conn) { refuses(inside) })
			return s, func(conn net.Conn) io.ReadWriter { return tls.Client(conn, s.asks("a.test")) }
		},
	} {
		t.Run(name, func(t *testing.T) {
			s, over := made(t)
			for range flows {
				conn, flow := s.connect()
				client := over(conn)
				go func() {
					for upload := []byte(strings.Repeat("x\n", 8<<10)); ; {
						if _, err := client.Write(upload); err != nil {
							return
						}
					}
				}()
				if heard, err := io.ReadAll(client); string(heard) != answer {
					t.Fatalf("of an answer of %d bytes %d came: %v", len(answer), len(heard), err)
				}
				<-flow.done
				if !failsWith(flow.err, shadow.Primary) {
					t.Errorf("the flow ends by %v", flow.err)
				}
			}
		})
	}
}

// halves is a pipe, whose directions end together.
type halves struct{ net.Conn }

func (h halves) CloseWrite() error { return nil }

type panics struct{}

func (panics) Open(*shadow.Handshake, string) Tap { panic("in Open") }

func TestATapThatPanicsEndsAlone(t *testing.T) {
	s := newStand(t, newAuthority(t), set{protocol: "raw", serve: func(net.Conn) {}})
	ours, theirs := net.Pipe()
	check(t, ours.Close())
	check(t, theirs.Close())
	if err := s.Carry(context.Background(), Flow{}, halves{theirs}, halves{theirs}, panics{}); err == nil {
		t.Error("closed connections were carried")
	}
	if s.Numbers().Panicked != 1 {
		t.Errorf("numbers: %+v", s.Numbers())
	}
}

// panicking is a tap that does so whatever it is told, but for its end.
type panicking struct {
	Tap
	ended chan shadow.End
}

func (p panicking) Take(shadow.Party, []byte, bool, time.Time) bool { panic("in Take") }

func (p panicking) End(how shadow.End, _ time.Time) {
	p.ended <- how
	panic("in End")
}

// What it holds, as a place in a ring, others need.
func TestATapThatHasPanickedIsEnded(t *testing.T) {
	tap := panicking{ended: make(chan shadow.End, 1)}
	s := told{t: &Terminator{now: time.Now, log: discard}, tap: tap}
	s.tell(func() bool { return s.tap.Take(shadow.Client, nil, false, s.t.now()) })
	select {
	case how := <-tap.ended:
		if how != shadow.Reset || s.tap != nil || s.t.counts.panicked.Load() != 1 {
			t.Errorf("it has ended by %s, %v, %d panics", how, s.tap, s.t.counts.panicked.Load())
		}
	default:
		t.Error("it has not ended")
	}
}

// muddles is a teller whose tap says when it has ended.
type muddles struct {
	heard
	over chan struct{}
}

func (m *muddles) Open(*shadow.Handshake, string) Tap { return m }

func (m *muddles) End(how shadow.End, at time.Time) {
	m.heard.End(how, at)
	close(m.over)
}

// A flow whose own goroutine panics is told to have ended, as what it holds others need.
func TestAFlowThatPanicsIsToldToHaveEnded(t *testing.T) {
	s := newStand(t, newAuthority(t), set{protocol: "smtp", serve: func(net.Conn) {}})
	s.protocol.dialogue = func() dialogue { panic("in the flow") }
	ours, theirs := net.Pipe()
	m := &muddles{over: make(chan struct{})}
	go func() {
		_, _ = io.WriteString(ours, "hello")
		_ = ours.Close()
	}()
	func() {
		defer func() { _ = recover() }()
		_ = s.Carry(context.Background(), Flow{}, halves{theirs}, halves{theirs}, m)
	}()
	<-m.over
	if m.end != "reset" {
		t.Errorf("it has ended by %q", m.end)
	}
}

// A flow that the relay goes on with has not ended, and not by anybody's fault.
func TestAFlowThatGoesOnUnseenIsNotToldToBeReset(t *testing.T) {
	back := errors.New("given back")
	s := newStand(t, newAuthority(t), set{protocol: "raw", unprobed: true, serve: func(c net.Conn) { _, _ = io.Copy(io.Discard, c) }})
	s.unseen = back
	conn, flow := s.connect()
	go func() { _ = tls.Client(conn, s.asks("a.test")).Handshake() }() // of which nothing is known yet
	<-flow.done
	if !errors.Is(flow.err, back) || flow.end != "closed" || flow.opaque == "" {
		t.Errorf("it has ended by %q, %v, and is opaque for %q", flow.end, flow.err, flow.opaque)
	}
}

// Who reads slowly hears the end of the stream as it was, behind all that was said.
func TestASlowReaderHearsThatAStreamIsWhole(t *testing.T) {
	c := newAuthority(t).sign(t, newKey(t), "a.test")
	synctest.Test(t, func(t *testing.T) {
		ours, theirs := net.Pipe() // which holds nothing: who writes waits for who reads
		client := tls.Client(ours, &tls.Config{InsecureSkipVerify: true})
		s := &side{Conn: theirs}
		service := inside{Conn: tls.Server(s, &tls.Config{Certificates: []tls.Certificate{c}, SessionTicketsDisabled: true}), side: s}
		done := make(chan error, 1)
		go func() {
			_, err := io.WriteString(service, "all")
			done <- errors.Join(err, service.end(true))
			_ = theirs.Close()
		}()
		check(t, client.Handshake())
		time.Sleep(time.Minute)
		said := make([]byte, 3)
		_, err := io.ReadFull(client, said)
		check(t, err)
		time.Sleep(time.Minute)
		n, err := client.Read(said)
		if end := <-done; n != 0 || !errors.Is(err, io.EOF) || end != nil {
			t.Errorf("after a minute %d bytes and %v come; the service: %v", n, err, end)
		}
	})
}

// OpenSSL answers a FIN without close_notify by an alert: the client has left, and nobody
// has broken anything.
func TestAnAlertBehindACutIsNoFault(t *testing.T) {
	alert := &net.OpError{Op: "remote error", Err: tls.AlertError(50)}
	for _, cut := range []bool{false, true} {
		f := &flow{t: &Terminator{now: nowhen, log: discard}, ctx: t.Context(), client: &side{Conn: halves{}}, primary: &side{Conn: halves{}, who: shadow.Primary}}
		f.told = told{t: f.t, teller: deafTeller{}}
		if cut {
			check(t, f.ends(f.client, f.primary, errTruncated))
		}
		if err := f.ends(f.primary, f.client, alert); (err == nil) != cut {
			t.Errorf("behind a cut %v: %v", cut, err)
		}
		if err := f.ends(f.primary, f.client, io.ErrUnexpectedEOF); err == nil {
			t.Errorf("behind a cut %v whatever ends it is no fault", cut)
		}
	}
}
