package netfilter

import (
	"errors"
	"maps"
	"net"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/splitd/splitd/traffic"
)

// sampledSplit is s with so much of the primary's flows for the relay.
func sampledSplit(s traffic.Split, sample traffic.Weight) traffic.Split {
	s.Sample, s.SamplePort = sample, relayPort
	return s
}

// sampledDNS speaks both transports at port 53.
func sampledDNS(s traffic.Split, sample traffic.Weight) traffic.Split {
	s.Name = "dns"
	s.Service.Ports = []traffic.Port{{Number: 53, Transport: traffic.TCP}, {Number: 53, Transport: traffic.UDP}}
	return sampledSplit(s, sample)
}

// wantOnly complains of connections that failed and of answers by others than
// those.
func (a answers) wantOnly(t *testing.T, what, letters string) {
	t.Helper()
	if len(a.failed) > 0 {
		t.Errorf("%s: %d failed, the first: %v", what, len(a.failed), a.failed[0])
	}
	for letter, n := range a.by {
		if !strings.ContainsRune(letters, rune(letter)) {
			t.Errorf("%s: %d times %c answered", what, n, letter)
		}
	}
	for _, letter := range letters {
		if a.by[byte(letter)] == 0 {
			t.Errorf("%s: %c never answered", what, letter)
		}
	}
}

func TestASampledShareOfThePrimarysFlowsPassesTheRelayWithTheClientsAddress(t *testing.T) {
	t.Parallel()
	const connections = 6000
	for _, tc := range []struct {
		name    string
		split   traffic.Split
		primary byte
	}{
		{"a primary on this host", localSplit(1, 100_000), fromLocal},
		{"a primary elsewhere", remoteSplit(1, 100_000), fromOld},
	} {
		t.Run(tc.name, func(t *testing.T) {
			lab := newSplitLab(t)
			lab.router.Sysctl("net/netfilter/nf_conntrack_tcp_timeout_close", "1")
			lab.serveClientsEverywhere()
			lab.relay()
			lab.apply(sampledSplit(tc.split, 300_000))
			got := lab.load(connections, nil, service25v4, service25v6)
			got.wantOnly(t, "sampled", string([]byte{tc.primary, small(tc.primary), fromNew}))
			primary := got.by[tc.primary] + got.by[small(tc.primary)]
			if !plausible(got.by[fromNew], connections, 100_000, unseededLooks) || !plausible(got.by[small(tc.primary)], primary, 300_000, unseededLooks) {
				t.Errorf("%d of %d went to the candidate at 10%%, %d of the primary's %d to the relay at 30%%", got.by[fromNew], connections, got.by[small(tc.primary)], primary)
			}
			t.Logf("%d direct, %d sampled, %d to the candidate", got.by[tc.primary], got.by[small(tc.primary)], got.by[fromNew])
			counts := lab.counts(tc.split)
			if flows := int(counts["old"].Flows + counts["new"].Flows); flows > connections || connections-flows > connections/100 {
				t.Errorf("%d flows were counted for both backends, connections were %d", flows, connections)
			}
		})
	}
}

func TestSampledDatagramsPassTheRelayToo(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name    string
		split   traffic.Split
		primary byte
	}{
		{"a primary on this host", localSplit(1, 100_000), fromLocal},
		{"a primary elsewhere", remoteSplit(1, 100_000), fromOld},
	} {
		t.Run(tc.name, func(t *testing.T) {
			lab := newSplitLab(t)
			lab.serveClientsEverywhere()
			lab.relay()
			lab.apply(sampledDNS(tc.split, 500_000))
			got := lab.load(400, nil, service53v4, service53v6, "192.0.2.25:53", "[2001:db8::25]:53")
			got.wantOnly(t, "sampled", string([]byte{tc.primary, small(tc.primary), fromNew}))
		})
	}
}

func TestWithoutARelayThatListensSampledFlowsGoToThePrimary(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name   string
		split  traffic.Split
		direct byte
	}{
		{"a primary on this host", localSplit(1, 0), fromLocal},
		{"a primary elsewhere", remoteSplit(1, 0), fromOld},
		{"masqueraded", masqueraded(remoteSplit(1, 0)), fromNobody},
	} {
		t.Run(tc.name, func(t *testing.T) {
			lab := newSplitLab(t)
			lab.serveClientsEverywhere()
			relay := lab.relay()
			split := sampledDNS(tc.split, traffic.Whole)
			lab.apply(split)
			targets := []string{service53v4, service53v6, "192.0.2.25:53", "[2001:db8::25]:53"}
			if tc.direct != fromNobody { // a relay of masqueraded flows has an address of its own
				lab.load(40, nil, targets...).wantOnly(t, "with the relay", string([]byte{small(tc.direct)}))
			}
			relay.end(t)
			lab.load(400, nil, targets...).wantOnly(t, "without the relay", string([]byte{tc.direct}))
		})
	}
}

