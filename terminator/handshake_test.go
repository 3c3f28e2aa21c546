package terminator

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/splitd/splitd/shadow"
)

// Who is refused hears it by a record of the version that it knows (RFC 8446, 5.1, and RFC 5246,
// E.1): a fatal alert, and nothing else.
func TestTheAlertOfARefusalIsARecordThatTheClientKnows(t *testing.T) {
	a := newAuthority(t)
	theirs := []tls.Certificate{a.sign(t, newKey(t), "a.test")}
	for version, record := range map[uint16]string{
		tls.VersionTLS10: "\x15\x03\x01\x00\x02\x02\x46", // protocol_version
		tls.VersionTLS11: "\x15\x03\x02\x00\x02\x02\x46",
		tls.VersionTLS12: "\x15\x03\x03\x00\x02\x02\x46",
	} {
		s := newStand(t, a, set{protocol: "raw", serve: echoes(&tls.Config{Certificates: theirs, MinVersion: tls.VersionTLS10})})
		config := s.asks("a.test")
		config.MinVersion, config.MaxVersion = tls.VersionTLS10, version
		s.knows(config)
		s.serves(echoes(&tls.Config{Certificates: theirs, MinVersion: tls.VersionTLS13}))
		if answer, flow := s.saysRaw(helloOf(t, config)); answer != record || flow.opaque != "" {
			t.Errorf("%s: %x, opaque %q", tls.VersionName(version), answer, flow.opaque)
		}
	}
	s := newStand(t, a, set{protocol: "raw", serve: echoes(&tls.Config{Certificates: theirs})})
	config := s.asks("a.test")
	s.knows(config)
	s.serves(echoes(&tls.Config{Certificates: theirs, NextProtos: []string{"other"}, MaxVersion: tls.VersionTLS11, MinVersion: tls.VersionTLS11}))
	if answer, _ := s.saysRaw(helloOf(t, config)); answer != "\x15\x03\x03\x00\x02\x02\x46" {
		t.Errorf("TLS 1.3: %x", answer)
	}
}

func TestAPrimaryThatEndsInTheHandshakeSaysNothingToTheClient(t *testing.T) {
	a := newAuthority(t)
	for name, ends := range map[string]func(net.Conn){
		"FIN":   func(conn net.Conn) { _, _ = conn.Read(make([]byte, 16<<10)) },
		"reset": func(conn net.Conn) { _, _ = conn.Read(make([]byte, 16<<10)); _ = conn.(*net.TCPConn).SetLinger(0) },
		"half":  func(conn net.Conn) { _, _ = conn.Read(make([]byte, 16<<10)); _, _ = conn.Write([]byte{22, 3, 3}) },
	} {
		t.Run(name, func(t *testing.T) {
			s := newStand(t, a, set{protocol: "raw", serve: echoes(&tls.Config{Certificates: []tls.Certificate{a.sign(t, newKey(t), "a.test")}})})
			s.knows(s.asks("a.test"))
			s.serves(ends)
			conn, flow := s.connect()
			_, err := conn.Write(helloOf(t, s.asks("a.test")))
			check(t, err)
			if answer, _ := io.ReadAll(conn); len(answer) > 0 {
				t.Errorf("the client hears %x", answer)
			}
			<-flow.done
			if !failsWith(flow.err, shadow.Primary) || flow.opened == nil || flow.opened.Failed == "" {
				t.Errorf("flow: %v, told %+v", flow.err, flow.opened)
			}
		})
	}
}

// A FIN that comes behind close_notify is passed on where the other side may wait for it.
func TestTheFINBehindCloseNotifyIsPassedOn(t *testing.T) {
	s := ready(t, func(raw net.Conn, inside *tls.Conn) {
		if _, err := io.ReadAll(inside); err != nil {
			return
		}
		if n, err := raw.Read(make([]byte, 1)); n == 0 && errors.Is(err, io.EOF) {
			_, _ = io.WriteString(inside, "the FIN was heard")
			_ = inside.CloseWrite()
		}
	})
	conn, flow := s.connect()
	inside := tls.Client(conn, s.asks("a.test"))
	check(t, inside.Handshake())
	check(t, inside.CloseWrite())
	check(t, conn.CloseWrite())
	if b, err := io.ReadAll(inside); string(b) != "the FIN was heard" || err != nil {
		t.Errorf("%q, %v", b, err)
	}
	_ = conn.Close()
	<-flow.done
}

