package splitter

import (
	"log/slog"
	"net/netip"
	"slices"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/splitd/splitd/traffic"
)

// sampledChoice is that of one front of an inlet. What the split says of mode proxy
// is not for its flows, which would be the kernel's: none is refused, none is cut off
// for being silent (conntrack forgets an established one after five days,
// nf_conntrack_tcp_timeout_established), and who does not acknowledge is given up
// when the host gives up. A primary that does not answer is waited for as long as
// where nobody stands behind it. r.mu is held.
func (r *Relay) sampledChoice(split traffic.Split, in *inlet, at spot) *choice {
	if r.gates[split.Name] == nil {
		r.gates[split.Name] = &gate{newcomers: make([]queueOf, r.wanted)}
	}
	masqueraded := split.Return == traffic.ReturnMasquerade && !split.Primary.Local
	return &choice{rules: &rules{asked: split.Service}, generation: split.Generation, standing: &standing{
		split: split.Name, service: at.AddrPort, transport: at.transport,
		proxy: traffic.Proxy{
			ConnectTimeout: r.last, PeerTimeout: asTheHost, DrainTimeout: split.Proxy.DrainTimeout,
			NoSplice: split.Proxy.NoSplice, Fallback: traffic.FallbackNone, Transparent: !masqueraded,
		},
		gate: r.gates[split.Name], primary: party{name: split.Primary.Name},
		inlet: in, masqueraded: masqueraded,
	}}
}

// hasAsked says whether a flow that has asked for the address is of the inlet's split.
func (c *choice) hasAsked(at netip.AddrPort) bool {
	return slices.Contains(c.asked.Addresses, at.Addr()) && slices.ContainsFunc(c.asked.Ports, func(p traffic.Port) bool {
		return p.Transport == c.transport && p.Contains(at.Port())
	})
}

// goOnWith has a flow that an inlet has accepted go on to where it would go without
// the relay: to its own address on this side. The tee is told of each: the kernel has
// drawn. It is told of none that has asked for another split's service: until the
// kernel has the rules of this daemon, those of an earlier one may lead to the port
// where another split's inlet was, and what one's clients say is not for the other's
// candidate. Who has connected to the inlet itself, and not by way of the kernel's rules,
// would be connected with it for ever.
func (w *worker) goOnWith(f *flow) {
	c := f.choice
	at := plain(localAddress(int(f.sockets[client])))
	if !at.IsValid() || at == c.service {
		from := f.client
		w.abort(f, endRefused)
		w.tellIntruder(c, from)
		return
	}
	f.target = &target{name: c.primary.name, at: at, address: at.String(), endpoint: newEndpoint(at), counter: c.inlet.counter}
	switch asked := askedOf(int(f.sockets[client]), at); {
	case w.relay.tee == nil:
	case c.hasAsked(asked):
		f.sampled = true
		c.gate.tees.sampled.Add(1)
	default:
		w.tellStray(c, f.client, asked)
	}
	w.try(f, f.target)
}

// tellIntruder says that somebody has connected to an inlet.
func (w *worker) tellIntruder(c *choice, from netip.AddrPort) {
	if left, ok := w.relay.quiet.allow("inlet of "+c.split, time.Now()); ok {
		w.relay.say(func(log *slog.Logger) {
			log.Warn("connection refused: it asks for the port where the kernel hands flows over to be shadowed, which is no service",
				"split", c.split, "address", c.service.String(), "client", from.String(), "left_out", left)
		})
	}
}

// tellStray says that the flow of another split has come to an inlet.
func (w *worker) tellStray(c *choice, from, asked netip.AddrPort) {
	if left, ok := w.relay.quiet.allow("strays of "+c.split, time.Now()); ok {
		w.relay.say(func(log *slog.Logger) {
			log.Warn("flow served and not shadowed: the kernel's rules, perhaps of an earlier start, handed it over for another split than the one whose service it asked for",
				"split", c.split, "client", from.String(), "service", asked.String(), "left_out", left)
		})
	}
}

// trouble counts a failed attempt that says nothing of the primary: no answer came,
// perhaps because its answers take another way than through this host, or the attempt
// could not be made.
func (f *flow) trouble(cause syscall.Errno) {
	if in := f.choice.inlet; in != nil && cause != unix.ECONNREFUSED {
		in.trouble.Add(1)
	}
}

// unspecified is any address of this host, of the same family.
func unspecified(at netip.AddrPort) *endpoint {
	return newEndpoint(netip.AddrPortFrom(spot{AddrPort: at}.wildcard().Addr(), 0))
}

// askedOf is what the client of a socket has asked for before the kernel translated
// it (SO_ORIGINAL_DST in linux/netfilter_ipv4.h, IP6T_SO_ORIGINAL_DST in
// netfilter_ipv6/ip6_tables.h); where the kernel does not say, it is where it was
// sent.
func askedOf(socket int, sent netip.AddrPort) netip.AddrPort {
	const originalDestination = 80 // of both families
	var at unix.RawSockaddrInet6   // the larger one
	level, size := unix.IPPROTO_IP, uint32(unix.SizeofSockaddrInet4)
	if sent.Addr().Is6() {
		level, size = unix.IPPROTO_IPV6, unix.SizeofSockaddrInet6
	}
	_, _, errno := unix.RawSyscall6(unix.SYS_GETSOCKOPT, uintptr(socket), uintptr(level), originalDestination,
		uintptr(unsafe.Pointer(&at)), uintptr(unsafe.Pointer(&size)), 0)
	switch {
	case errno != 0:
		return sent
	case at.Family == unix.AF_INET:
		four := (*unix.RawSockaddrInet4)(unsafe.Pointer(&at))
		return netip.AddrPortFrom(netip.AddrFrom4(four.Addr), networkOrder(four.Port))
	}
	return netip.AddrPortFrom(netip.AddrFrom16(at.Addr), networkOrder(at.Port))
}
