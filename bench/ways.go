package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os/exec"
	"strings"
	"time"

	"github.com/splitd/splitd/netfilter"
	"github.com/splitd/splitd/traffic"
)

// A candidate's share of the flows on every way that splits: both backends are
// as busy as each other, as the two addresses of the direct way are.
const half = traffic.Whole / 2

// settings are the defaults of a configuration.
func settings() netfilter.Settings {
	return netfilter.Settings{MarkMask: 0xfff00000, RouteTable: 5300, RulePriority: 5200}
}

// routed forwards, with conntrack and without a split. No packet passes the
// rule: that it stands there turns conntrack on.
func routed(_ context.Context, w *way) error {
	w.direct = true
	return w.nft("table inet plain { chain about { ct state established counter; }; }")
}

// nft loads a ruleset written by hand.
func (w *way) nft(ruleset string) error {
	cmd := exec.Command("nft", "-f", "-")
	cmd.Stdin = strings.NewReader(ruleset)
	if err := w.run(cmd); err != nil {
		return err
	}
	return w.forget()
}

// run runs a command on the router.
func (w *way) run(cmd *exec.Cmd) error {
	var output bytes.Buffer
	cmd.Stdout, cmd.Stderr = &output, &output
	if err := w.router.Do(cmd.Run); err != nil {
		return fmt.Errorf("%s: %w\n%s", strings.Join(cmd.Args, " "), err, &output)
	}
	return nil
}

// byHand is the least that does it, as who knows nftables well writes it: one
// lookup, one draw, a mark on what is sent to the new host. Both sides are
// translated, as in the ruleset that splitd makes here.
const byHand = `table inet hand {
  map services { type ipv4_addr . inet_proto . inet_service : verdict
    elements = { %[1]s . tcp . 25 : goto mx, %[1]s . tcp . 80 : goto mx, %[1]s . tcp . 90 : goto mx }; }
  chain old { dnat ip to %[2]s; }
  chain new { ct mark set 1 dnat ip to %[3]s; }
  chain mx { numgen random mod 100 vmap { 0-49 : goto new, 50-99 : goto old }; }
  chain prerouting { type nat hook prerouting priority -105; ip daddr . meta l4proto . th dport vmap @services; }
%[4]s}
`

// clampByHand is what splitd's ruleset has too, against tunnels that carry
// less than they should.
const clampByHand = `  chain clamp { type filter hook postrouting priority mangle; tcp flags syn / syn,rst ct mark 1 tcp option maxseg size set rt mtu; }
`

func handwritten(extra string) func(context.Context, *way) error {
	return func(_ context.Context, w *way) error {
		return w.nft(fmt.Sprintf(byHand, w.v4(1, hostService), w.v4(2, hostOld), w.v4(2, hostNew), extra))
	}
}

// statistic is what iptables has for this, over nf_tables (iptables-nft(8)).
func statistic(_ context.Context, w *way) error {
	match := fmt.Sprintf("-t nat -A PREROUTING -d %s -p tcp -m multiport --dports 25,80,90", w.v4(1, hostService))
	for _, rule := range []string{
		fmt.Sprintf("%s -m statistic --mode random --probability 0.5 -j DNAT --to-destination %s", match, w.v4(2, hostNew)),
		fmt.Sprintf("%s -j DNAT --to-destination %s", match, w.v4(2, hostOld)),
	} {
		if err := w.run(exec.Command("iptables-nft", strings.Fields(rule)...)); err != nil {
			return err
		}
	}
	return w.forget()
}

// relayedByHAProxy has HAProxy relay on the router. The clients of the kernel's
// ways reset what they are done with.
func relayedByHAProxy(ctx context.Context, w *way) error {
	p, err := haproxyWith(ctx, w, user{}, withResets)
	if p != nil {
		w.close = p.close
	}
	return err
}

// clock is the time that a Kernel is told. It goes on when it is told to, so
// that what is due a second later is due when a measurement says so.
type clock struct{ now time.Time }

// kernelWay is a router whose ruleset splitd's kernel plane makes.
type kernelWay struct {
	*way
	plane  *netfilter.Kernel
	clock  *clock
	splits []traffic.Split // the one that is measured comes last
	loaded time.Duration   // how long the first Apply took
}

// splitted loads n splits. The one that clients use is in the last table: its
// first packets pass the hooks of all others before.
func splitted(ctx context.Context, w *way, n int) (*kernelWay, error) {
	k := &kernelWay{way: w, clock: &clock{now: time.Now()}}
	for i := range n - 1 {
		s := w.split(fmt.Sprintf("a%05d", i), traffic.Port{Number: uint16(10_000 + i), Transport: traffic.TCP})
		k.splits = append(k.splits, s)
	}
	var ports []traffic.Port
	for _, number := range servicePorts() {
		ports = append(ports, traffic.Port{Number: number, Transport: traffic.TCP})
	}
	k.splits = append(k.splits, w.split("mx", ports...))
	err := w.router.Do(func() (err error) {
		k.plane, err = netfilter.Open(netfilter.Options{
			Settings: settings(), Log: slog.New(slog.DiscardHandler), Now: func() time.Time { return k.clock.now },
		})
		if err != nil {
			return err
		}
		started := time.Now()
		_, err = k.plane.Apply(ctx, k.splits, nil)
		k.loaded = time.Since(started)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("load %d splits: %w", n, err)
	}
	w.close = func() { _ = k.plane.Close() }
	return k, w.forget()
}

// split sends half of the flows of the ports to the new host, and none to the
// idle one.
func (w *way) split(name string, ports ...traffic.Port) traffic.Split {
	return traffic.Split{
		Name: name, Generation: 1, Mode: traffic.ModeKernel, Return: traffic.ReturnGateway,
		Service: traffic.Service{Addresses: []netip.Addr{w.v4(1, hostService)}, Ports: ports},
		Primary: traffic.Backend{Name: "old", Addresses: []traffic.Address{{IP: w.v4(2, hostOld)}}},
		Candidates: []traffic.Backend{
			{Name: "new", Addresses: []traffic.Address{{IP: w.v4(2, hostNew)}}, Weight: half},
		},
	}
}

// missing says which programs a way needs and this machine lacks.
func missing(programs ...string) error {
	var all []error
	for _, name := range programs {
		if _, err := exec.LookPath(name); err != nil {
			all = append(all, fmt.Errorf("%s is not installed: bench/packages.sh installs it, as root", name))
		}
	}
	return errors.Join(all...)
}
