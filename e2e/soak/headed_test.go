//go:build soak

package soak

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"syscall"
	"time"

	"github.com/pires/go-proxyproto"
)

// serveHeaded is serve where every connection has to begin with a PROXY header;
// who connects for itself is let go.
func serveHeaded(c net.Conn, name string) {
	defer func() { _ = c.Close() }()
	from := bufio.NewReaderSize(c, 64<<10)
	h, err := proxyproto.Read(from)
	if err != nil || h.Command == proxyproto.LOCAL {
		return
	}
	converse(c, from, name, h.SourceAddr)
}

// headed is a session behind a proxy of the client's, which tells of somebody
// else: the backend has to be told of that one.
func headed(play func(s *session) error) visit {
	return func(_ *load, address string) (string, error) {
		s, err := connect(address)
		if err != nil {
			return "", err
		}
		defer func() { _ = s.Close() }()
		client := somebody()
		if err := s.introduce(client); err != nil {
			return "", err
		}
		if err := s.greeted(); err != nil {
			return "", err
		}
		if err := s.ask("whoami", client.String()); err != nil {
			return s.who, err
		}
		return s.who, play(s)
	}
}

// somebody is one of 500 clients.
func somebody() netip.AddrPort {
	last, port := byte(1+rand.IntN(250)), uint16(1024+rand.IntN(60_000))
	if rand.IntN(2) == 0 {
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte{198, 51, 100, last}), port)
	}
	return netip.AddrPortFrom(netip.AddrFrom16([16]byte{0x20, 0x01, 0x0d, 0xb8, 15: last}), port)
}

// introduce sends a header of either version, mostly in two pieces.
func (s *session) introduce(client netip.AddrPort) error {
	service := netip.AddrPortFrom(client.Addr(), 25)
	header, err := proxyproto.HeaderProxyFromAddrs(byte(1+rand.IntN(2)), net.TCPAddrFromAddrPort(client), net.TCPAddrFromAddrPort(service)).Format()
	if err != nil {
		return err
	}
	cut := rand.IntN(len(header))
	if _, err := s.Write(header[:cut]); err != nil {
		return err
	}
	time.Sleep(time.Duration(rand.IntN(5)) * time.Millisecond)
	_, err = s.Write(header[cut:])
	return err
}

// headless says something else and wants to be cut off.
func headless(_ *load, address string) (string, error) {
	s, err := connect(address)
	if err != nil {
		return "", err
	}
	defer func() { _ = s.Close() }()
	if _, err := io.WriteString(s, "EHLO nobody\r\n"); err != nil {
		return "", err
	}
	switch _, err := s.from.ReadByte(); {
	case err == nil:
		return "", errors.New("a client without a header is answered")
	case !errors.Is(err, syscall.ECONNRESET):
		return "", fmt.Errorf("a client without a header is not reset: %w", err)
	}
	return "", nil
}
