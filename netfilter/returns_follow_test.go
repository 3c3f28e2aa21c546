package netfilter

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/splitd/splitd/internal/nettest"
	"github.com/splitd/splitd/traffic"
)

// follow runs a follower in the new host until the test ends.
func (lab returnLab) follow(paths []traffic.ReturnPath) {
	lab.followTelling(paths, slog.DiscardHandler)
}

// followTelling is follow; it returns how often something was put back.
func (lab returnLab) followTelling(paths []traffic.ReturnPath, log slog.Handler) *atomic.Uint64 {
	lab.t.Helper()
	return lab.followBehind(paths, log, followBuffer)
}

// followBehind may be so many bytes of news behind.
func (lab returnLab) followBehind(paths []traffic.ReturnPath, log slog.Handler, buffer int) *atomic.Uint64 {
	lab.t.Helper()
	var mended atomic.Uint64
	want, err := BuildReturns(paths, labSettings)
	if err != nil {
		lab.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(lab.t.Context())
	var done sync.WaitGroup
	done.Go(func() {
		lab.host.Do(func() error {
			f := follower{want: func() Returns { return want }, mended: &mended, log: slog.New(log), buffer: buffer}
			return f.run(ctx)
		})
	})
	lab.t.Cleanup(func() { cancel(); done.Wait() })
	return &mended
}

// inSync waits until the new host has what the paths ask for.
func (lab returnLab) inSync(paths []traffic.ReturnPath) {
	lab.t.Helper()
	var lines []string
	nettest.Eventually(lab.t, "the new host has what the paths ask for", func() bool {
		lines = lab.differences(paths)
		return len(lines) == 0
	}, func() any { return lines })
}

func TestWhatALinkTookWithItIsPutBackWhenItComesAgain(t *testing.T) {
	t.Parallel()
	for name, paths := range map[string][]traffic.ReturnPath{"address": byAddress(), "mark": byMark()} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			lab := newReturnLab(t)
			lab.wrongWay()
			lab.serve("25")
			lab.translate("10.0.0.200", "fd00::200")
			lab.follow(paths)
			lab.inSync(paths)
			lab.setLink(lab.host, false)
			lab.eventuallyWays(0)
			lab.setLink(lab.host, true)
			// The kernel forgets the IPv6 addresses of a device that goes down.
			if err := lab.host.AddAddresses("eth0", "fd00::12/64", "fd00::200/128"); err != nil {
				t.Fatal(err)
			}
			lab.inSync(paths)
			lab.eventuallyWays(2)
			eventuallyUp(t, lab.host, lab.router)
			lab.reaches(lab.client, service4, client4)
			lab.reaches(lab.client, service6, client6)
		})
	}
}

// eventuallyWays waits until the kernel has that many ways back.
func (lab returnLab) eventuallyWays(n int) {
	lab.t.Helper()
	var routes []kernelRoute
	nettest.Eventually(lab.t, fmt.Sprintf("there are %d ways back", n), func() bool {
		lab.host.Do(func() (err error) { routes, err = readRoutes(); return err })
		routes = slices.DeleteFunc(routes, func(r kernelRoute) bool { return r.blackhole })
		return len(routes) == n
	}, func() any { return routes })
}

func TestANewLinkLayerAddressOfTheRouterIsFollowed(t *testing.T) {
	t.Parallel()
	lab := newReturnLab(t)
	lab.wrongWay()
	lab.serve("25")
	lab.translate("10.0.0.12", "fd00::12")
	lab.follow(byMark())
	lab.inSync(byMark())
	lab.reaches(lab.client, service4, client4)
	lab.setHardware(lab.router, "eth1", "02:00:00:00:25:25")
	nettest.Eventually(t, "the router's new address is known", func() bool {
		// The router's own traffic tells of its new address, as any router's does.
		_, _ = lab.ask(lab.router, "10.0.0.12:25", mustCome)
		_, _ = lab.ask(lab.router, "[fd00::12]:25", mustCome)
		now := lab.knownNeighbours()
		return now["neighbour/four"].String() == "02:00:00:00:25:25" && now["neighbour/six"].String() == "02:00:00:00:25:25"
	}, func() any { return lab.knownNeighbours() })
	lab.inSync(byMark())
	lab.reaches(lab.client, service4, client4)
	lab.reaches(lab.client, service6, client6)
}

