package main

import (
	"context"
	"fmt"
	"net/netip"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/splitd/splitd/traffic"
)

// loss is what became of flows while weights were changed under them.
type loss struct {
	method, transport, family string
	flips                     int
	tally                     tally
}

// stray are the flows that were answered by who must not: the router itself,
// or a candidate whose weight is 0 at all times.
func (l loss) stray() int { return l.tally.by[letterLocal] + l.tally.by[letterIdle] }

// losses changes weights as fast as that goes under new flows of both
// transports and families: with splitd's method, and by the way in which
// `nft -f` reloads a file.
func losses(ctx context.Context, d time.Duration, say func(string, ...any)) ([]loss, error) {
	l, err := newLab()
	if err != nil {
		return nil, err
	}
	defer l.close()
	ours, err := l.add("splitd")
	if err != nil {
		return nil, err
	}
	reload, err := l.add("nft -f: delete the table, load another")
	if err != nil {
		return nil, err
	}
	k, err := lossySplit(ctx, ours)
	if err != nil {
		return nil, err
	}
	if err := reload.nft(reload.reloaded(30)); err != nil {
		return nil, err
	}
	serving, stop := context.WithCancel(ctx)
	defer stop()
	if err := l.serve(serving); err != nil {
		return nil, err
	}
	for _, w := range l.ways {
		local := []listener{{w.v4(1, hostService), letterLocal}, {w.v6(1, hostService), letterLocal}}
		if err := serve(serving, w.router, local); err != nil {
			return nil, err
		}
	}
	flips := map[*way]func(i int) error{
		ours: func(i int) error {
			k.clock.now = time.Now()
			return ours.router.Do(func() error { return k.set(ctx, []traffic.Weight{300_000, 600_000}[i%2]) })
		},
		reload: func(i int) error { return reload.nft(reload.reloaded([]int{30, 60}[i%2])) },
	}
	var all []loss
	for _, w := range l.ways {
		for _, kind := range []int{streams, datagrams} {
			for _, six := range []bool{false, true} {
				one, err := l.flipUnder(w, kind, six, d, flips[w])
				if err != nil {
					return nil, fmt.Errorf("change weights by %q: %w", w.name, err)
				}
				say("%s, %s, %s: %d flows, %d stray", one.method, one.transport, one.family, one.tally.answered(), one.stray())
				all = append(all, one)
			}
		}
	}
	return all, nil
}

// flipUnder changes weights until the flows have ended.
func (l *lab) flipUnder(w *way, kind int, six bool, d time.Duration, flip func(i int) error) (loss, error) {
	one := loss{
		method:    w.name,
		transport: map[int]string{streams: "TCP", datagrams: "UDP"}[kind],
		family:    map[bool]string{false: "IPv4", true: "IPv6"}[six],
	}
	var flowErr error
	var group sync.WaitGroup
	var over, broken atomic.Bool
	group.Go(func() {
		defer over.Store(true)
		flowErr = l.client.Do(func() (err error) {
			one.tally, err = openFlows(kind, w.ends(portGreet, six), time.Now().Add(d), broken.Load)
			return err
		})
	})
	var flipErr error
	for ; !over.Load() && flipErr == nil; one.flips++ {
		flipErr = flip(one.flips)
	}
	broken.Store(flipErr != nil)
	group.Wait()
	if flipErr != nil {
		return one, flipErr
	}
	return one, flowErr
}

// lossySplit is a split of both families and transports with a candidate that
// gets nothing.
func lossySplit(ctx context.Context, w *way) (*kernelWay, error) {
	k, err := splitted(ctx, w, 1)
	if err != nil {
		return nil, err
	}
	s := w.split("mx", traffic.Port{Number: portGreet, Transport: traffic.TCP}, traffic.Port{Number: portGreet, Transport: traffic.UDP})
	s.Generation = 2
	s.Service.Addresses = append(s.Service.Addresses, w.v6(1, hostService))
	s.Primary.Addresses = append(s.Primary.Addresses, traffic.Address{IP: w.v6(2, hostOld)})
	s.Candidates[0].Addresses = append(s.Candidates[0].Addresses, traffic.Address{IP: w.v6(2, hostNew)})
	s.Candidates = append(s.Candidates, traffic.Backend{
		Name: "idle", Addresses: []traffic.Address{{IP: w.v4(2, hostNot)}, {IP: w.v6(2, hostNot)}},
	})
	k.splits = []traffic.Split{s}
	return k, w.router.Do(func() error { _, err := k.plane.Apply(ctx, k.splits, nil); return err })
}

// reloaded is a file as nft -f loads it: the table anew, in one transaction.
func (w *way) reloaded(percent int) string {
	chain := func(name string, host byte) string {
		return fmt.Sprintf("  chain %s { dnat ip to %s\n dnat ip6 to %s; }\n", name, w.v4(2, host), w.v6(2, host))
	}
	var matches strings.Builder
	for _, a := range []netip.Addr{w.v4(1, hostService), w.v6(1, hostService)} {
		family := map[bool]string{true: "ip", false: "ip6"}[a.Is4()]
		fmt.Fprintf(&matches, "    %s daddr %s meta l4proto { tcp, udp } th dport %d goto mx\n", family, a, portGreet)
	}
	return fmt.Sprintf("table inet hand\ndelete table inet hand\ntable inet hand {\n%s%s"+
		"  chain mx { numgen random mod 100 vmap { 0-%d : goto new, %d-99 : goto old }; }\n"+
		"  chain prerouting { type nat hook prerouting priority -105\n%s  }\n}\n",
		chain("old", hostOld), chain("new", hostNew), percent-1, percent, &matches)
}

// version is what a program says of itself, in its first line.
func version(name string, args ...string) string {
	output, err := exec.Command(name, args...).CombinedOutput()
	first, _, _ := strings.Cut(strings.TrimSpace(string(output)), "\n")
	if err != nil && first == "" {
		return "not installed"
	}
	return first
}
