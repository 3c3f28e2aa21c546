package doctor

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/xt"
	"github.com/ti-mo/conntrack"
	"github.com/vishvananda/netlink"

	"github.com/splitd/splitd/traffic"
)

// These tests have other programs' rules beside ours, real flows through both,
// and what the doctor says of them.

// cureOf is the cure of the row's only finding, "" when there is none.
func (l *lab) cureOf(row string, splits ...traffic.Split) string {
	l.t.Helper()
	found := of(examine(l.t, l.router, about(splits, nil), nil), row)
	if len(found) != 1 {
		l.t.Errorf("%d findings of %s: %+v", len(found), row, found)
	}
	return found[0].Cure
}

// only fails the test unless all n answers were of that letter.
func (l *lab) only(letter byte, n int, patience time.Duration, address, when string) {
	l.t.Helper()
	if got := l.ask(n, patience, address); got[letter] != n {
		l.t.Errorf("%s: answers %v, want %q alone", when, got, letter)
	}
}

// -m conntrack --ctstate STATES.
func ctState(states uint16) []expr.Any {
	return []expr.Any{&expr.Match{Name: "conntrack", Rev: 3, Info: &xt.ConntrackMtinfo3{ConntrackMtinfo2: xt.ConntrackMtinfo2{
		ConntrackMtinfoBase: xt.ConntrackMtinfoBase{MatchFlags: uint16(xt.ConntrackState | xt.ConntrackStateAlias)}, StateMask: states,
	}}}}
}

func fourOnly(s traffic.Split) traffic.Split {
	s.Service.Addresses = s.Service.Addresses[:1]
	s.Candidates[0].Addresses = s.Candidates[0].Addresses[:1]
	return s
}

func TestDockersRulesAndOurs(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.serve(l.new, fromNew, "10.0.0.12:25")
	l.serve(l.new, fromOther, "10.0.0.99:25") // the container
	l.router.ChangeRuleset(func(c *nftables.Conn) {
		filter := newRuleset(c, nftables.TableFamilyIPv4, "filter")
		filter.chain("DOCKER-USER")
		filter.chain("DOCKER-FORWARD", join(ctState(1<<1|1<<2), accept()), join(toAddress4("10.0.0.99"), toPort(25), accept()))
		filter.hook("FORWARD", nftables.ChainTypeFilter, nftables.ChainHookForward, 0, nftables.ChainPolicyDrop, jump("DOCKER-USER"), jump("DOCKER-FORWARD"))
		nat := newRuleset(c, nftables.TableFamilyIPv4, "nat")
		nat.chain("DOCKER",
			join(toPort(25), translateToOther(25)), // -p 25:25
			join(toPort(8080), translateToOther(25)))
		nat.hook("PREROUTING", nftables.ChainTypeNAT, nftables.ChainHookPrerouting, -100, anyPolicy, jump("DOCKER"))
	})
	split := fourOnly(all())
	l.apply(split)
	l.only(0, 3, brief, service4, "before the cure")
	if got, want := l.cureOf("forward-drop", split), "iptables -I DOCKER-USER -m conntrack --ctstate DNAT -j ACCEPT"; got != want {
		t.Errorf("the cure is %q, want %q", got, want)
	}
	l.router.ChangeRuleset(func(c *nftables.Conn) {
		table := &nftables.Table{Family: nftables.TableFamilyIPv4, Name: "filter"}
		c.InsertRule(&nftables.Rule{Table: table, Chain: &nftables.Chain{Name: "DOCKER-USER", Table: table}, Exprs: join(ctState(1<<7), accept())})
	})
	if got := l.cureOf("forward-drop", split); got != "" {
		t.Errorf("after the cure there is still %q", got)
	}
	l.only(fromNew, 10, long, service4, "after the cure")
	split = fourOnly(half())
	split.Generation = 2
	l.apply(split)
	// What stays with the primary meets Docker's own translation behind ours.
	if got := l.ask(40, long, service4); got[fromNew] == 0 || got[fromOther] == 0 || got[fromNew]+got[fromOther] != 40 {
		t.Errorf("of a half: %v", got)
	}
	l.only(fromOther, 5, long, "192.0.2.25:8080", "the port that only Docker publishes")
}

// ip daddr TO in a table of family ip.
func toAddress4(to string) []expr.Any {
	return []expr.Any{loadNetwork(destinationAt4, 4), equal(addr(to).AsSlice()...)}
}

