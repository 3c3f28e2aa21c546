package doctor

import (
	"testing"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/xt"
	"golang.org/x/sys/unix"
)

func TestARuleIsToldByWhomItHinders(t *testing.T) {
	source := loadNetwork(sourceAt4, 4)
	table := Table{sets: map[string]namedSet{
		"__set0": {elements: []nftables.SetElement{{Key: []byte{203, 0, 113, 7}}, {Key: []byte{203, 0, 113, 9}}}},
	}}
	for want, exprs := range map[string][]expr.Any{
		"ip saddr 203.0.113.7 drop":                    join(fromNetwork("203.0.113.7"), drop()),
		"ip saddr 203.0.113.0/25 drop":                 join(fromNetwork("203.0.113.0/25"), drop()),
		"ip6 saddr 2001:db8:66::/48 drop":              join(fromNetwork("2001:db8:66::/48"), drop()),
		"ip saddr 203.0.113.0/24 -j LOG drop":          {loadNetwork(sourceAt4, 3), equal(203, 0, 113), &expr.Target{Name: "LOG"}, drop()[0]}, // as iptables-nft writes it
		"ip saddr != 203.0.113.7 drop":                 {source, &expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: []byte{203, 0, 113, 7}}, drop()[0]},
		"ip saddr @blocklist drop":                     {source, &expr.Lookup{SourceRegister: 1, SetName: "blocklist"}, drop()[0]},
		"ip saddr { 203.0.113.7, 203.0.113.9 } reject": {source, &expr.Lookup{SourceRegister: 1, SetName: "__set0"}, reject()[0]},
		"iifname wan0 dport 25 drop":                   join(cameIn("wan0"), toPort(25), drop()),
		"dport 20-30 drop":                             {loadPort(), &expr.Range{Op: expr.CmpOpEq, Register: 1, FromData: []byte{0, 20}, ToData: []byte{0, 30}}, drop()[0]},
		"limit rate over 5/minute drop":                {&expr.Limit{Rate: 5, Unit: expr.LimitTimeMinute, Over: true}, drop()[0]},
		"ct count 10 reject":                           {&expr.Connlimit{Count: 10}, reject()[0]},
		"-m hashlimit drop":                            {&expr.Match{Name: "hashlimit", Info: &xt.Unknown{}}, drop()[0]},
		"drop":                                         join(inState(expr.CtStateBitNEW), drop()),
		"header 0+1 0x45 drop":                         {&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Len: 1}, equal(0x45), drop()[0]},
		"handle 12":                                    {&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1}, equal(unix.IPPROTO_TCP)},
	} {
		if got := table.ruleText(&nftables.Rule{Handle: 12, Exprs: exprs}); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}
