package terminator

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/splitd/splitd/internal/certs"
	"github.com/splitd/splitd/shadow"
	"github.com/splitd/splitd/shadow/secure"
	"github.com/splitd/splitd/traffic"
)

// An authority signs the certificates of a test.
type authority struct{ tls.Certificate }

func newAuthority(t testing.TB) *authority {
	t.Helper()
	made := template()
	made.Subject.CommonName, made.IsCA, made.BasicConstraintsValid, made.KeyUsage = "authority", true, true, x509.KeyUsageCertSign
	own, err := certs.Sign(made, nil, nil)
	check(t, err)
	return &authority{own}
}

func (a *authority) pool() *x509.CertPool {
	p := x509.NewCertPool()
	p.AddCert(a.Leaf)
	return p
}

// sign makes a certificate for names.
func (a *authority) sign(t testing.TB, key crypto.Signer, names ...string) tls.Certificate {
	t.Helper()
	return a.signFor(t, key, time.Now().Add(-time.Hour), time.Now().Add(30*24*time.Hour), names...)
}

// signFor makes one for a time.
func (a *authority) signFor(t testing.TB, key crypto.Signer, from, to time.Time, names ...string) tls.Certificate {
	t.Helper()
	made := template()
	made.DNSNames, made.NotBefore, made.NotAfter = names, from, to
	signed, err := certs.Sign(made, &a.Certificate, key)
	check(t, err)
	return signed
}

func template() *x509.Certificate {
	return &x509.Certificate{
		Subject:   pkix.Name{CommonName: "test"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(30 * 24 * time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
}

func newKey(t testing.TB) crypto.Signer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	check(t, err)
	return key
}

var rsaKey = sync.OnceValues(func() (*rsa.PrivateKey, error) { return rsa.GenerateKey(rand.Reader, 2048) })

// save writes a pair into files.
func save(t testing.TB, files traffic.Certificate, c tls.Certificate) {
	t.Helper()
	key, err := certs.KeyPEM(c)
	check(t, err)
	check(t, os.WriteFile(files.Key, key, 0o600))
	check(t, os.WriteFile(files.Cert, certs.PEM(c), 0o600))
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// A stand is a primary with a Terminator in front, as the relay would have it.
type stand struct {
	testing.TB
	*Terminator
	authority *authority
	own       []traffic.Certificate // files of the service's pairs
	primary   net.Listener
	logged    *logged
	declines  bool // nobody listens

	mu    sync.Mutex
	serve func(net.Conn) // a connection of the primary
}

// carried is a flow that was carried.
type carried struct {
	heard
	done chan struct{}
	err  error // once done
}

// heard is a tap that keeps what it is told.
type heard struct {
	mu      sync.Mutex
	opened  *shadow.Handshake
	secured *shadow.Handshake
	opaque  string
	said    []string // "client: ...", joined where one speaks on
	fins    [2]bool
	end     string
}

func (h *heard) Take(from shadow.Party, b []byte, fin bool, _ time.Time) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	who := []string{"client: ", "primary: "}[from]
	last := len(h.said) - 1
	switch {
	case len(b) == 0 && !fin:
		h.said = append(h.said, who+"nothing")
	case len(b) == 0:
	case last >= 0 && strings.HasPrefix(h.said[last], who):
		h.said[last] += string(b)
	default:
		h.said = append(h.said, who+string(b))
	}
	h.fins[from] = h.fins[from] || fin
	return true
}

func (h *heard) Secure(s shadow.Handshake, _ time.Time) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.secured = &s
	h.said = append(h.said, "secured")
	return true
}

func (h *heard) Opaque(reason string, _ time.Time) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.opaque = strings.TrimPrefix(reason, unseenFor)
	h.said = append(h.said, "opaque")
	return true
}

func (h *heard) End(how shadow.End, _ time.Time)          { h.ends("", how) }
func (h *heard) EndByPrimary(how shadow.End, _ time.Time) { h.ends(" by primary", how) }

func (h *heard) ends(by string, how shadow.End) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.end += string(how) + by
}

// Open implements Teller.
func (c *carried) Open(h *shadow.Handshake, opaque string) Tap {
	c.opened, c.opaque = h, strings.TrimPrefix(opaque, unseenFor)
	return &c.heard
}

type deafTeller struct{}

func (deafTeller) Open(*shadow.Handshake, string) Tap { return nil }

// logged is what was logged.
type logged struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *logged) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(b)
}

func (l *logged) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// set is how a stand is made.
type set struct {
	protocol string
	own      []tls.Certificate // the service's; by default one for a.test and b.test
	tickets  *Tickets
	trust    *traffic.Trust // in the primary; by default in the authority
	serve    func(net.Conn)
	now      func() time.Time
	unprobed bool // no probe reaches the primary
}

