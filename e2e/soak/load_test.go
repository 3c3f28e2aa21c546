//go:build soak

package soak

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/splitd/splitd/internal/nettest"
)

// patience is how long a client waits for anything: what no busy machine needs.
const patience = time.Minute

// session is a client's connection, greeted by who serves it.
type session struct {
	*net.TCPConn
	from *bufio.Reader
	who  string
}

func open(address string) (*session, error) {
	c, err := net.DialTimeout("tcp", address, patience)
	if err != nil {
		return nil, err
	}
	s := &session{TCPConn: c.(*net.TCPConn), from: bufio.NewReaderSize(c, 64<<10)}
	err = s.SetDeadline(time.Now().Add(patience))
	if err == nil {
		s.who, err = s.line()
	}
	return s, err
}

func (s *session) line() (string, error) {
	text, err := s.from.ReadString('\n')
	return strings.TrimSpace(text), err
}

// ask sends a line and wants one back.
func (s *session) ask(line, want string) error {
	if err := s.SetDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	if _, err := io.WriteString(s, line+"\n"); err != nil {
		return err
	}
	got, err := s.line()
	if err == nil && got != want {
		err = fmt.Errorf("%q is answered with %q, want %q", line, got, want)
	}
	return err
}

// kind is what some clients do, over and over, each by itself.
type kind struct {
	name    string
	many    int // clients at each address
	pause   time.Duration
	session func(s *session) error
	// visits says that the service comes and goes: who finds it gone is no failure.
	visits bool
}

// kinds are what clients of every service do.
func kinds() []kind {
	return []kind{
		{name: "short", many: 2, pause: 20 * time.Millisecond, session: hello},
		{name: "keep-alive", many: 6, pause: 20 * time.Millisecond, session: keepAlive},
		{name: "stream", many: 1, pause: 300 * time.Millisecond, session: stream},
		{name: "slow reader", many: 1, pause: 100 * time.Millisecond, session: slowReader},
		{name: "half-close", many: 1, pause: 20 * time.Millisecond, session: halfClose},
		{name: "reset", many: 1, pause: 20 * time.Millisecond, session: reset},
		{name: "reset early", many: 1, pause: 20 * time.Millisecond, session: resetEarly},
	}
}

// relayedKinds are what only the relay's clients do, which cuts them off, and
// visitors are clients of the split that reloads add and remove.
func relayedKinds() []kind {
	return []kind{{name: "silent", many: 10, pause: 100 * time.Millisecond, session: silent}}
}

func visitors() []kind {
	return []kind{{name: "visitor", many: 1, pause: 20 * time.Millisecond, session: hello, visits: true}}
}

func hello(s *session) error { return s.ask("say hello", "hello") }

func resetEarly(s *session) error { return s.SetLinger(0) }

func keepAlive(s *session) error {
	for range 200 {
		if err := s.ask("say still there?", "still there?"); err != nil {
			return err
		}
		time.Sleep(20 * time.Millisecond)
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

// load is all clients and what became of them.
type load struct {
	t         *testing.T
	ns        *nettest.NS
	candidate *candidate // the failing one
	clients   sync.WaitGroup

	mu      sync.Mutex
	done    map[string]int
	served  map[string]int // by who greeted
	excused int            // whom the candidate took and did not greet, because it changed
	failed  atomic.Int64
}

// begin starts clients of a kind at an address.
func (l *load) begin(ctx context.Context, k kind, name, address string) {
	for range k.many {
		l.clients.Go(func() {
			err := l.ns.NS.Do(func() error { // on a thread of its own
				for ctx.Err() == nil {
					l.once(k, name+" "+k.name, address)
					time.Sleep(k.pause)
				}
				return nil
			})
			if err != nil {
				l.t.Errorf("%s: %v", k.name, err)
			}
		})
	}
}

// once is one client. It fails for whatever goes wrong, but for one thing that no
// relay can help: that the candidate takes its connection and resets it, before it
// greets, because it ends.
func (l *load) once(k kind, name, address string) {
	before := l.candidate.changes.Load()
	s, err := open(address)
	changed := before%2 != 0 || l.candidate.changes.Load() != before
	who := ""
	if s != nil {
		who = s.who
		if err == nil {
			err = k.session(s)
		}
		_ = s.Close()
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case err == nil:
		l.done[name]++
		l.served[who]++
	case k.visits && errors.Is(err, syscall.ECONNREFUSED):
	case who == "" && changed && errors.Is(err, syscall.ECONNRESET) && strings.HasPrefix(name, "relayed"):
		l.excused++
	default:
		if l.failed.Add(1) <= 20 {
			l.t.Errorf("a client failed: %s, served by %q: %v", name, who, err)
		}
	}
}

// sum is what has been done, by kind.
func (l *load) sum() (done, served map[string]int, all int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, n := range l.done {
		all += n
	}
	return maps.Clone(l.done), maps.Clone(l.served), all
}
