package ladder

import (
	"context"
	"crypto/tls"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"
)

// talking is what a server does on a connection, until it returns, or ctx ends and the
// connection is closed under it.
type talking func(ctx context.Context, c net.Conn)

// secured talks inside TLS.
func secured(config *tls.Config, talk talking) talking {
	return func(ctx context.Context, c net.Conn) {
		inside := tls.Server(c, config)
		if inside.HandshakeContext(ctx) != nil {
			return
		}
		talk(ctx, inside)
		_ = inside.Close()
	}
}

// newSecurePages answers each request with the sheet's next reply, inside TLS.
func newSecurePages(at netip.Addr, s *sheet, config *tls.Config) (*server, error) {
	var mu sync.Mutex
	return serve(at, secured(config, func(_ context.Context, c net.Conn) {
		buffer, had := make([]byte, 4<<10), 0
		for {
			n, err := c.Read(buffer)
			if err != nil {
				return
			}
			var requests int
			for requests, had = endings(buffer[:n], had); requests > 0; requests-- {
				mu.Lock()
				text := slices.Clone(s.next())
				mu.Unlock()
				if _, err := c.Write(text); err != nil {
					return
				}
			}
		}
	}))
}

// trickling makes its handshake a byte a second.
func trickling(config *tls.Config) talking {
	talk := secured(config, func(ctx context.Context, _ net.Conn) { <-ctx.Done() })
	return func(ctx context.Context, c net.Conn) { talk(ctx, trickle{c, ctx}) }
}

// trickle is a connection that is written to so slowly.
type trickle struct {
	net.Conn
	ctx context.Context
}

func (t trickle) Write(text []byte) (int, error) {
	tick := time.NewTicker(dripEvery)
	defer tick.Stop()
	for i := range text {
		if _, err := t.Conn.Write(text[i : i+1]); err != nil {
			return i, err
		}
		select {
		case <-tick.C:
		case <-t.ctx.Done():
			return i, t.ctx.Err()
		}
	}
	return len(text), nil
}

// garble answers the ClientHello with what is no TLS, for as long as it is taken.
func garble(_ context.Context, c net.Conn) {
	noise := make([]byte, 16<<10)
	if _, err := c.Read(noise); err != nil {
		return
	}
	for i := range noise {
		noise[i] = byte(i*i>>3 | 0xc0)
	}
	for {
		if _, err := c.Write(noise); err != nil {
			return
		}
	}
}
