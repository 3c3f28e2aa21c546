//go:build soak

package soak

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"time"
)

// session is a client's connection, greeted by who serves it.
type session struct {
	*net.TCPConn
	from *bufio.Reader
	who  string
}

// connect is a session that nobody has greeted yet.
func connect(address string) (*session, error) {
	c, err := net.DialTimeout("tcp", address, patience)
	if err != nil {
		return nil, err
	}
	s := &session{TCPConn: c.(*net.TCPConn), from: bufio.NewReaderSize(c, 64<<10)}
	return s, s.SetDeadline(time.Now().Add(patience))
}

// greeted waits for the greeting.
func (s *session) greeted() (err error) {
	s.who, err = s.line()
	return err
}

// over is a visit that is a session of TCP.
func over(play func(s *session) error) visit {
	return func(_ *load, address string) (string, error) {
		s, err := connect(address)
		if err != nil {
			return "", err
		}
		defer func() { _ = s.Close() }()
		if err := s.greeted(); err != nil {
			return "", err
		}
		return s.who, play(s)
	}
}

func (s *session) line() (string, error) {
	text, err := s.from.ReadString('\n')
	return strings.TrimSpace(text), err
}

// put sends a line and returns the one that comes back.
func (s *session) put(line string) (string, error) {
	if err := s.SetDeadline(time.Now().Add(patience)); err != nil {
		return "", err
	}
	if _, err := io.WriteString(s, line+"\n"); err != nil {
		return "", err
	}
	return s.line()
}

// ask sends a line and wants that one back.
func (s *session) ask(line, want string) error {
	got, err := s.put(line)
	if err == nil && got != want {
		err = fmt.Errorf("%q is answered with %q, want %q", line, got, want)
	}
	return err
}

// visit is one client of an address from beginning to end, and says who served it.
type visit func(l *load, address string) (who string, err error)

// kind is what some clients do, over and over, each by itself.
type kind struct {
	name  string
	many  int // clients at each address
	pause time.Duration
	visit visit
}

// errGone is told by a client that has found its service gone, where services come
// and go: that is no failure.
var errGone = errors.New("the service is gone")

// service is a split's, with the kinds of its clients.
type service struct {
	split     string
	addresses []string
	kinds     []kind
}

// services are all. Only the relay cuts clients off that go silent.
func services() []service {
	const short = 20 * time.Millisecond
	all := []kind{
		{"short", 2, short, over(hello)},
		{"keep-alive", 6, short, over(keepAlive)},
		{"stream", 1, 300 * time.Millisecond, over(stream)},
		{"slow reader", 1, 100 * time.Millisecond, over(slowReader)},
		{"half-close", 1, short, over(halfClose)},
		{"reset", 1, short, over(reset)},
		{"reset early", 1, short, over(resetEarly)},
	}
	return []service{
		{"relayed", at("2525"), append(all[:len(all):len(all)], kind{"silent", 10, 100 * time.Millisecond, over(silent)})},
		{"routed", []string{"192.0.2.25:25", "[2001:db8::25]:25"}, all},
		{"asked", at("5353"), []kind{{"one question", 2, short, (*load).question}, {"questions", 10, short, (*load).questions}}},
		{"headed", at("2527"), []kind{
			{"short", 2, short, headed(hello)},
			{"stream", 1, 300 * time.Millisecond, headed(stream)},
			{"half-close", 1, short, headed(halfClose)},
			{"headless", 1, 100 * time.Millisecond, headless},
		}},
		{"seen", at("2528"), []kind{
			{"short", 2, short, over(seen)},
			{"keep-alive", 2, short, over(keepAlive)},
			{"reset", 1, short, over(reset)},
		}},
		{"visiting", at("2526"), []kind{{"visitor", 1, short, visitor}, {"asking visitor", 1, short, (*load).askingVisitor}}},
	}
}

// at are the router's addresses, with a port.
func at(port string) []string { return []string{"10.1.0.1:" + port, "[fd01::1]:" + port} }

func visitor(l *load, address string) (string, error) {
	who, err := over(hello)(l, address)
	if errors.Is(err, syscall.ECONNREFUSED) {
		err = errGone
	}
	return who, err
}

// seen wants the backend to see the client's own address.
func seen(s *session) error {
	got, err := s.put("whoami")
	if err != nil {
		return err
	}
	here := s.LocalAddr().(*net.TCPAddr).AddrPort().Addr()
	if there, err := netip.ParseAddrPort(got); err != nil || there.Addr() != here {
		return fmt.Errorf("the backend sees %q, want %s", got, here)
	}
	return hello(s)
}

func hello(s *session) error { return s.ask("say hello", "hello") }

func resetEarly(s *session) error { return s.SetLinger(0) }

func keepAlive(s *session) error {
	pace := time.NewTicker(20 * time.Millisecond)
	defer pace.Stop()
	for range 200 {
		if err := s.ask("say still there?", "still there?"); err != nil {
			return err
		}
		<-pace.C
	}
	return nil
}

func stream(s *session) error {
	const size = 8 << 20
	if _, err := fmt.Fprintln(s, "give", size); err != nil {
		return err
	}
	if err := check(s.from, size); err != nil {
		return err
	}
	if _, err := fmt.Fprintln(s, "take", size); err != nil {
		return err
	}
	if err := give(s, size); err != nil {
		return err
	}
	got, err := s.line()
	if err == nil && got != "took" {
		err = fmt.Errorf("an upload is answered with %q", got)
	}
	return err
}

// slowReader lets the relay wait with what it holds.
func slowReader(s *session) error {
	const size = 6 << 20
	if _, err := fmt.Fprintln(s, "give", size); err != nil {
		return err
	}
	if err := check(s.from, len(pattern())); err != nil {
		return err
	}
	time.Sleep(time.Second)
	return check(s.from, size-len(pattern()))
}

func halfClose(s *session) error {
	if _, err := fmt.Fprintln(s, "say the last"); err != nil {
		return err
	}
	if err := s.CloseWrite(); err != nil {
		return err
	}
	got, err := io.ReadAll(s.from)
	if err == nil && string(got) != "the last\nbye\n" {
		err = fmt.Errorf("after a FIN %q is read", got)
	}
	return err
}

func reset(s *session) error {
	return errors.Join(hello(s), s.SetLinger(0))
}

// silent says nothing and wants to be cut off.
func silent(s *session) error {
	_, err := s.from.ReadByte()
	switch {
	case err == nil:
		return errors.New("a client that goes silent is told more")
	case !errors.Is(err, syscall.ECONNRESET):
		return fmt.Errorf("a client that goes silent is not reset: %w", err)
	}
	return nil
}
