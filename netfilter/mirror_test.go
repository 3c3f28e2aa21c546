package netfilter

import (
	"errors"
	"maps"
	"net"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/splitd/splitd/internal/nettest"
	"github.com/splitd/splitd/traffic"
)

func mirrored(s traffic.Split, to string, sample traffic.Weight) traffic.Split {
	s.Mirror = traffic.Mirror{To: netip.MustParseAddr(to), Sample: sample}
	return s
}

func TestTheTextOfMirrorsIsKept(t *testing.T) {
	dns := goldenSplits()["dns"][0]
	six := mirrored(dns, "2001:db8:3::40", 1)
	six.Name = "dns6"
	for name, splits := range map[string][]traffic.Split{
		"part": {mirrored(dns, "10.0.3.40", 10_000), six}, "whole": {mirrored(dns, "10.0.3.40", traffic.Whole)},
	} {
		golden(t, "mirrors/"+name+".nft", mirrorText(splits))
	}
	if text := mirrorText([]traffic.Split{dns, mirrored(dns, "10.0.3.40", 0)}); text != "" {
		t.Errorf("without a mirror there is the text %s", text)
	}
}

// collector is a host that takes the copies, which have the service's address,
// and answers nobody.
type collector struct {
	mu     sync.Mutex
	copies map[netip.AddrPort]int // by client

	sockets []*net.UDPConn
}

// catchesUp waits until all has been read that has come: on a busy machine nobody may read for
// longer than a socket has room for.
func (c *collector) catchesUp(t *testing.T) {
	t.Helper()
	nettest.Eventually(t, "the collector has read all", func() bool {
		return !slices.ContainsFunc(c.sockets, func(u *net.UDPConn) bool {
			raw, err := u.SyscallConn()
			if err != nil {
				t.Fatal(err)
			}
			waiting := 0
			failed := raw.Control(func(fd uintptr) { waiting, err = unix.IoctlGetInt(int(fd), unix.SIOCINQ) })
			if err = errors.Join(failed, err); err != nil {
				t.Fatal(err)
			}
			return waiting > 0
		})
	})
}

// collect puts one beside the old and the new host: 10.0.3.40, 2001:db8:3::40.
func (lab *splitLab) collect() *collector {
	lab.t.Helper()
	host := nettest.New(lab.t, "collector")
	nettest.Link(lab.t, lab.router, "eth3", []string{"10.0.3.1/24", "2001:db8:3::1/64"}, host, "eth0", []string{"10.0.3.40/24", "2001:db8:3::40/64"})
	if err := host.AddAddresses("lo", "192.0.2.25/32", "2001:db8::25/128"); err != nil {
		lab.t.Fatal(err)
	}
	c := &collector{copies: map[netip.AddrPort]int{}}
	for _, address := range []string{"192.0.2.25:53", "[2001:db8::25]:53"} {
		var u net.PacketConn
		host.Do(func() (err error) { u, err = net.ListenPacket("udp", address); return err })
		c.sockets = append(c.sockets, u.(*net.UDPConn))
		lab.t.Cleanup(func() { _ = u.Close() })
		go func() {
			buffer := make([]byte, 64)
			for {
				_, from, err := u.ReadFrom(buffer)
				if err != nil {
					return
				}
				c.mu.Lock()
				c.copies[from.(*net.UDPAddr).AddrPort()]++
				c.mu.Unlock()
			}
		}()
	}
	return c
}

// get is how many datagrams there are of each flow. Flows of one client's port
// are one for the collector.
func (c *collector) get() []int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Collect(maps.Values(c.copies))
}

func sum(all []int) (total int) {
	for _, n := range all {
		total += n
	}
	return total
}

// until waits until the collector is satisfied.
func (c *collector) until(t *testing.T, what string, satisfied func(all []int) bool) {
	t.Helper()
	nettest.Eventually(t, what, func() bool { return satisfied(c.get()) }, func() any { return c.get() })
}

// from is how many there are of clients with that port.
func (c *collector) from(port uint16) (n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for client, copies := range c.copies {
		if client.Port() == port {
			n += copies
		}
	}
	return n
}

// talk has n clients ask three times each and says how many answers came.
func (lab *splitLab) talk(n int, address string) (answered int) { return lab.talkFrom(0, n, address) }

