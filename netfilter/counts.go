package netfilter

import (
	"context"
	"fmt"
	"maps"
	"net/netip"

	"github.com/ti-mo/conntrack"
	"golang.org/x/sys/unix"

	"github.com/splitd/splitd/traffic"
)

// Counts returns what the kernel has counted for the backends of the splits:
// new flows by the named counters, which weight changes keep, and open flows
// by conntrack. Bytes and failed connections are not known here. A backend
// without a counter in the kernel is left out. When only conntrack cannot be
// listed, the counts come together with the error and Active is nil.
func (k *Kernel) Counts(ctx context.Context, splits []traffic.Split) (map[traffic.BackendKey]traffic.Counts, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	counters, err := k.readCounters()
	if err != nil {
		return nil, fmt.Errorf("count flows: %w", err)
	}
	counts := map[traffic.BackendKey]traffic.Counts{}
	for _, s := range splits {
		for _, b := range s.Backends() {
			if flows, ok := counters[counterName(s.Name, b.Name)]; ok {
				counts[traffic.BackendKey{Split: s.Name, Backend: b.Name}] = traffic.Counts{Flows: flows}
			}
		}
	}
	flows, err := k.listFlows()
	if err != nil {
		return counts, fmt.Errorf("count open flows: list conntrack entries: %w", err)
	}
	active := activeFlows(flows, splits)
	for key, c := range counts {
		c.Active = new(active[key])
		counts[key] = c
	}
	return counts, nil
}

// Flows returns how many new flows each backend of the split has been given,
// by name: the counters alone, without the look at conntrack that Counts takes.
// A backend without a counter in the kernel is left out.
func (k *Kernel) Flows(ctx context.Context, split traffic.Split) (map[string]uint64, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	counters, err := k.readCounters()
	if err != nil {
		return nil, fmt.Errorf("count flows of split %q: %w", split.Name, err)
	}
	flows := map[string]uint64{}
	for _, b := range split.Backends() {
		if n, ok := counters[counterName(split.Name, b.Name)]; ok {
			flows[b.Name] = n
		}
	}
	return flows, nil
}

// readCounters reads the counters of all tables.
func (k *Kernel) readCounters() (map[string]uint64, error) {
	counters := map[string]uint64{}
	err := k.withLink(func(l *link) error {
		tables, err := l.splitTables()
		if err != nil {
			return err
		}
		for _, t := range tables {
			r, o := reader{conn: l.conn, table: t}, missing(t.Name)
			if err := r.readObjects(&o); err != nil {
				return err
			}
			maps.Copy(counters, o.counters)
		}
		return nil
	})
	return counters, err
}

// activeFlows counts the flows that are open, by the backend that has them.
func activeFlows(flows []conntrack.Flow, splits []traffic.Split) map[traffic.BackendKey]uint64 {
	byService := map[service]traffic.Split{}
	for _, s := range splits {
		for _, e := range elements(s) {
			byService[e.service] = s
		}
	}
	active := map[traffic.BackendKey]uint64{}
	for _, f := range flows {
		asked, ok := serviceOf(f)
		if !ok || !live(f) {
			continue
		}
		s, ok := byService[asked]
		if !ok {
			continue
		}
		if b, ok := servedBy(s, asked, f.TupleReply.IP.SourceAddress.Unmap(), f.TupleReply.Proto.SourcePort); ok {
			active[traffic.BackendKey{Split: s.Name, Backend: b}]++
		}
	}
	return active
}

// serviceOf is what the client of the flow asked for.
func serviceOf(f conntrack.Flow) (service, bool) {
	port := traffic.Port{Number: f.TupleOrig.Proto.DestinationPort}
	switch f.TupleOrig.Proto.Protocol {
	case unix.IPPROTO_TCP:
		port.Transport = traffic.TCP
	case unix.IPPROTO_UDP:
		port.Transport = traffic.UDP
	default:
		return service{}, false
	}
	return service{ip: f.TupleOrig.IP.DestinationAddress.Unmap(), port: port}, true
}

// servedBy finds the backend that answers: the one whose address the replies
// come from, or, where nothing was translated, the one that stays here.
func servedBy(s traffic.Split, asked service, from netip.Addr, fromPort uint16) (string, bool) {
	untouched := from == asked.ip && fromPort == asked.port.Number
	for _, b := range s.Backends() {
		if s.StaysHere(b, asked.ip, asked.port.Number) {
			if untouched {
				return b.Name, true
			}
			continue
		}
		a, ok := b.Address(asked.ip)
		if ok && a.IP == from && (a.Port == fromPort || a.Port == 0 && fromPort == asked.port.Number) {
			return b.Name, true
		}
	}
	return "", false
}