// waits is a flow over pipes, whose client and primary read and say nothing but what they are told
// to.
func waits(t *testing.T) (f *flow, client, primary net.Conn) {
	t.Helper()
	client, ours := net.Pipe()
	primary, theirs := net.Pipe()
	k := knowing(func(context.Context, netip.AddrPort) (net.Conn, error) { return nil, errors.New("down") })
	k.t.known = k
	k.t.verifier.Store(newVerifier(t))
	f = &flow{t: k.t, ctx: t.Context(), client: &side{Conn: halves{ours}}, primary: &side{Conn: halves{theirs}, who: shadow.Primary}}
	f.told = told{t: k.t, teller: deafTeller{}}
	return f, client, primary
}

func TestAClientHelloThatDoesNotGoOnIsNotWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, client, primary := waits(t)
		done := make(chan bool, 1)
		go func() {
			h, muddled := f.beginning()
			done <- h == nil && muddled
		}()
		time.Sleep(time.Hour) // nothing has begun
		_, err := io.WriteString(client, "\x16\x03\x01\x02\x00\x01")
		check(t, err)
		waitedFor(t, f, done, 10*time.Second)
		if muddled := <-done; !muddled || string(f.client.before) != "\x16\x03\x01\x02\x00\x01" {
			t.Errorf("muddled %v, %x is read again", muddled, f.client.before)
		}
		_, _ = client.Close(), primary.Close()
	})
}

// waitedFor fails unless something of a flow is done after exactly so long, in a bubble of synctest.
func waitedFor[T any](t *testing.T, f *flow, done <-chan T, long time.Duration) {
	t.Helper()
	time.Sleep(long - time.Nanosecond)
	synctest.Wait()
	if len(done) > 0 {
		t.Error("it was not waited for")
	}
	time.Sleep(time.Nanosecond)
	synctest.Wait()
	if len(done) == 0 {
		t.Error("it is waited for without an end")
		f.abort()
	}
}

func TestAHandshakeIsNotWaitedForWithoutAnEnd(t *testing.T) {
	own := newAuthority(t).sign(t, newKey(t), "a.test")
	h := &hello{asked: shadow.Handshake{ServerName: "a.test", Least: tls.VersionTLS12, Most: tls.VersionTLS13}}
	for name, shakes := range map[string]func(*flow) error{
		"with the primary": func(f *flow) error { _, _, err := f.open(h); return err },
		"with the client":  func(f *flow) error { _, err := f.accept(&tls.Config{Certificates: []tls.Certificate{own}}); return err },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f, client, primary := waits(t)
				for _, conn := range []net.Conn{client, primary} {
					go func() { _, _ = io.Copy(io.Discard, conn) }()
				}
				done := make(chan error, 1)
				go func() { done <- shakes(f) }()
				waitedFor(t, f, done, time.Minute)
				if err := <-done; err == nil {
					t.Error("it has been made")
				}
				_, _ = client.Close(), primary.Close()
			})
		})
	}
}

// Some servers log who leaves without a word.
func TestAProbeTakesItsLeaveOfAServerOfMail(t *testing.T) {
	a := newAuthority(t)
	heard := make(chan string, 100)
	s := newStand(t, a, set{protocol: "smtp", serve: mailer{config: &tls.Config{Certificates: []tls.Certificate{a.sign(t, newKey(t), "a.test")}}, heard: heard}.serve})
	at := place{primary: address(s.primary.Addr()), agreed: true}
	asked := shadow.Handshake{ServerName: "a.test", Least: tls.VersionTLS12, Most: tls.VersionTLS13}
	s.known.of(at, asked)
	s.known.running.Wait()
	if f, ok := s.known.of(at, asked); !ok || f.reason != "" {
		t.Errorf("%+v, %v", f, ok)
	}
	close(heard)
	var said []string
	for line := range heard {
		said = append(said, line)
	}
	if diff := cmp.Diff([]string{"EHLO [127.0.0.1]", "STARTTLS", "QUIT"}, said); diff != "" {
		t.Error(diff)
	}
}

func TestWithoutANameItIsTheOneThatThePrimaryShows(t *testing.T) {
	a := newAuthority(t)
	one, two := a.sign(t, newKey(t), "one.test"), a.sign(t, newKey(t), "two.test")
	for i, theirs := range []tls.Certificate{one, two} {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			s := newStand(t, a, set{protocol: "raw", own: []tls.Certificate{one, two}, serve: echoes(&tls.Config{Certificates: []tls.Certificate{theirs}})})
			config := &tls.Config{InsecureSkipVerify: true}
			s.knows(config)
			if _, state, flow := s.through(config, "x"); !sameKeys(state.PeerCertificates, theirs) || flow.opaque != "" {
				t.Errorf("%v, opaque %q", state.PeerCertificates[0].DNSNames, flow.opaque)
			}
		})
	}
}
