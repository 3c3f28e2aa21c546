package netfilter

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/splitd/splitd/internal/nettest"
	"github.com/splitd/splitd/traffic"
)

// logBook is a log that can be read while it is written.
type logBook struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *logBook) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *logBook) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

func (b *logBook) handler() slog.Handler { return slog.NewTextHandler(b, nil) }

// until waits for a line that has all the parts.
func (b *logBook) until(t *testing.T, parts ...string) {
	t.Helper()
	nettest.Eventually(t, fmt.Sprintf("a line has %q", parts), func() bool {
		for line := range strings.Lines(b.String()) {
			if !strings.Contains(line, "\n") {
				continue
			}
			missing := false
			for _, p := range parts {
				missing = missing || !strings.Contains(line, p)
			}
			if !missing {
				return true
			}
		}
		return false
	}, func() any { return fmt.Sprintf("no line with %q in:\n%s", parts, b.String()) })
}

// removeReturns takes all rules and routes of ours out of the kernel.
func removeReturns() error {
	has, err := readReturns()
	for _, r := range has.rules {
		err = errors.Join(err, r.remove())
	}
	for _, r := range has.routes {
		err = errors.Join(err, r.remove())
	}
	return err
}

// steps that another program may take, each as a command would be, with the
// line by which the mend tells it.
func (lab returnLab) deletions() map[string]func() error {
	lab.t.Helper()
	deeds := map[string]func() error{}
	lab.host.Do(func() error {
		has, err := readReturns()
		for _, r := range has.rules {
			deeds[r.addition()] = r.remove
		}
		for _, r := range has.routes {
			deeds[r.addition()] = r.remove
		}
		return err
	})
	return deeds
}

// talk keeps an exchange going over one connection until the test ends, which
// fails if the connection breaks. It returns how many there were.
func (lab returnLab) talk(address string) *atomic.Uint64 {
	lab.t.Helper()
	var c net.Conn
	lab.client.Do(func() (err error) {
		c, err = net.DialTimeout("tcp", address, mustCome)
		return err
	})
	var count atomic.Uint64
	var done sync.WaitGroup
	done.Go(func() {
		buffer := make([]byte, 1)
		for {
			_, err := c.Write(buffer)
			if err == nil {
				_, err = io.ReadFull(c, buffer)
			}
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err != nil {
				lab.t.Errorf("the connection to %s broke after %d exchanges: %v", address, count.Load(), err)
				return
			}
			count.Add(1)
		}
	})
	lab.t.Cleanup(func() { _ = c.Close(); done.Wait() })
	return &count
}

// echo serves port 27 on the new host.
func (lab returnLab) echo() {
	lab.t.Helper()
	lab.host.Serve("tcp", ":27", func(c net.Conn) { _, _ = io.Copy(c, c) })
}

func TestEachRuleAndRouteThatAnotherProgramDeletesIsPutBackUnderTraffic(t *testing.T) {
	t.Parallel()
	for name, paths := range map[string][]traffic.ReturnPath{"address": byAddress(), "mark": byMark()} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			lab := newReturnLab(t)
			lab.wrongWay()
			lab.serve("25")
			lab.echo()
			lab.translate("10.0.0.200", "fd00::200")
			lab.apply(paths...)
			var log logBook
			mended := lab.followTelling(paths, log.handler())
			talks := []*atomic.Uint64{lab.talk("192.0.2.1:27"), lab.talk("[2001:db8::1]:27")}
			deeds := lab.deletions()
			if len(deeds) != 8 {
				t.Fatalf("%d rules and routes, want 8", len(deeds))
			}
			told := 0
			for line, remove := range deeds {
				before := mended.Load()
				lab.host.Do(remove)
				nettest.Eventually(t, "it is put back: "+line, func() bool { return mended.Load() > before })
				lab.inSync(paths)
				if told++; told <= paceTold {
					log.until(t, "level=WARN", "return paths lacked something; mended", line)
				}
				lab.reaches(lab.client, service4, client4)
				lab.reaches(lab.client, service6, client6)
				for _, talk := range talks {
					before := talk.Load()
					nettest.Eventually(t, "an open connection goes on after "+line, func() bool { return talk.Load() > before })
				}
			}
		})
	}
}

func TestALinkThatFlapsUnderTrafficLosesNoOpenConnection(t *testing.T) {
	t.Parallel()
	for name, paths := range map[string][]traffic.ReturnPath{"address": byAddress()[:1], "mark": byMark()[:1]} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			lab := newReturnLab(t)
			lab.wrongWay()
			lab.serve("25")
			lab.echo()
			lab.translate("10.0.0.200")
			lab.apply(paths...)
			var log logBook
			lab.followTelling(paths, log.handler())
			talk := lab.talk("192.0.2.1:27")
			leaked := lab.countLeaks()
			for range 3 {
				lab.setLink(lab.host, false)
				log.until(t, "level=WARN", `device \"eth0\" is down`)
				lab.setLink(lab.host, true)
				lab.inSync(paths)
				eventuallyUp(t, lab.host, lab.router)
				before := talk.Load()
				nettest.Eventually(t, "the open connection goes on", func() bool { return talk.Load() > before })
				lab.reaches(lab.client, service4, client4)
			}
			log.until(t, "return paths are whole again")
			if n := leaked(); n != 0 {
				t.Errorf("%d packets left by the wrong router", n)
			}
		})
	}
}