func masqueraded(s traffic.Split) traffic.Split {
	s.Return = traffic.ReturnMasquerade
	return s
}

func TestWeightsAndSamplesChangedUnderLoadLoseNoConnection(t *testing.T) {
	t.Parallel()
	lab := newSplitLab(t)
	lab.router.Sysctl("net/netfilter/nf_conntrack_tcp_timeout_close", "1")
	lab.serveClientsEverywhere()
	lab.relay()
	lab.apply(sampledSplit(remoteSplit(1, 300_000), 300_000))
	early, letter := lab.dialLetter(t, service25v4, small(fromOld))
	stop, done := make(chan struct{}), make(chan answers)
	go func() { done <- lab.load(0, stop, service25v4, service25v6) }()
	shares := []traffic.Weight{0, 300_000, 1, traffic.Whole, 999_999, 500_000, 0}
	for i := range 150 {
		s := sampledSplit(remoteSplit(traffic.Generation(i+2), shares[i%len(shares)]), shares[i/3%len(shares)])
		lab.setWeights(s)
		if i%30 == 0 {
			got := lab.read()["mx"]
			if got.Sample != s.Sample || got.Weights["new"] != s.Candidates[0].Weight {
				t.Errorf("the kernel has sample %s, weight %s; set were %s, %s", got.Sample, got.Weights["new"], s.Sample, s.Candidates[0].Weight)
			}
		}
		lab.clock.advance(retireAfter / 20)
	}
	close(stop)
	got := <-done
	got.wantOnly(t, "changes", string([]byte{fromOld, small(fromOld), fromNew}))
	if err := echoes(early); err != nil {
		t.Errorf("the connection to %c from before the changes: %v", letter, err)
	}
	t.Logf("%v", got.by)
}

// dialLetter connects until that one answers.
func (lab *splitLab) dialLetter(t *testing.T, address string, want byte) (net.Conn, byte) {
	t.Helper()
	for range 1000 {
		if c, letter := lab.dial(address); letter == want {
			return c, letter
		}
	}
	t.Fatalf("of 1000 connections none was answered by %c", want)
	return nil, 0
}

func TestASampleOfZeroLetsTheRelayKeepItsFlows(t *testing.T) {
	t.Parallel()
	lab := newSplitLab(t)
	lab.serveClientsEverywhere()
	lab.relay()
	lab.apply(sampledSplit(localSplit(1, 0), traffic.Whole))
	held, _ := lab.dialLetter(t, service25v4, small(fromLocal))
	held6, _ := lab.dialLetter(t, service25v6, small(fromLocal))
	lab.setWeights(sampledSplit(localSplit(2, 0), 0))
	lab.load(100, nil, service25v4, service25v6).wantOnly(t, "sample 0", string([]byte{fromLocal}))
	for _, c := range []net.Conn{held, held6} {
		if err := echoes(c); err != nil {
			t.Errorf("after the sample became 0: %v", err)
		}
	}
	lab.apply(sampledSplit(localSplit(3, 0), traffic.Whole))
	moved := sampledSplit(localSplit(4, 0), traffic.Whole)
	moved.Service.Addresses = moved.Service.Addresses[1:]
	lab.apply(moved)
	lab.clock.advance(2 * retireAfter)
	lab.apply(moved)
	if err := echoes(held); err != nil {
		t.Errorf("after the service was taken away: %v", err)
	}
}

func TestForceOffEndsTheSampleToo(t *testing.T) {
	t.Parallel()
	lab := newSplitLab(t)
	lab.serveClientsEverywhere()
	lab.relay()
	for _, weight := range []traffic.Weight{0, 100_000} {
		lab.apply(sampledSplit(localSplit(1, weight), traffic.Whole))
		if done := lab.forceOff("mx"); len(done) != 1 || done[0].PreviousSample != traffic.Whole || done[0].PreviousPPM != weight {
			t.Errorf("force off at %s tells %+v, want the whole sample before", weight, done)
		}
		lab.load(100, nil, service25v4, service25v6).wantOnly(t, "forced off", string([]byte{fromLocal}))
		if got := lab.read()["mx"]; !got.Forced || got.Sample != 0 {
			t.Errorf("after force off the kernel has %+v", got)
		}
	}
}

