package netfilter

import (
	"context"
	"errors"
	"fmt"
	"maps"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/splitd/splitd/traffic"
)

// Counts returns what the kernel has counted for the backends of the splits:
// new flows by the named counters, which weight changes keep, and by conntrack
// open flows and, since the Kernel was opened, bytes and how flows ended. A
// backend without a counter in the kernel is left out. When only conntrack
// cannot be listed, the counts come together with the error and what it would
// tell is nil. Bytes are nil where the kernel does not count them
// (nf_conntrack_acct). The splits must be all there are.
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
	if err := k.takeLook(splits); err != nil {
		return counts, fmt.Errorf("count open flows: %w", err)
	}
	k.tracker.mu.Lock()
	defer k.tracker.mu.Unlock()
	known := k.tracker.backends()
	for key, c := range counts {
		counts[key] = known[key].counts(c.Flows, k.tracker.bytes)
	}
	return counts, nil
}

// counts are what an account says, with the flows that the rules have counted.
func (c account) counts(flows uint64, bytes bool) traffic.Counts {
	counts := traffic.Counts{
		Flows: flows, Active: new(c.active), HalfOpen: new(c.halfOpen),
		Unanswered: new(c.unanswered), Refused: new(c.refused), Resets: new(c.resets),
		ConnectFailed: new(c.unanswered + c.refused),
	}
	if bytes {
		counts.BytesIn, counts.BytesOut = new(c.in), new(c.out)
	}
	return counts
}

// Evidence returns what is known of the flows of the splits by backend and by
// the generation that gave them to it, sorted. It begins when the Kernel is
// opened, and is whole only while Follow runs. The splits must be all there are.
func (k *Kernel) Evidence(ctx context.Context, splits []traffic.Split) ([]traffic.Evidence, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if err := k.takeLook(splits); err != nil {
		return nil, fmt.Errorf("gather evidence: %w", err)
	}
	k.tracker.mu.Lock()
	defer k.tracker.mu.Unlock()
	return k.tracker.evidence(), nil
}

// Flows returns how many new flows each backend of the splits has been given,
// by split and backend: the counters alone, without the look at conntrack that
// Counts takes. A backend without a counter in the kernel is left out.
func (k *Kernel) Flows(ctx context.Context, splits ...traffic.Split) (map[string]map[string]uint64, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	counters, err := k.countersOf(splits)
	if err != nil {
		return nil, fmt.Errorf("count flows: %w", err)
	}
	flows := map[string]map[string]uint64{}
	for _, s := range splits {
		flows[s.Name] = map[string]uint64{}
		for _, b := range s.Backends() {
			if n, ok := counters[counterName(s.Name, b.Name)]; ok {
				flows[s.Name][b.Name] = n
			}
		}
	}
	return flows, nil
}

// fewSplits is up to how many the counters are asked for one by one.
const fewSplits = 20

// countersOf reads the counters of the splits: those alone if they are few and
// it is known where they stand.
func (k *Kernel) countersOf(splits []traffic.Split) (map[string]uint64, error) {
	places := k.places.Load()
	if places == nil || len(splits) > fewSplits {
		return k.readCounters()
	}
	counters := map[string]uint64{}
	err := k.withLink(func(l *link) error {
		for _, s := range splits {
			table, ok := (*places)[s.Name]
			if !ok {
				continue
			}
			r, err := l.reader(table)
			if err != nil {
				return err
			}
			for _, b := range s.Backends() {
				if err := r.readCounter(counterName(s.Name, b.Name), counters); err != nil {
					return err
				}
			}
		}
		return nil
	})
	return counters, err
}

// readCounter reads one counter into counters, if there is one of that name.
func (r reader) readCounter(name string, counters map[string]uint64) error {
	object, err := r.conn.GetObject(&nftables.NamedObj{Table: r.table, Name: name, Type: nftables.ObjTypeCounter, Obj: &expr.Counter{}})
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read counter %q of table %q: %w", name, r.table.Name, r.link.failed(err))
	}
	switch c := object.(type) {
	case *nftables.CounterObj:
		counters[name] = c.Packets
	case *nftables.NamedObj:
		if counter, ok := c.Obj.(*expr.Counter); ok {
			counters[name] = counter.Packets
		}
	}
	return nil
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
			r, o := l.readerOf(t), missing(t.Name)
			if err := r.readObjects(&o); err != nil {
				return err
			}
			maps.Copy(counters, o.counters)
		}
		return nil
	})
	return counters, err
}