func TestWhoRemovedReturnPathsIsNamed(t *testing.T) {
	t.Parallel()
	lab := newReturnLab(t)
	lab.apply(byAddress()...)
	var log logBook
	lab.followTelling(byAddress(), log.handler())
	nettest.Eventually(t, "somebody follows", lab.listens)
	pid := startStranger(t, lab.host, "remove returns")
	log.until(t, "level=WARN", "mended", "comm="+commOf(t, pid), "pid="+strconv.Itoa(int(pid)), "protocol 83: missing")
	lab.inSync(byAddress())
}

// listens says whether somebody in the new host's namespace has subscribed to
// its ip rules (/proc/net/netlink: protocol 0, groups as a mask).
func (lab returnLab) listens() bool {
	lab.t.Helper()
	found := false
	lab.host.Do(func() error {
		text, err := readThreadNet("netlink")
		for line := range strings.Lines(text) {
			fields := strings.Fields(line)
			if len(fields) < 4 || fields[1] != "0" {
				continue
			}
			groups, err := strconv.ParseUint(fields[3], 16, 32)
			found = found || err == nil && groups&(1<<(unix.RTNLGRP_IPV4_RULE-1)) != 0
		}
		return err
	})
	return found
}

func TestARivalWhoDeletesInALoopDoesNotMakeUsSpin(t *testing.T) {
	t.Parallel()
	lab := newReturnLab(t)
	paths := byAddress()[:1]
	lab.apply(paths...)
	var log logBook
	began := time.Now()
	mended := lab.followTelling(paths, log.handler())
	ours := lab.deletions()
	rows, newest, seen := 1, began, uint64(0)
	lab.host.Do(func() error {
		for mended.Load() < paceTold+6 {
			if n := mended.Load(); n != seen {
				if time.Since(newest) > paceRest { // the machine stood still, and let the row of mends end
					rows++
				}
				newest, seen = time.Now(), n
			}
			for _, remove := range ours {
				if err := remove(); err != nil {
					return err
				}
			}
		}
		return nil
	})
	took := time.Since(began)
	// 10, 20, 40, 80, 160 and 320 ms, and half a second each from there on.
	if most := 8 + uint64(took/followMost); mended.Load() > most {
		t.Errorf("%d mends in %v, want at most %d", mended.Load(), took, most)
	}
	lab.inSync(paths)
	if lines := strings.Count(log.String(), "differences="); lines > rows*(paceTold+1) {
		t.Errorf("%d lines are logged of %d mends in %v, want at most %d in a row:\n%s", lines, mended.Load(), took, paceTold+1, log.String())
	}
}

func TestARowOfMendsIsPacedAndToldWithLessAndLessHaste(t *testing.T) {
	var p pace
	now := time.Unix(1_800_000_000, 0)
	var settles []time.Duration
	var told []int
	for range 70 {
		settles = append(settles, p.settle())
		now = now.Add(p.settle() + time.Millisecond)
		if times, tell := p.mended(now); tell {
			told = append(told, times)
		}
	}
	if settles[0] != followSettle || settles[2] != 4*followSettle || settles[20] != followMost {
		t.Errorf("waits are %v, want from %v doubling to %v", settles, followSettle, followMost)
	}
	if len(told) != 4 || told[0] != 1 || told[3] < 50 {
		t.Errorf("told of %v mends, want the first three by themselves and those of half a minute together", told)
	}
	now = now.Add(paceRest + time.Millisecond)
	if _, tell := p.mended(now); !tell || p.settle() != 2*followSettle {
		t.Errorf("after a rest: told %t, the next one waits %v; want true, %v", tell, p.settle(), 2*followSettle)
	}
}

func TestWhatHappenedWhileTheKernelDroppedNewsIsMended(t *testing.T) {
	t.Parallel()
	lab := newReturnLab(t)
	paths := byAddress()
	lab.apply(paths...)
	var log logBook
	lab.followBehind(paths, log.handler(), 8<<10)
	nettest.Eventually(t, "somebody follows", lab.listens)
	// More news at once than a small buffer holds: each address tells of itself
	// and of a route.
	nettest.Eventually(t, "news are lost", func() bool {
		lab.host.Do(func() error {
			if err := lab.storm(500); err != nil {
				return err
			}
			return removeReturns()
		})
		return strings.Contains(log.String(), "no buffer space")
	}, func() any { return log.String() })
	lab.inSync(paths)
}

// storm makes and removes a device with n addresses.
func (lab returnLab) storm(n int) error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "storm"
	if err := netlink.LinkAdd(&netlink.Bridge{LinkAttrs: attrs}); err != nil {
		return err
	}
	link, err := netlink.LinkByName("storm")
	if err != nil {
		return err
	}
	for i := range n {
		a := &netlink.Addr{IPNet: &net.IPNet{IP: net.IPv4(172, 20, byte(i>>8), byte(i)), Mask: net.CIDRMask(32, 32)}}
		if err := netlink.AddrAdd(link, a); err != nil {
			return err
		}
	}
	return netlink.LinkDel(link)
}
