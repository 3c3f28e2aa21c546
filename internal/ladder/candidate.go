package ladder

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"
)

// Candidate is a candidate with one behaviour. Close it.
type Candidate struct {
	server  listening      // nil where nothing listens
	address netip.AddrPort // where that is so
	release func()         // of what keeps it so
}

// listening is a candidate that takes connections.
type listening interface {
	address() netip.AddrPort
	taken() int
	close()
}

// NewCandidate has a candidate behave so at a free port of the address, which has to
// be one of this host, and with certificates over TLS. Seed decides what it does at
// random.
func NewCandidate(b Behaviour, at netip.Addr, seed uint64, over *Certificates) (*Candidate, error) {
	var err error
	c := &Candidate{release: func() {}}
	switch {
	case b == Dead:
		c.address, c.release, err = nobody(at)
	case b == Blackholed:
		c.address, c.release, err = full(at)
	case over != nil:
		c.server, err = b.listenSecure(at, seed, over)
	default:
		c.server, err = b.listen(at, seed)
	}
	if err != nil {
		return nil, fmt.Errorf("stand a candidate %q: %w", b, err)
	}
	return c, nil
}

// listen listens without TLS.
func (b Behaviour) listen(at netip.Addr, seed uint64) (listening, error) {
	if b == Healthy || b == Differing {
		return newPages(at, newSheet(b.Page(), byCandidate))
	}
	talk, err := b.talk(seed)
	if err != nil {
		return nil, err
	}
	return serve(at, talk)
}

// listenSecure listens with TLS.
func (b Behaviour) listenSecure(at netip.Addr, seed uint64, over *Certificates) (listening, error) {
	config, err := over.server(over.candidate(b))
	if err != nil {
		return nil, err
	}
	if b == Healthy || b == Differing || b == Expired {
		return newSecurePages(at, newSheet(b.Page(), byCandidate), config)
	}
	if talk, ok := map[Behaviour]talking{Hanging: hang, Garbling: garble, Trickling: trickling(config)}[b]; ok {
		return serve(at, talk) // what else they do they do instead of a handshake
	}
	talk, err := b.talk(seed)
	if err != nil {
		return nil, err
	}
	return serve(at, secured(config, talk))
}

// talk is what is done on a connection, inside TLS or not.
func (b Behaviour) talk(seed uint64) (talking, error) {
	talk, ok := map[Behaviour]talking{Refusing: refuse, Hanging: hang, Dripping: drip, Flooding: flood, Resetting: resetting(seed)}[b]
	if !ok {
		return nil, errors.New("no candidate behaves so")
	}
	return talk, nil
}

// Address is where it is, or is not.
func (c *Candidate) Address() netip.AddrPort {
	if c.server == nil {
		return c.address
	}
	return c.server.address()
}

// Taken is how many connections it has taken.
func (c *Candidate) Taken() int {
	if c.server == nil {
		return 0
	}
	return c.server.taken()
}

// Close ends it and its connections.
func (c *Candidate) Close() {
	c.release()
	if c.server != nil {
		c.server.close()
	}
}

const refusal = "HTTP/1.1 503 Service Unavailable\r\nVia: 1.1 candidate\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"

func hang(ctx context.Context, _ net.Conn) { <-ctx.Done() }

func refuse(_ context.Context, c net.Conn) {
	if readRequest(bufio.NewReader(c)) == nil {
		_, _ = c.Write([]byte(refusal))
	}
}

// dripEvery is the time for a byte.
const dripEvery = time.Second

func drip(ctx context.Context, c net.Conn) {
	from, reply := bufio.NewReader(c), newSheet(Small, byCandidate).next()
	tick := time.NewTicker(dripEvery)
	defer tick.Stop()
	for readRequest(from) == nil {
		for i := range reply {
			if _, err := c.Write(reply[i : i+1]); err != nil {
				return
			}
			select {
			case <-tick.C:
			case <-ctx.Done():
				return
			}
		}
	}
}

// floodSize is how much a flooding candidate answers to one request.
const floodSize = 1 << 30

func flood(_ context.Context, c net.Conn) {
	from, water := bufio.NewReader(c), make([]byte, 64<<10)
	for readRequest(from) == nil {
		if _, err := fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nVia: 1.1 candidate\r\nContent-Length: %d\r\n\r\n", floodSize); err != nil {
			return
		}
		for range floodSize / len(water) {
			if _, err := c.Write(water); err != nil {
				return
			}
		}
	}
}

// resetting answers three requests of four; of the next it answers a part and resets
// the connection.
func resetting(seed uint64) talking {
	return func(_ context.Context, c net.Conn) {
		random := rand.New(rand.NewPCG(seed, uint64(c.RemoteAddr().(*net.TCPAddr).Port)))
		from, reply := bufio.NewReader(c), newSheet(Small, byCandidate).next()
		for readRequest(from) == nil {
			cut := random.IntN(4) == 0
			text := reply
			if cut {
				text = text[:random.IntN(len(text))]
			}
			if _, err := c.Write(text); err != nil {
				return
			}
			if cut {
				abort(c)
				return
			}
		}
	}
}

// abort ends a connection with an RST instead of a FIN (socket(7)), also one inside TLS.
func abort(c net.Conn) {
	if inside, ok := c.(interface{ NetConn() net.Conn }); ok {
		c = inside.NetConn()
	}
	if tcp, ok := c.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
	_ = c.Close()
}

// nobody is a port that nobody listens at and nobody gets while it is kept: a port
// that was only found free could become a client's own, which would then connect to
// itself.
func nobody(at netip.Addr) (netip.AddrPort, func(), error) {
	family, name := sockaddr(netip.AddrPortFrom(at, 0))
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return netip.AddrPort{}, nil, fmt.Errorf("open socket: %w", err)
	}
	release := func() { _ = unix.Close(fd) }
	err = unix.Bind(fd, name)
	if err == nil {
		name, err = unix.Getsockname(fd)
	}
	if err != nil {
		release()
		return netip.AddrPort{}, nil, fmt.Errorf("bind to %q: %w", at, err)
	}
	return netip.AddrPortFrom(at, portOf(name)), release, nil
}

// sockaddr is what system calls want of an address.
func sockaddr(a netip.AddrPort) (family int, name unix.Sockaddr) {
	if a.Addr().Is4() {
		return unix.AF_INET, &unix.SockaddrInet4{Addr: a.Addr().As4(), Port: int(a.Port())}
	}
	return unix.AF_INET6, &unix.SockaddrInet6{Addr: a.Addr().As16(), Port: int(a.Port())}
}

func portOf(name unix.Sockaddr) uint16 {
	switch n := name.(type) {
	case *unix.SockaddrInet4:
		return uint16(n.Port)
	case *unix.SockaddrInet6:
		return uint16(n.Port)
	}
	return 0
}
