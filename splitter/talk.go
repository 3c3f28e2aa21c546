package splitter

import (
	"net/netip"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/splitd/splitd/traffic"
)

// A flow of UDP is what one address and port of a client sends to one address
// and port of a service, and what comes back, until it has been silent for long
// enough. It has a socket of its own towards its backend, whose port the kernel
// draws, so that replies and refusals (ICMP) are its own; towards clients it
// uses its front's, as all flows of the front do.
//
// It is connecting until its backend has said something, or has refused nothing
// for as long as a connect may take: silence is all that many protocols have.

// talker tells flows of UDP apart: whose it is, and to whom. IPv4 addresses are
// as in ::ffff:0:0/96. It holds no pointer, so that tables of it cost the
// garbage collector nothing.
type talker struct {
	client, service         [16]byte
	clientPort, servicePort uint16
	scope                   uint32 // the link of a client with a link-local address
}

func newTalker(client, service netip.AddrPort, scope uint32) talker {
	return talker{
		client: client.Addr().As16(), clientPort: client.Port(),
		service: service.Addr().As16(), servicePort: service.Port(), scope: scope,
	}
}

func (t talker) clientAddress() netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom16(t.client).Unmap(), t.clientPort)
}

func (t talker) serviceAddress() netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom16(t.service).Unmap(), t.servicePort)
}

// talking is what a flow of UDP has besides that of all flows.
type talking struct {
	talker
	front    *front // whose sockets the client is answered from
	listener int32  // the place of the worker's own of them
	tried    int64  // the tick at which the target was
	newest   int64  // and that of the newest datagram, either way
	last     side   // who sent it
	moved    [2]uint64
	active   bool // it is counted as open at its target
	// fresh says that its client has said nothing since the backend's first answer:
	// it is in queues of the worker, and may have to make room.
	fresh  bool
	queues [queuesOfFlow]neighbours
	// leaves says that the flow ends unless the backend answers while it is still
	// connecting.
	leaves bool
	// retained is a copy of the first datagram, for another backend should this
	// one refuse it; an empty one too, so holds says whether there is one.
	retained []byte
	holds    bool
}

const (
	// How long a flow may be silent where the split does not say, as connection
	// tracking has it (Documentation/networking/nf_conntrack-sysctl.rst,
	// nf_conntrack_udp_timeout and _stream): what goes on in both directions for
	// longer than streamsAfter is a stream.
	silence       = 30 * time.Second
	silenceStream = 2 * time.Minute
	streamsAfter  = 2 * time.Second
	// unansweredPart is what part of its time a flow has that was never answered,
	// as in mode kernel.
	unansweredPart = 3
	silenceLeast   = time.Second
	// silenceDraining is how long one may be that has its answer, while the relay
	// stops: nobody knows whether it has ended, and a restart waits for it.
	silenceDraining = 2 * time.Second
	// refusalPatience is how long a refusal is waited for where a connect has no
	// timeout.
	refusalPatience = 5 * time.Second
)

// silenceOf is how long a flow of UDP may be silent: limit is the split's, 0 where
// it has none, and lived how long datagrams have gone back and forth.
func silenceOf(limit time.Duration, answered bool, lived time.Duration) time.Duration {
	switch {
	case limit == 0 && answered && lived > streamsAfter:
		return silenceStream
	case limit == 0:
		return silence
	case answered:
		return limit
	}
	return max((limit / unansweredPart).Truncate(time.Second), silenceLeast)
}

// upon is what becomes of a flow of UDP whose backend has refused a datagram.
type upon uint8

const (
	// uponOther: another address of the backend has it from now on, or the primary.
	uponOther upon = iota
	// uponEnd: it ends, and what the client sends next begins another one.
	uponEnd
)

// uponRefusal says what to do. A backend that has answered before has lost its
// server, as by an RST; the last address of the primary has nobody behind it.
func uponRefusal(answered, others, primary bool, fallback traffic.Fallback) upon {
	switch {
	case answered:
		return uponEnd
	case others, primary && fallback != traffic.FallbackNone:
		return uponOther
	}
	return uponEnd
}

// isDropped says whether an error of sending concerns that datagram alone: there
// is no room for it here, or it is too large for where it is to go.
func isDropped(errno syscall.Errno) bool {
	switch errno { //nolint:exhaustive // it picks some of all there are
	case unix.EAGAIN, unix.ENOBUFS, unix.ENOMEM, unix.EMSGSIZE:
		return true
	}
	return false
}

// isHosts says whether an error of sending is this host's: a firewall of its own or
// a full connection tracking forbids it (EPERM), or it has no route at the moment.
// Of what a backend's host says it is none.
func isHosts(errno syscall.Errno) bool { return errno == unix.EPERM || errno == unix.ENETUNREACH }

// udp says whether the flow is one of UDP, and no probe.
func (f *flow) udp() bool { return f.talk != nil }

// mayTurn says whether somebody else may have the flow instead of its target.
func (f *flow) mayTurn() bool {
	return uponRefusal(f.heard, f.others.left > 0, f.primary != nil, f.choice.proxy.Fallback) == uponOther
}
