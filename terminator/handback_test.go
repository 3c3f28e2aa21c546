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
			ours, theirs := tcpPair(t)
			primary, err := net.Dial("tcp", s.primary.Addr().String())
			check(t, err)
			t.Cleanup(func() { _ = primary.Close() })
			given := make(chan error, 1)
			go func() {
				err := s.Carry(context.Background(), Flow{Primary: address(primary.RemoteAddr())}, theirs, primary, deafTeller{})
				given <- err
				go func() { _, _ = io.Copy(primary, theirs); _ = primary.(*net.TCPConn).CloseWrite() }()
				_, _ = io.Copy(theirs, primary)
				_ = theirs.(*net.TCPConn).CloseWrite()
			}()
			if test.greets {
				reads(t, ours, "220 a.test\r\n")
				_, err := io.WriteString(ours, "STARTTLS\r\n")
				check(t, err)
				reads(t, ours, "220 go on\r\n")
			}
			inside := tls.Client(ours, s.asks("a.test"))
			_, err = io.WriteString(inside, "hello")
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

func reads(t *testing.T, c net.Conn, want string) {
	t.Helper()
	got := make([]byte, len(want))
	if _, err := io.ReadFull(c, got); string(got) != want || err != nil {
		t.Fatalf("read %q, %v; want %q", got, err, want)
	}
}

// tcpPair is a connection by both ends.
func tcpPair(t *testing.T) (one, other net.Conn) {
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
