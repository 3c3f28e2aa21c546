package main

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/splitd/splitd/internal/certs"
	"github.com/splitd/splitd/internal/ladder"
)

// secureWord, as the first argument, makes this program the clients of ways over TLS.
// Behind it are what they do, where they connect to, how long, how many they are at once,
// and the files of roots and of the backend's certificate.
const secureWord = "secure-clients"

// What clients over TLS do.
const (
	doFull    = "full"    // connections of one whole handshake and one request each
	doResumed = "resumed" // the same with handshakes that resume a session
	doAsk     = "ask"     // requests on connections that are kept
	doStream  = "stream"  // one stream
	doHold    = "hold"    // opens connections that have had one request, and keeps them
)

// secureDone is what they did; it is a line of JSON.
type secureDone struct {
	Many    float64 `json:"many"` // handshakes, requests, or bytes
	Seconds float64 `json:"seconds"`
	// Flows are the connections, of which SeenInto have met another certificate than the
	// backend's own, and Resumed a session.
	Flows    int     `json:"flows"`
	SeenInto int     `json:"seen_into"`
	Resumed  int     `json:"resumed"`
	CPU      float64 `json:"cpu_seconds"` // of the clients themselves
}

// secureClients are they, in a process of their own.
type secureClients struct {
	at      string
	lasts   time.Duration
	atOnce  int
	config  *tls.Config
	primary []byte // the backend's own certificate

	mu    sync.Mutex
	done  secureDone
	wrong error // the first
	held  []*tls.Conn
}

// serveSecureClients is the process: it gets ready and says so, does it when it is told to,
// says what it did, and keeps what it holds until its input ends.
func serveSecureClients(words []string, orders io.Reader, answers io.Writer) error {
	c, do, err := parseSecure(words)
	if err != nil {
		return fmt.Errorf("be clients over TLS: %w", err)
	}
	lines := bufio.NewScanner(orders)
	act, err := c.prepare(do)
	if err != nil {
		return fmt.Errorf("be clients over TLS: get ready to %s: %w", do, err)
	}
	if _, err := fmt.Fprintln(answers, "ready"); err != nil || !lines.Scan() {
		return err
	}
	if do == doResumed || do == doHold { // whose flows before were to get ready alone
		c.done = secureDone{}
	}
	before, began := ownCPU(), time.Now()
	c.together(act)
	c.done.Seconds, c.done.CPU = time.Since(began).Seconds(), (ownCPU() - before).Seconds()
	if c.wrong != nil {
		return fmt.Errorf("be clients over TLS: %s: %w", do, c.wrong)
	}
	if err := json.NewEncoder(answers).Encode(c.done); err != nil {
		return err
	}
	lines.Scan()
	return nil
}

func parseSecure(words []string) (*secureClients, string, error) {
	if len(words) != 6 {
		return nil, "", fmt.Errorf("%q are not six words", words)
	}
	c := &secureClients{at: words[1]}
	var err, numberErr error
	c.lasts, err = time.ParseDuration(words[2])
	c.atOnce, numberErr = strconv.Atoi(words[3])
	roots, rootsErr := certs.Pool(words[4])
	primary, primaryErr := certs.Read(words[5])
	if err := errors.Join(err, numberErr, rootsErr, primaryErr); err != nil {
		return nil, "", err
	}
	c.primary = primary.Leaf.Raw
	c.config = &tls.Config{RootCAs: roots, ServerName: ladder.ServiceHost, NextProtos: []string{"http/1.1"}, CurvePreferences: []tls.CurveID{tls.X25519}, MinVersion: tls.VersionTLS13}
	return c, words[0], nil
}

// secureAct is what one client does, until the time is over.
type secureAct func(until time.Time) error

