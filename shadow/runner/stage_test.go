package runner_test

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/splitd/splitd/shadow"
	"github.com/splitd/splitd/shadow/http1"
	"github.com/splitd/splitd/shadow/raw"
	"github.com/splitd/splitd/shadow/report"
	"github.com/splitd/splitd/shadow/runner"
	"github.com/splitd/splitd/shadow/smtp"
	"github.com/splitd/splitd/shadow/tally"
)

// A wire is one side of a connection inside the test, of which either direction can
// be ended by itself.
type wire struct {
	*io.PipeReader
	*io.PipeWriter
}

func wires() (ours, theirs wire) {
	fromUs, toThem := io.Pipe()
	fromThem, toUs := io.Pipe()
	return wire{fromThem, toThem}, wire{fromUs, toUs}
}

func (w wire) Close() error {
	_ = w.PipeReader.Close()
	return w.PipeWriter.Close()
}
func (w wire) CloseWrite() error              { return w.PipeWriter.Close() }
func (wire) LocalAddr() net.Addr              { return nil }
func (wire) RemoteAddr() net.Addr             { return nil }
func (wire) SetDeadline(time.Time) error      { return nil }
func (wire) SetReadDeadline(time.Time) error  { return nil }
func (wire) SetWriteDeadline(time.Time) error { return nil }

// dials makes a Dial to a server of the test.
func dials(serve func(wire)) func(context.Context, runner.Flow) (net.Conn, error) {
	return func(context.Context, runner.Flow) (net.Conn, error) {
		ours, theirs := wires()
		go func() {
			serve(theirs)
			_ = theirs.Close()
		}()
		return ours, nil
	}
}

func refuses(context.Context, runner.Flow) (net.Conn, error) {
	return nil, errors.New("connection refused")
}

// A counter compares what it is told, and adds it up, as a daemon does.
type counter struct {
	noise, users []shadow.Ignore
	mu           sync.Mutex
	tally        *tally.Tally
	failures     []string // why exchanges were not compared
}

func counting(protocol string, noise []shadow.Ignore, o tally.Options) *counter {
	o.Protocol, o.WarmUp = protocol, -1
	return &counter{noise: noise, users: o.Ignore, tally: tally.New(o)}
}

func (c *counter) Exchanged(exchanges []shadow.Exchange, control bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, x := range exchanges {
		found := shadow.Differences(x, append(append([]shadow.Ignore(nil), c.users...), c.noise...))
		if control {
			if x.Safe {
				c.tally.AddControl(x, found, time.Now())
			}
			continue
		}
		c.tally.Add(x, found, time.Now())
		if x.Verdict != "" {
			c.failures = append(c.failures, string(x.Verdict)+": "+x.Reason)
		}
	}
}

func (c *counter) state() tally.State {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.tally.State()
}

func (c *counter) report() report.Report {
	return report.Make(c.state(), report.Options{Split: "test", Primary: "old", Candidate: "new"})
}

// A protocol is how a test speaks one: a request, the answer to it, and a server.
type protocol struct {
	name            string
	driver          func(shadow.Session) shadow.Driver
	noise           []shadow.Ignore
	greeting        string
	request, answer string
}

func protocols() []protocol {
	return []protocol{
		{"raw", raw.New(), nil, "", "ping\n", "pong\n"},
		{"http", http1.New(http1.Options{}), http1.Noise(), "", "GET /a HTTP/1.1\r\nHost: a\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"},
		{"smtp", smtp.New(smtp.Options{}), smtp.Noise(), "220 hello\r\n", "EHLO client.example\r\n", "250-hello\r\n250 SIZE 1000\r\n"},
	}
}

// serve answers requests that are as the protocol's until hook says otherwise: it
// gets the number of the request, and the connection.
func (p protocol) serve(w wire, hook func(n int) (answer string, goOn bool)) {
	if p.greeting != "" {
		if _, err := io.WriteString(w, p.greeting); err != nil {
			return
		}
	}
	from, last := bufio.NewReader(w), p.request[strings.LastIndexByte(strings.TrimSuffix(p.request, "\n"), '\n')+1:]
	for n := 0; ; {
		line, err := from.ReadString('\n')
		if err != nil {
			return
		}
		if line != last {
			if p.name == "smtp" && strings.HasPrefix(line, "QUIT") {
				return
			}
			continue
		}
		answer, goOn := hook(n)
		if _, err := io.WriteString(w, answer); err != nil || !goOn {
			return
		}
		n++
	}
}

// stage has a runner for the protocol.
func stage(t testing.TB, p protocol, sink runner.Sink, change func(*runner.Options)) *runner.Runner {
	t.Helper()
	o := runner.Options{
		Driver: p.driver, Sink: sink, Budget: runner.NewBudget(8 << 20), FlowBudget: 1 << 20, Keep: 128 << 10, Patience: 5 * time.Second,
		Dial: dials(func(w wire) { p.serve(w, func(int) (string, bool) { return p.answer, true }) }),
	}
	change(&o)
	r := runner.New(o)
	t.Cleanup(r.Close)
	return r
}

func flow() runner.Flow {
	return runner.Flow{
		Client: netip.MustParseAddrPort("198.51.100.7:40001"), Service: netip.MustParseAddrPort("192.0.2.25:25"),
		Primary: netip.MustParseAddrPort("10.0.0.11:25"),
	}
}

// says has both sides of a flow say something; false when the shadow is over.
func says(tap *runner.Tap, request, answer string) bool {
	return (request == "" || tap.Take(shadow.Client, []byte(request), false, time.Now())) &&
		(answer == "" || tap.Take(shadow.Primary, []byte(answer), false, time.Now()))
}
