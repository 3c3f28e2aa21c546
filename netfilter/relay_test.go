package netfilter

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/splitd/splitd/internal/nettest"
)

// relayPort is where the trivial relay listens, at both loopback addresses.
const relayPort = 15000

// What a server answers to who has no client's address; what passes the relay
// comes out as a small letter.
const fromNobody = 'X'

func small(letter byte) byte { return letter | 0x20 }

// A trivialRelay does what a shadowing relay must do to stay unseen: it takes
// flows at transparent sockets and has its own ones to the primary, with the
// client's address and the mark of legs. Of what the primary says first it
// makes small letters.
type trivialRelay struct {
	stop  context.CancelFunc
	group sync.WaitGroup
	mu    sync.Mutex
	err   error // the first one
	ports atomic.Uint32
}

// relay runs one on the router until end.
func (lab *splitLab) relay() *trivialRelay {
	lab.t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	r := &trivialRelay{stop: stop}
	lab.t.Cleanup(func() { r.end(lab.t) })
	taken := make(chan net.Conn)
	for _, at := range []string{"127.0.0.1", "::1"} {
		config := net.ListenConfig{Control: transparent(at == "::1")}
		config.SetMultipathTCP(false) // its listener hands no transparent sockets out
		address := netip.AddrPortFrom(netip.MustParseAddr(at), relayPort).String()
		var l net.Listener
		var u net.PacketConn
		lab.router.Do(func() (err error) {
			if l, err = config.Listen(ctx, "tcp", address); err == nil {
				u, err = config.ListenPacket(ctx, "udp", address)
			}
			return err
		})
		context.AfterFunc(ctx, func() { _, _ = l.Close(), u.Close() })
		r.group.Go(func() { r.take(ctx, l, taken) })
		r.group.Go(func() { r.note(lab.router.NS.Do(func() error { return r.datagrams(ctx, u.(*net.UDPConn)) })) })
	}
	for range 8 {
		r.group.Go(func() {
			r.note(lab.router.NS.Do(func() error {
				for {
					select {
					case <-ctx.Done():
						return nil
					case client := <-taken:
						r.connection(ctx, client.(*net.TCPConn))
					}
				}
			}))
		})
	}
	return r
}

func (r *trivialRelay) end(t testing.TB) {
	r.stop()
	r.group.Wait()
	if r.err != nil {
		t.Errorf("the relay: %v", r.err)
	}
}

func (r *trivialRelay) note(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.err = cmp.Or(r.err, err)
}

func (r *trivialRelay) take(ctx context.Context, l net.Listener, taken chan<- net.Conn) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		select {
		case taken <- c:
		case <-ctx.Done():
			_ = c.Close()
		}
	}
}

// connection connects to where the client would be if there were no relay. A
// client that has gone meanwhile is no error.
func (r *trivialRelay) connection(ctx context.Context, client *net.TCPConn) {
	primary := client.LocalAddr().String()
	ip := client.RemoteAddr().(*net.TCPAddr).AddrPort().Addr().Unmap()
	var leg net.Conn
	err := error(unix.EADDRINUSE)
	for errors.Is(err, unix.EADDRINUSE) {
		dialer := net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(ip, r.port())), Control: forLegs(ip.Is6())}
		leg, err = dialer.DialContext(ctx, "tcp", primary)
	}
	if err != nil {
		if ctx.Err() == nil {
			r.note(err)
		}
		_ = client.Close()
		return
	}
	_ = leg.(*net.TCPConn).SetLinger(0)
	context.AfterFunc(ctx, func() { _, _ = client.Close(), leg.Close() })
	end := func() { _, _ = client.Close(), leg.Close() }
	r.group.Go(func() { defer end(); pump(leg, client, nil) })
	r.group.Go(func() { defer end(); pump(client, leg, small) })
}

// port is one for a leg, of those that no client takes by itself
// (ip_local_port_range): a client's own flow to the primary may have any of
// the others with the same address.
func (r *trivialRelay) port() uint16 {
	const first, last = 61_000, 65_535
	return first + uint16(r.ports.Add(1)%(last-first+1))
}

// pump copies; first changes the first byte.
func pump(to, from net.Conn, first func(byte) byte) {
	buffer := make([]byte, 4096)
	for {
		n, err := from.Read(buffer)
		if n > 0 {
			if first != nil {
				buffer[0], first = first(buffer[0]), nil
			}
			if _, err := to.Write(buffer[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

func transparent(six bool) func(network, address string, c syscall.RawConn) error {
	return func(_, _ string, c syscall.RawConn) error {
		return control(c, func(fd int) error { return makeTransparent(fd, six) })
	}
}

func control(c syscall.RawConn, set func(fd int) error) error {
	var err error
	return errors.Join(c.Control(func(fd uintptr) { err = set(int(fd)) }), err)
}

func makeTransparent(fd int, six bool) error {
	if six {
		return errors.Join(
			unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_TRANSPARENT, 1),
			unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_RECVORIGDSTADDR, 1))
	}
	return errors.Join(
		unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_TRANSPARENT, 1),
		unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_RECVORIGDSTADDR, 1))
}

// forLegs prepares a socket for the relay's own flow.
func forLegs(six bool) func(network, address string, c syscall.RawConn) error {
	return func(_, _ string, c syscall.RawConn) error {
		return control(c, func(fd int) error {
			return errors.Join(makeTransparent(fd, six),
				unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_MARK, int(labSettings.LegMark())))
		})
	}
}