func TestRulesAndRoutesForRelaysComeAndGoWithThem(t *testing.T) {
	t.Parallel()
	lab := newSplitLab(t)
	ours := func() []string {
		var lines []string
		lab.router.Do(func() error {
			has, err := readReturns()
			for _, r := range has.routes {
				lines = append(lines, r.command("add"))
			}
			for _, r := range has.rules {
				lines = append(lines, r.command("add"))
			}
			return err
		})
		return lines
	}
	want := []string{
		"ip route add local default dev lo table 5315 protocol 83",
		"ip -6 route add local default dev lo table 5315 protocol 83",
		"ip rule add pref 5217 fwmark 0x18000000/0xf8000000 lookup 5315 protocol 83",
		"ip -6 rule add pref 5217 fwmark 0x18000000/0xf8000000 lookup 5315 protocol 83",
	}
	for range 2 {
		split := sampledSplit(localSplit(1, 0), 0)
		lab.apply(split)
		if diff := cmp.Diff(want, ours()); diff != "" {
			t.Errorf("rules and routes of a split with a relay (-want +got):\n%s", diff)
		}
		if changed, lines := lab.apply(split), lab.differences(split); changed || len(lines) > 0 {
			t.Errorf("the second apply changed something: %t, or left differences: %q", changed, lines)
		}
		lab.router.Do(func() error { // as another program might
			rule := netlink.NewRule()
			rule.Family, rule.Priority = unix.AF_INET, 5217
			routes, err := netlink.RouteListFiltered(unix.AF_INET6, &netlink.Route{Table: 5315}, netlink.RT_FILTER_TABLE)
			err = errors.Join(err, netlink.RuleDel(rule))
			for i := range routes {
				err = errors.Join(err, netlink.RouteDel(&routes[i]))
			}
			return err
		})
		if diff := cmp.Diff([]string{want[1] + ": missing", want[2] + ": missing"}, lab.differences(split)); diff != "" {
			t.Errorf("differences (-want +got):\n%s", diff)
		}
		lab.apply(split)
		if diff := cmp.Diff(want, ours()); diff != "" {
			t.Errorf("rules and routes after another program removed some (-want +got):\n%s", diff)
		}
		lab.apply(localSplit(2, 0))
		if left := ours(); len(left) > 0 {
			t.Errorf("without a relay there are %q", left)
		}
		lab.clock.advance(2 * retireAfter)
		lab.apply(localSplit(3, 0))
		lab.router.Do(func() error {
			have, err := lab.kernel.link.observe(everything)
			if names := slices.Sorted(maps.Keys(have.table(TableSplits).chains)); slices.ContainsFunc(names, ofRelays) {
				t.Errorf("without a relay there are the chains %q", names)
			}
			return err
		})
	}
}

func ofRelays(chain string) bool {
	return strings.Contains(chain, "divert") || strings.Contains(chain, kindRelay) || strings.Contains(chain, kindSampled)
}

func TestAClientNetworkKeepsItsSideOfTheRelayAndARaisedSampleOnlyAdds(t *testing.T) {
	t.Parallel()
	lab := newSplitLab(t)
	lab.serveClientsEverywhere()
	lab.relay()
	var before map[string]byte
	for i, sample := range []traffic.Weight{0, 200_000, 400_000, 600_000, 800_000, traffic.Whole} {
		s := sampledSplit(localSplit(traffic.Generation(i+1), 0), sample)
		s.Affinity, s.AffinityPrefix = traffic.AffinitySource, traffic.AffinityPrefix{IPv4: 32, IPv6: 128}
		lab.apply(s)
		now := lab.relaySides(t)
		for client, side := range before {
			if side == small(fromLocal) && now[client] != side {
				t.Errorf("at %s the relay has lost %s", sample, client)
			}
		}
		before = now
	}
	for client, side := range before {
		if side != small(fromLocal) {
			t.Errorf("at 100%% %s is not the relay's", client)
		}
	}
}

// relaySides says who answers each client, who must always answer it.
func (lab *splitLab) relaySides(t *testing.T) map[string]byte {
	t.Helper()
	sides := map[string]byte{}
	lab.client.Do(func() error {
		for _, target := range []string{service25v4, service25v6} {
			for client := range byte(4) {
				for range 5 {
					fd, err := begin(target, 100+client)
					if err != nil {
						return err
					}
					if err := awaitReadable(fd); err != nil {
						return err
					}
					letter, err := finish(fd)
					if err != nil {
						return err
					}
					key := target + " from " + string('0'+rune(client))
					if was, known := sides[key]; known && was != letter {
						t.Errorf("%s: %c answers, before it was %c", key, letter, was)
					}
					sides[key] = letter
				}
			}
		}
		return nil
	})
	return sides
}
