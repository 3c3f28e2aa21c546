package netfilter

import (
	"context"
	"fmt"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/splitd/splitd/traffic"
)

// An OpenFlow is a flow of a split that goes on.
type OpenFlow struct {
	traffic.BackendKey
	// Generation gave the flow its backend; 0: unknown.
	Generation traffic.Generation
	Transport  traffic.Transport
	// Client asked Service, and Server answers.
	Client, Service, Server netip.AddrPort
	// HalfOpen says that nothing has come back yet.
	HalfOpen bool
	// BytesIn went from the client to the server, BytesOut back; nil where the
	// kernel does not count them.
	BytesIn, BytesOut *uint64

	key entryKey
}

// Which flows are meant. What is left at its zero value does not matter.
type Which struct {
	// Splits are those whose flows are looked for. They must be named. A split
	// may have several definitions among them, the newest first.
	Splits []traffic.Split
	// Backend is the name of the backend that has the flow.
	Backend string
	// Servers are addresses that answer the flow.
	Servers []netip.Addr
	// Clients is the network that the client is in.
	Clients netip.Prefix
	// HalfOpen are those alone that have had no answer yet.
	HalfOpen bool
	// Elsewhere are those alone that do not stay on this host.
	Elsewhere bool
	// Most bounds the list; 0 does not.
	Most int
}

// OpenFlows lists flows, those half open first. The kernel passes over what it
// can: with HalfOpen all flows that have been answered (Linux 5.15).
func (k *Kernel) OpenFlows(ctx context.Context, which Which) ([]OpenFlow, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	var flows []OpenFlow
	err := k.eachOpen(which, func(l *lookup, at home, e *entry) { flows = append(flows, l.openFlow(at, e)) })
	if err != nil {
		return nil, fmt.Errorf("list open flows: %w", err)
	}
	slices.SortStableFunc(flows, func(a, b OpenFlow) int { return b.waits() - a.waits() })
	if which.Most > 0 && len(flows) > which.Most {
		flows = flows[:which.Most]
	}
	return flows, nil
}

// eachOpen calls visit with the entry of each flow that is meant, which is gone
// when it returns.
func (k *Kernel) eachOpen(which Which, visit func(l *lookup, at home, e *entry)) error {
	all := newLookups(which.Splits, k.options.Settings)
	err := k.withConntrack(func(s *conntrackSocket) error {
		return s.list(which.filter(), func(e *entry) {
			if l, at, ok := all.find(e); ok && which.means(l, at, e) {
				visit(l, at, e)
			}
		})
	})
	if err != nil {
		return fmt.Errorf("list conntrack entries: %w", err)
	}
	return nil
}

func (f OpenFlow) waits() int {
	if f.HalfOpen {
		return 1
	}
	return 0
}

// filter is what the kernel can tell of which flows are meant. All splits may
// be of one family.
func (w Which) filter() conntrackFilter {
	var f conntrackFilter
	if w.HalfOpen {
		f.statusMask = statusSeenReply
	}
	var four, six bool
	for _, s := range w.Splits {
		for _, ip := range s.Service.Addresses {
			four, six = four || ip.Is4(), six || ip.Is6()
		}
	}
	switch {
	case four && !six:
		f.family = unix.AF_INET
	case six && !four:
		f.family = unix.AF_INET6
	}
	return f
}

func (w Which) means(l *lookup, at home, e *entry) bool {
	switch {
	case !e.open():
		return false
	case w.HalfOpen && !e.halfOpen():
		return false
	case w.Backend != "" && w.Backend != l.key(at).Backend:
		return false
	case len(w.Servers) > 0 && !slices.Contains(w.Servers, e.reply.source):
		return false
	case w.Clients.IsValid() && !w.Clients.Contains(e.original.source):
		return false
	case w.Elsewhere && e.server() == e.service():
		return false
	}
	return true
}

func (l *lookup) openFlow(at home, e *entry) OpenFlow {
	transport, _ := e.transport()
	f := OpenFlow{
		BackendKey: l.key(at), Generation: l.generation(at, e.mark, 0), Transport: transport,
		Client: e.client(), Service: e.service(), Server: e.server(), HalfOpen: e.halfOpen(), key: e.key(),
	}
	if e.counted {
		f.BytesIn, f.BytesOut = new(e.in.bytes), new(e.out.bytes)
	}
	return f
}

// End makes the kernel forget flows, and returns how many it still knew. The
// next packet of a TCP client meets nobody who knows the connection and is
// answered with a reset; the next SYN of an attempt, and the next packet of a
// UDP client, is drawn anew. Flows that stay on this host are not hurt by it.
func (k *Kernel) End(ctx context.Context, flows []OpenFlow) (ended int, err error) {
	if err := ctx.Err(); err != nil || len(flows) == 0 {
		return 0, err
	}
	keys := make([]entryKey, 0, len(flows))
	for _, f := range flows {
		keys = append(keys, f.key)
	}
	err = k.withConntrack(func(s *conntrackSocket) (err error) {
		ended, err = s.remove(keys)
		return err
	})
	if err != nil {
		return ended, fmt.Errorf("end flows: %d of %d ended: %w", ended, len(flows), err)
	}
	return ended, nil
}

// Free ends the attempts to reach backends that have had no answer, or those to
// some addresses of them where they are named: the next SYN of each client goes
// where the rules of now say. Named addresses are dead: UDP flows to them end
// though they had answers, because a client that goes on asking would keep its
// flow there. It returns how many there were.
func (k *Kernel) Free(ctx context.Context, splits []traffic.Split, from map[traffic.BackendKey][]netip.Addr) (int, error) {
	flows, err := k.OpenFlows(ctx, Which{Splits: splits, HalfOpen: true, Elsewhere: true})
	if err != nil {
		return 0, fmt.Errorf("free attempts: %w", err)
	}
	flows = slices.DeleteFunc(flows, func(f OpenFlow) bool {
		servers, meant := from[f.BackendKey]
		return !meant || len(servers) > 0 && !slices.Contains(servers, f.Server.Addr())
	})
	stuck, err := k.stuckUDP(ctx, splits, from)
	if err != nil {
		return 0, fmt.Errorf("free attempts: %w", err)
	}
	return k.End(ctx, append(flows, stuck...))
}

// stuckUDP are the answered UDP flows to addresses that are named. Conntrack is
// listed whole for them, so only where there can be some.
func (k *Kernel) stuckUDP(ctx context.Context, splits []traffic.Split, from map[traffic.BackendKey][]netip.Addr) ([]OpenFlow, error) {
	which := Which{Elsewhere: true}
	for _, s := range splits {
		named := false
		for _, b := range s.Backends() {
			servers := from[traffic.BackendKey{Split: s.Name, Backend: b.Name}]
			which.Servers = append(which.Servers, servers...)
			named = named || len(servers) > 0
		}
		if named && slices.Contains(transports(s), traffic.UDP) {
			which.Splits = append(which.Splits, s)
		}
	}
	if len(which.Splits) == 0 {
		return nil, nil
	}
	flows, err := k.OpenFlows(ctx, which)
	return slices.DeleteFunc(flows, func(f OpenFlow) bool {
		return f.Transport != traffic.UDP || f.HalfOpen || !slices.Contains(from[f.BackendKey], f.Server.Addr())
	}), err
}
