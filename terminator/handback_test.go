package terminator

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"testing"
)

// Whoever wants such flows back goes on where they are.
func TestAFlowThatIsNotSeenIntoIsGivenBackWithAllThatWasReadOfIt(t *testing.T) {
	errUnseen := errors.New("go on")
	for name, test := range map[string]struct {
		protocol string
		serve    func(net.Conn, *tls.Config)
		greets   bool
	}{
		"TLS from the first byte": {"http", func(c net.Conn, config *tls.Config) { echoes(config)(c) }, false},
		"STARTTLS": {"smtp", func(c net.Conn, config *tls.Config) {
			_, _ = io.WriteString(c, "220 a.test\r\n")
			line := make([]byte, len("STARTTLS\r\n"))
			if _, err := io.ReadFull(c, line); err == nil {
				_, _ = io.WriteString(c, "220 go on\r\n")
				echoes(config)(c)
			}
		}, true},
	} {
		t.Run(name, func(t *testing.T) {
			a := newAuthority(t)
			config := &tls.Config{Certificates: []tls.Certificate{a.sign(t, newKey(t), "a.test")}}
			s := newStand(t, a, set{protocol: test.protocol, unprobed: true, serve: func(c net.Conn) { test.serve(c, config) }})
			s.unseen = errUnseen
			ours, given := s.relays()
			if test.greets {
				reads(t, ours, "220 a.test\r\n")
				_, err := io.WriteString(ours, "STARTTLS\r\n")
				check(t, err)
				reads(t, ours, "220 go on\r\n")
			}
			inside := tls.Client(ours, s.asks("a.test"))
			_, err := io.WriteString(inside, "hello")
			check(t, err)
			check(t, inside.CloseWrite())
			if answer, err := io.ReadAll(inside); string(answer) != "HELLO" || err != nil {
				t.Errorf("the client is told %q, %v", answer, err)
			}
			if err := <-given; !errors.Is(err, errUnseen) {
				t.Errorf("it was not given back: %v", err)
			}
		})
	}
}

// relays begins a flow whose relay goes on with it if it is given back, which given tells.
func (s *stand) relays() (client net.Conn, given <-chan error) {
	s.Helper()
	ours, theirs := tcpPair(s)
	primary, err := net.Dial("tcp", s.primary.Addr().String())
	check(s, err)
	s.Cleanup(func() { _ = primary.Close() })
	done := make(chan error, 1)
	go func() {
		done <- s.Carry(context.Background(), Flow{Primary: address(primary.RemoteAddr())}, theirs, primary, deafTeller{})
		go func() { _, _ = io.Copy(primary, theirs); _ = primary.(*net.TCPConn).CloseWrite() }()
		_, _ = io.Copy(theirs, primary)
		_ = theirs.(*net.TCPConn).CloseWrite()
	}()
	return ours, done
}

// What the primary says in clear behind its reply to STARTTLS, in a segment of its own, is
// passed on in clear, as it would be without us: TLS is then not seen into, so that none of it gets there.
func TestWhatThePrimarySaysBeforeTLSBeginsStaysInClear(t *testing.T) {
	for name, unseen := range map[string]error{"carried": nil, "given back": errors.New("go on")} {
		t.Run(name, func(t *testing.T) {
			a := newAuthority(t)
			theirs := a.sign(t, newKey(t), "a.test")
			replied := make(chan struct{})
			s := newStand(t, a, set{protocol: "smtp", unprobed: true, serve: func(c net.Conn) {
				_, _ = io.WriteString(c, "220 a.test\r\n")
				if _, err := io.ReadFull(c, make([]byte, len("STARTTLS\r\n"))); err != nil {
					return
				}
				_, _ = io.WriteString(c, "220 go on\r\n")
				<-replied
				_, _ = io.WriteString(c, "250 injected\r\n")
				echoes(&tls.Config{Certificates: []tls.Certificate{theirs}})(c)
			}})
			s.unseen = unseen
			ours, given := s.relays()
			reads(t, ours, "220 a.test\r\n")
			_, err := io.WriteString(ours, "STARTTLS\r\n")
			check(t, err)
			reads(t, ours, "220 go on\r\n")
			close(replied)
			reads(t, ours, "250 injected\r\n")
			inside := tls.Client(ours, s.asks("a.test"))
			_, err = io.WriteString(inside, "hello")
			check(t, err)
			check(t, inside.CloseWrite())
			if answer, err := io.ReadAll(inside); string(answer) != "HELLO" || err != nil || !sameKeys(inside.ConnectionState().PeerCertificates, theirs) {
				t.Errorf("the client is told %q, %v", answer, err)
			}
			check(t, ours.Close())
			if err := <-given; !errors.Is(err, unseen) || s.Numbers().PassedThrough[noHello] != 1 {
				t.Errorf("%v, numbers %+v", err, s.Numbers())
			}
		})
	}
}

func reads(t *testing.T, c net.Conn, want string) {
	t.Helper()
	got := make([]byte, len(want))
	if _, err := io.ReadFull(c, got); string(got) != want || err != nil {
		t.Fatalf("read %q, %v; want %q", got, err, want)
	}
}

// tcpPair is a connection by both ends.
func tcpPair(t testing.TB) (one, other net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	check(t, err)
	defer func() { _ = l.Close() }()
	one, err = net.Dial("tcp", l.Addr().String())
	check(t, err)
	other, err = l.Accept()
	check(t, err)
	t.Cleanup(func() { _, _ = one.Close(), other.Close() })
	return one, other
}
