package terminator

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"slices"
	"time"

	"github.com/splitd/splitd/shadow"
)

const (
	// mostHello bounds a ClientHello, with its records' headers. crypto/tls takes 64 KiB.
	mostHello = 128 << 10
	// helloPatience is how long a ClientHello may take that has begun.
	helloPatience = 10 * time.Second

	extensionEarlyData = 42 // RFC 8446, 4.2
)

var (
	errHeard   = errors.New("heard") // ends the handshake that only listens
	errNoTLS   = errors.New("it is no ClientHello")
	errTooLong = errors.New("the ClientHello is too long")
)

// A hello is what a client asks for.
type hello struct {
	bytes []byte
	info  *tls.ClientHelloInfo
	asked shadow.Handshake
}

// beginning waits for what a flow begins with: a ClientHello, or, where it is nil, something
// in clear, of whoever speaks or ends first; muddled says that it began as a ClientHello. What
// was read is read again.
func (f *flow) beginning() (h *hello, muddled bool) {
	spoken := len(f.primary.before) > 0
	watched := f.aside(f.client, func() error {
		if !spoken {
			spoken = f.primary.peek()
		}
		if spoken {
			_ = f.client.interrupt()
		}
		return nil
	})
	h, muddled = f.hear()
	_ = f.primary.interrupt()
	<-watched
	f.rearm(f.primary)
	f.rearm(f.client)
	if spoken {
		return nil, muddled && h == nil
	}
	return h, muddled
}

// peek waits until a side says something or ends, which is read again; false: it was
// interrupted.
func (s *side) peek() bool {
	buf := buffers.Get().(*buffer)
	defer buffers.Put(buf)
	n, err := s.Read(buf[:])
	if n > 0 {
		s.before = slices.Clone(buf[:n])
	}
	return n > 0 || !timedOut(err)
}

// hear reads a ClientHello.
func (f *flow) hear() (h *hello, muddled bool) {
	r := &recorder{side: f.client, began: make(chan struct{}, 1)}
	stop := f.hurry(r.began)
	info := listen(r, nil)
	stop()
	f.client.before = append(r.bytes, f.client.before...)
	if info == nil {
		return nil, len(r.bytes) > 0 && begins(r.bytes)
	}
	return newHello(slices.Clone(r.bytes), info), false
}

// hurry interrupts the client if what has begun takes too long, and returns what ends that.
func (f *flow) hurry(began <-chan struct{}) (stop func()) {
	over, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		select {
		case <-began:
		case <-over:
			return
		}
		late := time.NewTimer(helloPatience)
		defer late.Stop()
		select {
		case <-late.C:
			_ = f.client.interrupt()
		case <-over:
		}
	}()
	return func() {
		close(over)
		<-ended
	}
}

// listen reads a ClientHello as crypto/tls does, by a server that says nothing; nil: there is
// none.
func listen(conn net.Conn, config *tls.Config) *tls.ClientHelloInfo {
	var heard *tls.ClientHelloInfo
	if config == nil {
		config = &tls.Config{MinVersion: tls.VersionTLS10, CipherSuites: suites()}
	}
	server := *config.Clone()
	server.GetConfigForClient = func(info *tls.ClientHelloInfo) (*tls.Config, error) {
		heard = info
		return nil, errHeard
	}
	_ = tls.Server(conn, &server).Handshake()
	return heard
}

// as is what the client can do where nothing but what config says can be agreed to.
func (h *hello) as(config *tls.Config) *tls.ClientHelloInfo {
	return listen(&recorder{side: &side{Conn: deaf{}, before: h.bytes}}, config)
}

func newHello(b []byte, info *tls.ClientHelloInfo) *hello {
	h := &hello{bytes: b, info: info}
	versions := slices.DeleteFunc(slices.Clone(info.SupportedVersions), func(v uint16) bool { return v < tls.VersionTLS10 || v > tls.VersionTLS13 })
	h.asked = shadow.Handshake{ServerName: info.ServerName, Protocols: slices.Clone(info.SupportedProtos)}
	if len(versions) == 0 {
		return h
	}
	h.asked.Least, h.asked.Most = slices.Min(versions), slices.Max(versions)
	for _, id := range suites() {
		if slices.Contains(info.CipherSuites, id) {
			h.asked.Ciphers = append(h.asked.Ciphers, id)
		}
	}
	if len(h.asked.Ciphers) == 0 && h.asked.Most == tls.VersionTLS13 {
		h.asked.Least = tls.VersionTLS13
	}
	return h
}

// unspeakable says that crypto/tls cannot ask the primary for any of what the client can.
func (h *hello) unspeakable() bool {
	if h.asked.Most < tls.VersionTLS13 {
		return len(h.asked.Ciphers) == 0
	}
	modern := func(id uint16) bool {
		return id >= tls.TLS_AES_128_GCM_SHA256 && id <= tls.TLS_CHACHA20_POLY1305_SHA256
	}
	curves := []tls.CurveID{tls.X25519, tls.CurveP256, tls.CurveP384, tls.CurveP521, tls.X25519MLKEM768}
	return !slices.ContainsFunc(h.info.CipherSuites, modern) ||
		!slices.ContainsFunc(h.info.SupportedCurves, func(c tls.CurveID) bool { return slices.Contains(curves, c) })
}

func (h *hello) has(extension uint16) bool { return slices.Contains(h.info.Extensions, extension) }

// suites are the cipher suites of crypto/tls below TLS 1.3.
func suites() []uint16 {
	var all []uint16
	for _, s := range slices.Concat(tls.CipherSuites(), tls.InsecureCipherSuites()) {
		if s.SupportedVersions[0] < tls.VersionTLS13 {
			all = append(all, s.ID)
		}
	}
	return all
}

// A recorder keeps what is read, and drops what is written.
type recorder struct {
	*side
	bytes []byte
	began chan struct{} // is told of the first byte, if there is one
}

func (r *recorder) Read(b []byte) (int, error) {
	n, err := r.side.Read(b)
	r.bytes = append(r.bytes, b[:n]...)
	switch {
	case !begins(r.bytes):
		return 0, errNoTLS
	case len(r.bytes) > mostHello:
		return 0, errTooLong
	}
	if n > 0 {
		select {
		case r.began <- struct{}{}:
		default:
		}
	}
	return n, err
}

func (r *recorder) Write(b []byte) (int, error) { return len(b), nil }

// Close and the deadlines of crypto/tls, which gives the listening handshake up.
func (r *recorder) Close() error { return nil }

// SetWriteDeadline implements net.Conn.
func (r *recorder) SetWriteDeadline(time.Time) error { return nil }

// begins says whether bytes, as many as there are, are how a ClientHello begins: a
// record of the type handshake (RFC 8446, 5.1) with a message of the type client_hello.
func begins(b []byte) bool {
	want := [...]func(byte) bool{
		0: func(c byte) bool { return c == 22 },
		1: func(c byte) bool { return c == 3 },
		2: func(c byte) bool { return c <= 4 },
		3: func(c byte) bool { return c <= 0x40 },
		4: func(byte) bool { return true },
		5: func(c byte) bool { return c == 1 },
	}
	for i, c := range b[:min(len(b), len(want))] {
		if !want[i](c) {
			return false
		}
	}
	return true
}

// deaf is a connection on which nothing comes.
type deaf struct{ net.Conn }

func (deaf) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }

func (deaf) LocalAddr() net.Addr { return nil }

func (deaf) RemoteAddr() net.Addr { return nil }
