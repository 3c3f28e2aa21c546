package play

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync/atomic"

	"github.com/splitd/splitd/shadow/runner"
	"github.com/splitd/splitd/traffic"
)

// header is the version of the PROXY header that a candidate gets before each
// flow: the one that tells it whose the flow is, or the one that it expects of the
// relay; empty is none.
func header(s traffic.Split) traffic.SendProxy {
	switch s.Shadow.Identity {
	case traffic.IdentityProxyV1:
		return traffic.SendProxyV1
	case traffic.IdentityProxyV2:
		return traffic.SendProxyV2
	case traffic.IdentityXCLIENT:
	}
	return expected(s)
}

// expected is the version that backends expect of the relay. The kernel puts
// nothing before a flow.
func expected(s traffic.Split) traffic.SendProxy {
	if s.Mode == traffic.ModeProxy {
		return s.Proxy.SendProxy
	}
	return ""
}

// toCandidate dials the candidate's addresses in turn: those of the family that the
// client has used, at the port that the client has used unless one is given.
func (o Options) toCandidate(b traffic.Backend) func(context.Context, runner.Flow) (net.Conn, error) {
	turn, version := new(atomic.Uint64), header(o.Split)
	return func(ctx context.Context, of runner.Flow) (net.Conn, error) {
		all := addresses(o.Split, b, of.Service)
		if len(all) == 0 {
			return nil, fmt.Errorf("candidate %q has no address of the family of %s", b.Name, of.Service.Addr())
		}
		return o.connect(ctx, all[(turn.Add(1)-1)%uint64(len(all))], version, of)
	}
}

// addresses are where a flow to that service would go. This host itself is at the
// service's address; the relay finds it at a loopback address.
func addresses(s traffic.Split, b traffic.Backend, service netip.AddrPort) []netip.AddrPort {
	ip := service.Addr().Unmap()
	switch {
	case b.Local && s.Mode != traffic.ModeProxy:
		return []netip.AddrPort{netip.AddrPortFrom(ip, service.Port())}
	case b.Local && ip.Is4():
		return []netip.AddrPort{netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), service.Port())}
	case b.Local:
		return []netip.AddrPort{netip.AddrPortFrom(netip.IPv6Loopback(), service.Port())}
	}
	var all []netip.AddrPort
	for _, a := range b.Usable(ip) {
		all = append(all, at(a, service.Port()))
	}
	return slices.Clip(all)
}

// at is an address with the port, unless it has its own.
func at(a traffic.Address, port uint16) netip.AddrPort {
	if a.Port != 0 {
		port = a.Port
	}
	return netip.AddrPortFrom(a.IP, port)
}

// toControl dials who is asked a second time: the server that the flow has, told
// what that was told, or another in its place. Nil is nobody.
func (o Options) toControl() func(context.Context, runner.Flow) (net.Conn, error) {
	control := o.Split.Shadow.Control
	if control.Off {
		return nil
	}
	return func(ctx context.Context, of runner.Flow) (net.Conn, error) {
		server := of.Primary
		if control.Address.IP.IsValid() {
			server = at(control.Address, of.Primary.Port())
		}
		return o.connect(ctx, server, expected(o.Split), of)
	}
}

// connect dials, and says first whose the flow is where that is wanted.
func (o Options) connect(ctx context.Context, at netip.AddrPort, version traffic.SendProxy, of runner.Flow) (net.Conn, error) {
	conn, err := o.Dial(ctx, at)
	if err != nil || version == "" {
		return conn, err
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	if _, err := conn.Write([]byte(version.Header(of.Client, of.Service))); err != nil {
		_ = conn.Close()
		return nil, fmt.Errorf("send PROXY header to %s: %w", at, err)
	}
	return conn, nil
}