// datagrams relays one after the other, each with a leg of its own.
func (r *trivialRelay) datagrams(ctx context.Context, u *net.UDPConn) error {
	data, oob := make([]byte, 512), make([]byte, 512)
	for {
		n, oobn, _, from, err := u.ReadMsgUDPAddrPort(data, oob)
		if err != nil {
			return nil
		}
		primary, err := originalDestination(oob[:oobn])
		if err != nil {
			return err
		}
		answer, err := r.askUDP(ctx, from.Addr().Unmap(), primary, data[:n])
		if err != nil {
			return err
		}
		answer[0] = small(answer[0])
		if err := sendAs(primary, netip.AddrPortFrom(from.Addr().Unmap(), from.Port()), answer); err != nil {
			return err
		}
	}
}

// originalDestination reads the control message of IP_RECVORIGDSTADDR, a
// struct sockaddr_in or sockaddr_in6.
func originalDestination(oob []byte) (netip.AddrPort, error) {
	messages, err := unix.ParseSocketControlMessage(oob)
	for _, m := range messages {
		var ip netip.Addr
		switch {
		case m.Header.Level == unix.IPPROTO_IP && m.Header.Type == unix.IP_ORIGDSTADDR:
			ip, _ = netip.AddrFromSlice(m.Data[4:8])
		case m.Header.Level == unix.IPPROTO_IPV6 && m.Header.Type == unix.IPV6_ORIGDSTADDR:
			ip, _ = netip.AddrFromSlice(m.Data[8:24])
		default:
			continue
		}
		return netip.AddrPortFrom(ip, binary.BigEndian.Uint16(m.Data[2:])), nil
	}
	return netip.AddrPort{}, cmp.Or(err, errors.New("a datagram without its destination"))
}

func (r *trivialRelay) askUDP(ctx context.Context, client netip.Addr, primary netip.AddrPort, question []byte) ([]byte, error) {
	dialer := net.Dialer{LocalAddr: net.UDPAddrFromAddrPort(netip.AddrPortFrom(client, r.port())), Control: forLegs(client.Is6())}
	c, err := dialer.DialContext(ctx, "udp", primary.String())
	if err != nil {
		return nil, err
	}
	defer func() { _ = c.Close() }()
	defer context.AfterFunc(ctx, func() { _ = c.Close() })()
	if _, err := c.Write(question); err != nil {
		return nil, err
	}
	answer := make([]byte, 512)
	n, err := c.Read(answer)
	return answer[:n], err
}

// sendAs sends a datagram from an address and port at which a server of this
// very host may be bound: raw sockets (raw(7)) know no ports.
func sendAs(from, to netip.AddrPort, data []byte) error {
	family := unix.AF_INET
	var local, remote unix.Sockaddr
	if to.Addr().Is6() {
		family = unix.AF_INET6
		local, remote = &unix.SockaddrInet6{Addr: from.Addr().As16()}, &unix.SockaddrInet6{Addr: to.Addr().As16()}
	} else {
		local, remote = &unix.SockaddrInet4{Addr: from.Addr().As4()}, &unix.SockaddrInet4{Addr: to.Addr().As4()}
	}
	fd, err := unix.Socket(family, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_UDP)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }()
	const checksum = 6 // its place in the header (RFC 768), which IPv6 wants
	if to.Addr().Is6() {
		err = unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_CHECKSUM, checksum)
	}
	header := binary.BigEndian.AppendUint16(nil, from.Port())
	header = binary.BigEndian.AppendUint16(header, to.Port())
	header = binary.BigEndian.AppendUint16(header, uint16(8+len(data)))
	header = append(header, 0, 0)
	return cmp.Or(err, makeTransparent(fd, to.Addr().Is6()), unix.Bind(fd, local), unix.Sendto(fd, append(header, data...), 0, remote))
}

// serveClients is like serve, but it tells clients from others, and it speaks
// UDP too.
func (lab *splitLab) serveClients(ns *nettest.NS, letter byte, addresses ...string) {
	lab.t.Helper()
	for _, address := range addresses {
		ns.Serve("tcp", address, func(c net.Conn) {
			if _, err := c.Write([]byte{seenFrom(c.RemoteAddr().String(), letter)}); err == nil {
				pump(c, c, nil)
			}
		})
		var u net.PacketConn
		ns.Do(func() (err error) { u, err = net.ListenPacket("udp", address); return err })
		lab.t.Cleanup(func() { _ = u.Close() })
		go func() {
			buffer := make([]byte, 1)
			for {
				_, from, err := u.ReadFrom(buffer)
				if err != nil {
					return
				}
				_, _ = u.WriteTo([]byte{seenFrom(from.String(), letter)}, from)
			}
		}()
	}
}

// seenFrom is the letter for a client of the lab.
func seenFrom(address string, letter byte) byte {
	from := netip.MustParseAddrPort(address).Addr().Unmap()
	for _, clients := range []string{"192.0.2.100/30", "2001:db8::100/126"} {
		if netip.MustParsePrefix(clients).Contains(from) {
			return letter
		}
	}
	return fromNobody
}

func (lab *splitLab) serveClientsEverywhere() {
	lab.serveClients(lab.router, fromLocal, "192.0.2.25:25", "[2001:db8::25]:25", "192.0.2.25:53", "[2001:db8::25]:53")
	lab.serveClients(lab.old, fromOld, "10.0.1.11:25", "[2001:db8:1::11]:25", "10.0.1.11:53", "[2001:db8:1::11]:53")
	lab.serveClients(lab.new, fromNew, "10.0.2.12:25", "[2001:db8:2::12]:25", "10.0.2.12:53", "[2001:db8:2::12]:53")
}

// awaitReadable waits until there is an answer.
func awaitReadable(fd int) error {
	for {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 10_000)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if n == 0 {
			return cmp.Or(err, errors.New("no answer"))
		}
		return err
	}
}