func newStand(t testing.TB, a *authority, o set) *stand {
	t.Helper()
	dir := t.TempDir()
	if o.own == nil {
		o.own = []tls.Certificate{a.sign(t, newKey(t), "a.test", "b.test")}
	}
	s := &stand{TB: t, authority: a, serve: o.serve, logged: &logged{}}
	for i, c := range o.own {
		name := filepath.Join(dir, string(rune('a'+i)))
		s.own = append(s.own, traffic.Certificate{Cert: name + ".crt", Key: name + ".key"})
		save(t, s.own[i], c)
	}
	trust := traffic.Trust{CA: filepath.Join(dir, "ca.crt")}
	check(t, os.WriteFile(trust.CA, certs.PEM(a.Certificate), 0o600))
	if o.trust != nil {
		trust = *o.trust
	}
	split := traffic.Split{Name: "web", Protocol: o.protocol}
	split.Shadow.TLS = traffic.TLS{Certificates: s.own, ToPrimary: trust}
	var err error
	s.primary, err = net.Listen("tcp", "127.0.0.1:0")
	check(t, err)
	options := Options{
		Split: split, Tickets: o.tickets, Now: o.now, Log: slog.New(slog.NewTextHandler(s.logged, &slog.HandlerOptions{Level: slog.LevelDebug})),
	}
	if o.unprobed {
		options.Dial = func(context.Context, netip.AddrPort) (net.Conn, error) { return nil, errors.New("no probe") }
	}
	s.Terminator, err = New(options)
	check(t, err)
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			conn, err := s.primary.Accept()
			if err != nil {
				return
			}
			s.mu.Lock()
			serve := s.serve
			s.mu.Unlock()
			serving.Go(func() {
				defer func() { _ = conn.Close() }()
				serve(conn)
			})
		}
	})
	t.Cleanup(func() {
		_ = s.primary.Close()
		s.Close()
		serving.Wait()
	})
	return s
}

// serves has the primary be another one from now on.
func (s *stand) serves(serve func(net.Conn)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.serve = serve
}

// connect begins a flow and returns the client's end of it.
func (s *stand) connect() (*net.TCPConn, *carried) {
	s.Helper()
	door, err := net.Listen("tcp", "127.0.0.1:0")
	check(s, err)
	defer func() { _ = door.Close() }()
	end, err := net.Dial("tcp", door.Addr().String())
	check(s, err)
	client, err := door.Accept()
	check(s, err)
	primary, err := net.Dial("tcp", s.primary.Addr().String())
	check(s, err)
	flow := &carried{done: make(chan struct{})}
	var teller Teller = flow
	if s.declines {
		teller = deafTeller{}
	}
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		defer close(flow.done)
		defer cancel()
		flow.err = s.Carry(ctx, Flow{Client: address(client.RemoteAddr()), Service: address(client.LocalAddr()), Primary: address(primary.RemoteAddr())}, client, primary, teller)
		for _, c := range []net.Conn{client, primary} {
			if flow.err != nil {
				_ = c.(*net.TCPConn).SetLinger(0) // as the relay does
			}
			_ = c.Close()
		}
	}()
	s.Cleanup(func() {
		_ = end.Close()
		cancel()
		<-flow.done
	})
	return end.(*net.TCPConn), flow
}

func address(a net.Addr) netip.AddrPort { return a.(*net.TCPAddr).AddrPort() }

// knows has the primary be known for what a client asks, by a flow that is passed through.
func (s *stand) knows(config *tls.Config) {
	s.Helper()
	conn, flow := s.connect()
	_ = tls.Client(conn, config).Handshake()
	_ = conn.Close()
	<-flow.done
	s.known.running.Wait()
}

// asks is a client's configuration.
func (s *stand) asks(name string, protocols ...string) *tls.Config {
	return &tls.Config{RootCAs: s.authority.pool(), ServerName: name, NextProtos: protocols}
}

// through is what a whole flow inside TLS comes to: a client says something, hears the answer,
// and ends.
func (s *stand) through(config *tls.Config, say string) (answer string, state tls.ConnectionState, flow *carried) {
	s.Helper()
	conn, flow := s.connect()
	defer func() { _ = conn.Close() }()
	inside := tls.Client(conn, config)
	check(s, inside.Handshake())
	_, err := io.WriteString(inside, say)
	check(s, err)
	check(s, inside.CloseWrite())
	b, err := io.ReadAll(inside)
	check(s, err)
	_ = conn.Close()
	<-flow.done
	return string(b), inside.ConnectionState(), flow
}

// echoes is a primary inside TLS that says what it has heard, in upper case, once the client has
// ended.
func echoes(config *tls.Config) func(net.Conn) {
	return func(conn net.Conn) {
		inside := tls.Server(conn, config)
		if inside.Handshake() != nil {
			return
		}
		b, err := io.ReadAll(inside)
		if err != nil {
			return
		}
		_, _ = inside.Write(bytes.ToUpper(b))
		_ = inside.CloseWrite()
		_, _ = io.Copy(io.Discard, conn)
	}
}

var discard = slog.New(slog.DiscardHandler)

func newVerifier(t testing.TB) *secure.Verifier {
	t.Helper()
	v, err := secure.NewVerifier(traffic.Trust{Report: true}, nil)
	check(t, err)
	return v
}

func failsWith(err error, by shadow.Party) bool {
	var broken *Broken
	return errors.As(err, &broken) && broken.By == by
}

func sameKeys(got []*x509.Certificate, want tls.Certificate) bool {
	return len(got) > 0 && slices.Equal(got[0].Raw, want.Certificate[0])
}

func nowhen() time.Time { return time.Time{} }