// talkFrom is talk from a port of one's own choice.
func (lab *splitLab) talkFrom(port, n int, address string) (answered int) {
	lab.t.Helper()
	lab.client.Do(func() error {
		for range n {
			dialer := net.Dialer{LocalAddr: &net.UDPAddr{Port: port}}
			c, err := dialer.Dial("udp", address)
			if err != nil {
				return err
			}
			_ = c.SetDeadline(time.Now().Add(10 * time.Second))
			for range 3 {
				if _, err := c.Write([]byte("?")); err != nil {
					return err
				}
				if _, err := c.Read(make([]byte, 1)); err == nil {
					answered++
				}
			}
			_ = c.Close()
		}
		return nil
	})
	return answered
}

func TestAMirrorCopiesWholeFlowsAndNobodyNotices(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct{ name, to, address string }{
		{"IPv4", "10.0.3.40", "192.0.2.25:53"},
		{"IPv6", "2001:db8:3::40", "[2001:db8::25]:53"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			lab := newSplitLab(t)
			lab.serveDNS()
			collector := lab.collect()
			const flows = 300
			base := sampledDNS(remoteSplit(1, 300_000), 0)
			base.SamplePort = 0
			lab.apply(base)
			talk := func(what string) {
				answered, batch := 0, 20
				for range flows / batch {
					answered += lab.talk(batch, tc.address)
					collector.catchesUp(t)
				}
				if answered != 3*flows {
					t.Errorf("%s: %d of %d questions were answered", what, answered, 3*flows)
				}
			}
			talk("without a mirror")
			whole := mirrored(base, tc.to, traffic.Whole)
			if changed, lines := lab.apply(whole), lab.differences(whole); !changed || len(lines) > 0 {
				t.Errorf("apply of a mirror changed something: %t, and left differences %q", changed, lines)
			}
			talk("at 100%")
			collector.until(t, "at 100%", func(all []int) bool { return sum(all) == 3*flows })
			lab.apply(mirrored(base, tc.to, 500_000))
			talk("at 50%")
			lab.apply(whole) // and one flow behind the others
			const last = 20_053
			lab.talkFrom(last, 1, tc.address)
			collector.until(t, "at 50%", func(all []int) bool {
				cut := slices.ContainsFunc(all, func(n int) bool { return n%3 != 0 })
				return !cut && collector.from(last) == 3 && plausible(sum(all)/3-flows-1, flows, 500_000, unseededLooks)
			})
			copied := sum(collector.get())
			lab.apply(base)
			talk("without it again")
			if after := sum(collector.get()); after != copied {
				t.Errorf("without a mirror the collector got %d datagrams more", after-copied)
			}
			if changed := lab.apply(base); changed {
				t.Error("without a mirror the second apply changed something")
			}
		})
	}
}

func TestWhatOthersDidToAMirrorIsToldAndMended(t *testing.T) {
	t.Parallel()
	lab := newSplitLab(t)
	split := mirrored(sampledDNS(localSplit(1, 0), 0), "10.0.3.40", 10_000)
	lab.apply(split)
	for _, tc := range []struct{ deed, want string }{
		{"flush table ip splitd_mirror", "table ip splitd_mirror has other rules than wanted"},
		{"delete table ip splitd_mirror", "table ip splitd_mirror is missing"},
		{"add chain ip splitd_mirror theirs", "table ip splitd_mirror has other rules than wanted"},
		{"add table ip6 splitd_mirror", "table ip6 splitd_mirror is not wanted"},
	} {
		lab.router.Run("nft", tc.deed)
		if diff := cmp.Diff([]string{tc.want}, lab.differences(split)); diff != "" {
			t.Errorf("%s: differences (-want +got):\n%s", tc.deed, diff)
		}
		lab.apply(split)
		if lines := lab.differences(split); len(lines) > 0 {
			t.Errorf("%s: after apply there are differences: %q", tc.deed, lines)
		}
	}
	_ = lab.kernel.Close()
	lab.router.Do(func() error {
		if _, err := Cleanup(t.Context(), labSettings, false); err != nil {
			return err
		}
		var l link
		defer l.close()
		lines, err := l.differencesWhole(mirrors(nil)...)
		if len(lines) > 0 {
			t.Errorf("cleanup has left %q", lines)
		}
		return err
	})
}