// Who keeps a text of the tables has to write it again.
func TestWhoWritesTheTablesDownIsToldOfARouterThatMoved(t *testing.T) {
	t.Parallel()
	lab := newReturnLab(t)
	lab.wrongWay()
	lab.serve("25")
	lab.translate("10.0.0.12", "fd00::12")
	want, err := BuildReturns(byMark(), labSettings)
	if err != nil {
		t.Fatal(err)
	}
	moved := make(chan struct{}, 1)
	f := &follower{want: func() Returns { return want }, mended: new(atomic.Uint64), moved: moved, log: slog.New(slog.DiscardHandler)}
	mend := func() { lab.host.Do(func() error { f.mendOnce(t.Context()); return nil }) }
	nettest.Eventually(t, "the router's addresses are known", func() bool {
		mend()
		return len(lab.knownNeighbours()) == 2
	})
	select {
	case <-moved:
	default:
	}
	if mend(); len(moved) > 0 {
		t.Error("it is told that the router has moved, and it has not")
	}
	lab.setHardware(lab.router, "eth1", "02:00:00:00:25:25")
	nettest.Eventually(t, "it is told that the router has moved", func() bool {
		_, _ = lab.ask(lab.router, "10.0.0.12:25", mustCome)
		mend()
		return len(moved) == 1
	})
	if got := lab.knownNeighbours()["neighbour/four"].String(); got != "02:00:00:00:25:25" {
		t.Errorf("then the router is known by %s", got)
	}
}

// knownNeighbours are the addresses that the kernel's sets hold.
func (lab returnLab) knownNeighbours() map[string]net.HardwareAddr {
	lab.t.Helper()
	found := map[string]net.HardwareAddr{}
	m := lab.readMarks()
	for name, elements := range m.sets {
		for _, e := range elements {
			found[name] = net.HardwareAddr(e.address)
		}
	}
	return found
}

func (lab returnLab) setHardware(ns *nettest.NS, device, address string) {
	lab.t.Helper()
	hardware, err := net.ParseMAC(address)
	if err != nil {
		lab.t.Fatal(err)
	}
	ns.Do(func() error {
		link, err := netlink.LinkByName(device)
		if err != nil {
			return err
		}
		return netlink.LinkSetHardwareAddr(link, hardware)
	})
}

func TestARestartLeavesWhatStandsUntilSomethingIsWanted(t *testing.T) {
	t.Parallel()
	lab := newReturnLab(t)
	lab.wrongWay()
	lab.serve("25")
	lab.translate("10.0.0.12", "fd00::12")
	lab.apply(byMark()...)
	before := lab.snapshot()
	f := &follower{want: func() Returns { return Returns{} }, mended: new(atomic.Uint64), log: slog.New(slog.DiscardHandler)}
	lab.host.Do(func() error { return f.follow(t.Context()) })
	if diff := before.Differences(lab.snapshot()); diff != nil {
		t.Errorf("changed: %q", diff)
	}
	lab.reaches(lab.client, service4, client4)
}

func TestWhoChangesThePathsMeanwhileIsNotUndone(t *testing.T) {
	t.Parallel()
	lab := newReturnLab(t)
	asked := 0
	f := &follower{mended: new(atomic.Uint64), log: slog.New(slog.DiscardHandler), want: func() Returns {
		asked++
		paths := byAddress()
		if asked == 1 {
			paths = byMark()
		}
		want, err := BuildReturns(paths, labSettings)
		if err != nil {
			t.Error(err)
		}
		return want
	}}
	lab.host.Do(func() error {
		_, err := f.mend(t.Context())
		return err
	})
	lab.inSync(byAddress())
}

func TestABrokenSubscriptionEndsTheRoundAfterMending(t *testing.T) {
	t.Parallel()
	lab := newReturnLab(t)
	want, err := BuildReturns(byAddress(), labSettings)
	if err != nil {
		t.Fatal(err)
	}
	f := &follower{mended: new(atomic.Uint64), log: slog.New(slog.DiscardHandler), want: func() Returns { return want }}
	broken := make(chan error, 1)
	broken <- unix.ENOBUFS
	lab.host.Do(func() error {
		if err := f.mendOnNews(t.Context(), nil, broken); !errors.Is(err, unix.ENOBUFS) {
			t.Errorf("mendOnNews() = %v, want the error of the subscription", err)
		}
		return nil
	})
	lab.inSync(byAddress()) // it has mended before it gave up
}