func TestUfwsRulesAndOurs(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.serveAll()
	l.router.ChangeRuleset(func(c *nftables.Conn) {
		filter := newRuleset(c, nftables.TableFamilyIPv4, "filter")
		filter.chain("ufw-user-forward")
		filter.chain("ufw-user-input", join(fromNetwork("203.0.113.0/24"), drop()), join(toPort(25), accept()))
		filter.chain("ufw-before-forward", join(ctState(1<<1|1<<2), accept()), jump("ufw-user-forward"))
		filter.chain("ufw-before-input", join(ctState(1<<1|1<<2), accept()), join(ctState(1<<0), drop()), jump("ufw-user-input"))
		filter.hook("INPUT", nftables.ChainTypeFilter, nftables.ChainHookInput, 0, nftables.ChainPolicyDrop, jump("ufw-before-input"))
		filter.hook("FORWARD", nftables.ChainTypeFilter, nftables.ChainHookForward, 0, nftables.ChainPolicyDrop, jump("ufw-before-forward"))
	})
	split := fourOnly(all())
	l.apply(split)
	l.only(0, 3, brief, service4, "before the cure")
	if got, want := l.cureOf("forward-drop", split), "ufw route allow proto tcp to 10.0.0.12 port 25"; got != want {
		t.Errorf("the cure is %q, want %q", got, want)
	}
	skipped := of(examine(t, l.router, about([]traffic.Split{split}, nil), nil), "input-skipped")
	const want = `split "mx": the candidates' share skips 1 rules that drop or limit in chain INPUT of table ip filter (policy drop): ip saddr 203.0.113.0/24 drop`
	if len(skipped) != 1 || skipped[0].Seen != want {
		t.Errorf("skipped: %+v, want %q", skipped, want)
	}
	l.router.ChangeRuleset(func(c *nftables.Conn) {
		table := &nftables.Table{Family: nftables.TableFamilyIPv4, Name: "filter"}
		c.AddRule(&nftables.Rule{Table: table, Chain: &nftables.Chain{Name: "ufw-user-forward", Table: table}, Exprs: join(toAddress4("10.0.0.12"), toPort(25), accept())})
	})
	if got := l.cureOf("forward-drop", split); got != "" {
		t.Errorf("after the cure there is still %q", got)
	}
	l.only(fromNew, 10, long, service4, "after the cure")
}

func TestFirewalldsRulesAndOurs(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		lets []expr.Any // firewalld's own rule for translated flows
		want byte
	}{
		"as firewalld makes them":          {join(isTranslated(), accept()), fromNew},
		"of one that lets nothing through": {join(inState(establishedRelated), accept()), 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := newLab(t)
			l.serveAll()
			l.router.ChangeRuleset(func(c *nftables.Conn) {
				f := newRuleset(c, nftables.TableFamilyINet, "firewalld")
				f.chain("nat_PRE_public", join(toPort(25), translateToOther(0)))
				f.chain("filter_FWD_public")
				f.hook("nat_PREROUTING", nftables.ChainTypeNAT, nftables.ChainHookPrerouting, -90, anyPolicy, jump("nat_PRE_public"))
				f.hook("filter_FORWARD", nftables.ChainTypeFilter, nftables.ChainHookForward, 10, anyPolicy,
					join(inState(establishedRelated), accept()), test.lets, join(cameIn("lo"), accept()),
					jump("filter_FWD_public"), join(inState(expr.CtStateBitINVALID), drop()), reject())
			})
			split := all()
			l.apply(split)
			patience := long
			if test.want == 0 {
				patience = brief
			}
			l.only(test.want, 3, patience, service4, "beside firewalld")
			l.only(test.want, 3, patience, service6, "beside firewalld, IPv6")
			cure := l.cureOf("forward-drop", split)
			if passes := test.want != 0; passes != (cure == "") {
				t.Errorf("the cure is %q", cure)
			}
			if test.want == 0 && !strings.Contains(cure, `--add-rich-rule 'rule family="ipv4" destination address="10.0.0.12/32" port port="25" protocol="tcp" accept'`) {
				t.Errorf("the cure is %q, want firewalld's own words", cure)
			}
		})
	}
}