// prepare does what is not measured, and returns what each client is to do.
func (c *secureClients) prepare(do string) (func() secureAct, error) {
	switch do {
	case doFull:
		return func() secureAct { return c.connects(c.config) }, nil
	case doResumed:
		var acts []secureAct
		for range c.atOnce {
			config := c.config.Clone()
			config.ClientSessionCache = tls.NewLRUClientSessionCache(1)
			if err := c.once(config); err != nil {
				return nil, err
			}
			acts = append(acts, c.connects(config))
		}
		return handOut(acts), nil
	case doAsk, doStream:
		var acts []secureAct
		for range c.atOnce {
			conn, err := c.open(c.config)
			if err != nil {
				return nil, err
			}
			if do == doAsk {
				acts = append(acts, c.asks(conn))
				continue
			}
			if _, err := io.WriteString(conn, askStream); err != nil {
				return nil, err
			}
			acts = append(acts, c.drinks(conn))
		}
		return handOut(acts), nil
	case doHold:
		const some = 50
		for range some {
			if err := c.once(c.config); err != nil {
				return nil, err
			}
		}
		return func() secureAct { return c.holds }, nil
	}
	return nil, fmt.Errorf("%q is nothing that they do", do)
}

// handOut gives each client its own.
func handOut(acts []secureAct) func() secureAct {
	return func() secureAct {
		act := acts[0]
		acts = acts[1:]
		return act
	}
}

// together has all clients do it at once.
func (c *secureClients) together(act func() secureAct) {
	until := time.Now().Add(c.lasts)
	var all sync.WaitGroup
	for range c.atOnce {
		one := act()
		all.Go(func() {
			if err := one(until); err != nil {
				c.mu.Lock()
				defer c.mu.Unlock()
				if c.wrong == nil {
					c.wrong = err
				}
			}
		})
	}
	all.Wait()
}

// open makes a handshake and one request: with its answer come the tickets of the session.
func (c *secureClients) open(config *tls.Config) (*tls.Conn, error) {
	plain, err := net.DialTimeout("tcp", c.at, patience)
	if err != nil {
		return nil, err
	}
	conn := tls.Client(plain, config)
	_ = conn.SetDeadline(time.Now().Add(c.lasts + 3*patience))
	if err := conn.Handshake(); err != nil {
		_ = conn.Close()
		return nil, fmt.Errorf("make handshake: %w", err)
	}
	state := conn.ConnectionState()
	c.mu.Lock()
	c.done.Flows++
	if !bytes.Equal(state.PeerCertificates[0].Raw, c.primary) {
		c.done.SeenInto++
	}
	if state.DidResume {
		c.done.Resumed++
	}
	c.mu.Unlock()
	if err := ask(conn); err != nil {
		_ = conn.Close()
		return nil, err
	}
	return conn, nil
}

// ask makes one request and reads its answer.
func ask(conn *tls.Conn) error {
	if _, err := io.WriteString(conn, askPage); err != nil {
		return fmt.Errorf("send request: %w", err)
	}
	var answer [len(securePage)]byte
	if _, err := io.ReadFull(conn, answer[:]); err != nil || string(answer[:]) != securePage {
		return fmt.Errorf("read answer %q: %w", answer, errors.Join(err, unix.EBADMSG))
	}
	return nil
}

func (c *secureClients) once(config *tls.Config) error {
	conn, err := c.open(config)
	if err != nil {
		return err
	}
	_ = conn.Close()
	return nil
}

func (c *secureClients) count(many int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.done.Many += float64(many)
}

func (c *secureClients) connects(config *tls.Config) secureAct {
	return func(until time.Time) error {
		for time.Now().Before(until) {
			if err := c.once(config); err != nil {
				return err
			}
			c.count(1)
		}
		return nil
	}
}

func (c *secureClients) asks(conn *tls.Conn) secureAct {
	return func(until time.Time) error {
		many := 0
		defer func() { c.count(many) }()
		for ; time.Now().Before(until); many++ {
			if err := ask(conn); err != nil {
				return err
			}
		}
		return nil
	}
}

func (c *secureClients) drinks(conn *tls.Conn) secureAct {
	return func(until time.Time) error {
		many, cup := 0, make([]byte, 256<<10)
		defer func() { c.count(many) }()
		for time.Now().Before(until) {
			n, err := conn.Read(cup)
			many += n
			if err != nil {
				return fmt.Errorf("read stream: %w", err)
			}
		}
		return nil
	}
}

// holds opens a connection, which stays.
func (c *secureClients) holds(time.Time) error {
	conn, err := c.open(c.config)
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.held = append(c.held, conn)
	c.done.Many++
	return nil
}

// ownCPU is the time that this process has had on processors.
func ownCPU() time.Duration {
	var t unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_PROCESS_CPUTIME_ID, &t)
	return time.Duration(t.Nano())
}
