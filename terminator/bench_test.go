package terminator

import (
	"crypto/tls"
	"io"
	"net"
	"testing"
)

// what a client pays for a flow that is seen into, beside the same one straight to the primary.
func between(b *testing.B, serve func(*tls.Config) func(net.Conn), run func(b *testing.B, connect func() net.Conn, asks *tls.Config)) {
	a := newAuthority(b)
	config := &tls.Config{Certificates: []tls.Certificate{a.sign(b, newKey(b), "a.test")}}
	s := newStand(b, a, set{protocol: "raw", serve: echoes(config), tickets: NewTickets("", nil, nil)})
	s.declines = true
	s.knows(s.asks("a.test"))
	s.serves(serve(config))
	b.Run("seen", func(b *testing.B) {
		run(b, func() net.Conn {
			conn, _ := s.connect()
			return conn
		}, s.asks("a.test"))
	})
	b.Run("straight", func(b *testing.B) {
		run(b, func() net.Conn {
			conn, err := net.Dial("tcp", s.primary.Addr().String())
			check(b, err)
			return conn
		}, s.asks("a.test"))
	})
}

func BenchmarkHandshakes(b *testing.B) {
	for name, cache := range map[string]tls.ClientSessionCache{"whole": nil, "resumed": tls.NewLRUClientSessionCache(1)} {
		b.Run(name, func(b *testing.B) {
			between(b, echoes, func(b *testing.B, connect func() net.Conn, asks *tls.Config) {
				asks.ClientSessionCache = cache
				for b.Loop() {
					conn := connect()
					inside := tls.Client(conn, asks)
					check(b, inside.Handshake())
					check(b, inside.CloseWrite())
					_, err := io.Copy(io.Discard, inside)
					check(b, err)
					check(b, conn.Close())
				}
			})
		})
	}
}

func BenchmarkBulk(b *testing.B) {
	const size = 1 << 20
	talks := func(config *tls.Config) func(net.Conn) {
		return func(conn net.Conn) {
			inside := tls.Server(conn, config)
			ask, answer := make([]byte, 1), make([]byte, size)
			for {
				if _, err := io.ReadFull(inside, ask); err != nil {
					return
				}
				if _, err := inside.Write(answer); err != nil {
					return
				}
			}
		}
	}
	between(b, talks, func(b *testing.B, connect func() net.Conn, asks *tls.Config) {
		inside := tls.Client(connect(), asks)
		buf := make([]byte, size)
		b.SetBytes(size)
		for b.Loop() {
			_, err := inside.Write(buf[:1])
			check(b, err)
			_, err = io.ReadFull(inside, buf)
			check(b, err)
		}
	})
}