// TestOthersMarksStayBesideOurs has a multi-WAN program's and a VPN's rules:
// both mark flows, save and restore their bits, and route by them.
func TestOthersMarksStayBesideOurs(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.serveAll()
	const wanMask, wan = 0x3f00, 0x100
	const vpnMask, vpn = 0xff0000, 0x80000
	keep := func(mask uint32, mode byte) []expr.Any {
		return []expr.Any{&expr.Target{Name: "CONNMARK", Rev: 1, Info: connmark(mask, mode)}}
	}
	isZero := func(mask uint32) []expr.Any {
		return []expr.Any{&expr.Meta{Key: expr.MetaKeyMARK, Register: 1}, masked(mask, 0), equal(0, 0, 0, 0)}
	}
	notNull := func(mask uint32) []expr.Any {
		return []expr.Any{&expr.Meta{Key: expr.MetaKeyMARK, Register: 1}, masked(mask, 0), notZero()}
	}
	l.router.ChangeRuleset(func(c *nftables.Conn) {
		m := newRuleset(c, nftables.TableFamilyIPv4, "mangle")
		m.hook("PREROUTING", nftables.ChainTypeFilter, nftables.ChainHookPrerouting, -150, anyPolicy,
			keep(wanMask, connmarkRestore),
			join(isZero(wanMask), cameIn("eth0"), setPacketMark(wanMask, wan)),
			keep(wanMask, connmarkSave),
			keep(vpnMask, connmarkRestore))
		m.hook("FORWARD", nftables.ChainTypeFilter, nftables.ChainHookForward, -150, anyPolicy, join(cameIn("vpn0"), setPacketMark(vpnMask, vpn)))
		m.hook("POSTROUTING", nftables.ChainTypeFilter, nftables.ChainHookPostrouting, -150, anyPolicy, join(notNull(vpnMask), keep(vpnMask, connmarkSave)))
	})
	l.router.Do(func() error {
		for priority, r := range map[int][3]uint32{1001: {wan, wanMask, 101}, 5210: {vpn, vpnMask, 52}} {
			rule := netlink.NewRule()
			rule.Priority, rule.Mark, rule.Mask, rule.Table = priority, r[0], new(r[1]), int(r[2])
			if err := netlink.RuleAdd(rule); err != nil {
				return err
			}
		}
		link, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		// The wan's table, as mwan3 copies it: the networks and a default.
		if err := netlink.RouteAdd(&netlink.Route{Table: 101, Dst: network("0.0.0.0/0"), Gw: addr("192.0.2.1").AsSlice(), LinkIndex: link.Attrs().Index}); err != nil {
			return err
		}
		link, err = netlink.LinkByName("eth1")
		if err != nil {
			return err
		}
		return netlink.RouteAdd(&netlink.Route{Table: 101, Dst: network("10.0.0.0/24"), LinkIndex: link.Attrs().Index, Scope: netlink.SCOPE_LINK})
	})
	l.apply(fourOnly(all()))
	l.only(fromNew, 10, long, service4, "beside others' marks")
	n := 0
	for _, f := range l.flows() {
		if f.TupleOrig.Proto.DestinationPort != 25 {
			continue
		}
		n++
		if theirs, ours := f.Mark&wanMask, f.Mark&settings.MarkMask; theirs != wan || ours == 0 {
			t.Errorf("a flow has the mark %#x, want %#x of theirs and a class of ours", f.Mark, wan)
		}
	}
	if n != 10 {
		t.Errorf("%d flows are tracked, want 10", n)
	}
}

// flows are the router's of connection tracking.
func (l *lab) flows() []conntrack.Flow {
	l.t.Helper()
	var flows []conntrack.Flow
	l.router.Do(func() error {
		c, err := conntrack.Dial(nil)
		if err != nil {
			return err
		}
		defer func() { _ = c.Close() }()
		flows, err = c.Dump(nil)
		return err
	})
	return flows
}

func TestOfTwoTranslationsTheFirstWinsAndIsReported(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		priority   int
		theirFirst bool // of two at one priority the newer is asked first (nf_hook_entries_grow)
		wins       byte
		reported   bool
	}{
		{-110, false, fromOther, true},
		{-105, false, fromOther, true},
		{-105, true, fromNew, true}, // until theirs is made anew
		{-100, true, fromNew, false},
		{-90, false, fromNew, false},
	} {
		t.Run(fmt.Sprintf("%d, older %v", test.priority, test.theirFirst), func(t *testing.T) {
			t.Parallel()
			l := newLab(t)
			l.serve(l.new, fromNew, "10.0.0.12:25")
			l.serve(l.new, fromOther, "10.0.0.99:25")
			split := fourOnly(all())
			if !test.theirFirst {
				l.apply(split)
			}
			foreignNAT(test.priority, 25)(t, l.router)
			if test.theirFirst {
				l.apply(split)
			}
			l.only(test.wins, 5, long, service4, "of two translations")
			cure := l.cureOf("first-dnat-wins", split)
			if (cure != "") != test.reported || test.reported && !strings.HasPrefix(cure, "nft delete rule inet theirs pre handle ") {
				t.Errorf("the cure is %q, want one: %v", cure, test.reported)
			}
		})
	}
}
