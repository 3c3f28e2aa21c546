package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/netip"

	"github.com/splitd/splitd/internal/certs"
	"github.com/splitd/splitd/internal/ladder"
)

// portSecure is where backends speak TLS, and programs before them.
const portSecure = 443

// What clients over TLS ask for: a small page, and a stream without an end.
const (
	askPage   = "GET /ladder HTTP/1.1\r\nHost: " + ladder.ServiceHost + "\r\n\r\n"
	askStream = "GET /stream HTTP/1.1\r\nHost: " + ladder.ServiceHost + "\r\n\r\n"

	// The page is that of the ladder's candidate, so that a shadow finds nothing to tell.
	securePage   = "HTTP/1.1 200 OK\r\nVia: 1.1 primary\r\nContent-Type: text/plain\r\nContent-Length: 3\r\n\r\nok\n"
	secureStream = "HTTP/1.1 200 OK\r\nVia: 1.1 primary\r\nContent-Type: application/octet-stream\r\nContent-Length: 1000000000000000\r\n\r\n"
)

// secureServer is a backend of ways over TLS.
type secureServer struct{ listeners []net.Listener }

// serveSecure serves the old backend of all ways, a goroutine for each connection.
func (l *lab) serveSecure(over *ladder.Certificates) (*secureServer, error) {
	own, err := certs.Read(over.Primary())
	if err != nil {
		return nil, fmt.Errorf("read certificate: %w", err)
	}
	// What Debian's OpenSSL and Go both have.
	config := &tls.Config{Certificates: []tls.Certificate{own}, CurvePreferences: []tls.CurveID{tls.X25519}, NextProtos: []string{"http/1.1"}, MinVersion: tls.VersionTLS13}
	s := &secureServer{}
	for _, w := range l.ways {
		err := l.server.Do(func() error {
			listener, err := net.Listen("tcp", netip.AddrPortFrom(w.v4(2, hostOld), portSecure).String())
			if err == nil {
				s.listeners = append(s.listeners, listener)
				go acceptSecure(listener, config)
			}
			return err
		})
		if err != nil {
			s.close()
			return nil, err
		}
	}
	return s, nil
}

// close ends the listeners; connections end with their clients.
func (s *secureServer) close() {
	for _, l := range s.listeners {
		_ = l.Close()
	}
}

func acceptSecure(listener net.Listener, config *tls.Config) {
	for {
		c, err := listener.Accept()
		if err != nil {
			return
		}
		go answerSecure(tls.Server(c, config))
	}
}

// answerSecure answers requests, each of which is small and comes whole.
func answerSecure(c *tls.Conn) {
	defer func() { _ = c.Close() }()
	request := make([]byte, 1<<10)
	if c.HandshakeContext(context.Background()) != nil {
		return
	}
	for {
		n, err := c.Read(request)
		if err != nil {
			return
		}
		if bytes.HasPrefix(request[:n], []byte(askStream)) {
			stream(c)
			return
		}
		for range bytes.Count(request[:n], []byte("\r\n\r\n")) {
			if _, err := c.Write([]byte(securePage)); err != nil {
				return
			}
		}
	}
}

func stream(c net.Conn) {
	_, err := c.Write([]byte(secureStream))
	for water := make([]byte, 256<<10); err == nil; {
		_, err = c.Write(water)
	}
}
