package doctor

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/xt"

	"github.com/splitd/splitd/netfilter"
	"github.com/splitd/splitd/traffic"
)

// goodHost is a host that nothing is wrong with.
func goodHost() Host {
	return Host{
		Sysctls:  map[string]int{"net/ipv4/ip_forward": 1, "net/ipv6/conf/all/forwarding": 1},
		Tracking: Tracking{On: true}, Clients4: Way{Device: "wan0"}, Clients6: Way{Device: "wan0"},
		Here:    map[netip.Addr]bool{addr("192.0.2.25"): true, addr("2001:db8::25"): true, addr("10.0.0.200"): true},
		Ways:    map[netip.Addr]Way{addr("10.0.0.12"): {Device: "eth1"}, addr("fd00::12"): {Device: "eth1"}},
		Devices: map[string]Device{"eth0": {Up: true, Networks: []netip.Prefix{netip.MustParsePrefix("192.0.2.25/24")}}, "eth1": {Up: true}},
	}
}

func TestWhatIsWrongWithTheHostIsNamedWithItsCure(t *testing.T) {
	both := mxSplit("10.0.0.12", "fd00::12")
	elsewhere := mxSplit("10.0.0.12")
	elsewhere.Primary = traffic.Backend{Name: "old", Addresses: []traffic.Address{{IP: addr("192.0.2.25")}}}
	for name, test := range map[string]struct {
		change   func(*Host)
		splits   []traffic.Split
		paths    []traffic.ReturnPath
		faults   string
		warnings []string
	}{
		"all good": {splits: []traffic.Split{both}, paths: append(byMark(), byAddress()[0])},
		"no forwarding": {
			change: func(f *Host) { f.Sysctls = nil }, splits: []traffic.Split{both},
			faults: "split \"mx\" sends flows to 10.0.0.12 but this host does not forward IPv4: run `sysctl -w net.ipv4.ip_forward=1`\n" +
				"split \"mx\" sends flows to fd00::12 but this host does not forward IPv6: run `sysctl -w net.ipv6.conf.all.forwarding=1`",
		},
		"no forwarding of the other family": {change: func(f *Host) { f.Sysctls["net/ipv6/conf/all/forwarding"] = 0 }, splits: []traffic.Split{elsewhere}},
		"no forwarding and nothing remote": {
			change: func(f *Host) { f.Sysctls["net/ipv4/ip_forward"] = 0; f.Here[addr("10.0.0.12")] = true }, splits: []traffic.Split{elsewhere},
		},
		"service elsewhere": {
			change: func(f *Host) { delete(f.Here, addr("192.0.2.25")) }, splits: []traffic.Split{elsewhere},
			warnings: []string{"split \"mx\": service address 192.0.2.25 is not on this host: good if this host is the router in front of it, else run `ip address add 192.0.2.25/32 dev DEVICE`"},
		},
		"no route": {
			change: func(f *Host) { delete(f.Ways, addr("10.0.0.12")) }, splits: []traffic.Split{both},
			warnings: []string{"split \"mx\": this host has no route to 10.0.0.12 of backend \"new\": see `ip route get 10.0.0.12`"},
		},
		"strict towards a backend": {change: func(f *Host) { f.Sysctls["net/ipv4/conf/eth1/rp_filter"] = 1 }, splits: []traffic.Split{both}},
		"strict beside the way to a backend": {
			change: func(f *Host) { f.Sysctls["net/ipv4/conf/eth0/rp_filter"] = 1 }, splits: []traffic.Split{both},
			warnings: []string{"split \"mx\": rp_filter is strict on eth0 and replies of 10.0.0.12 are dropped there: they have to come in by eth1: if they do not, run `sysctl -w net.ipv4.conf.all.rp_filter=2`"},
		},
		"strict where marked flows come in": {
			change: func(f *Host) { f.Sysctls["net/ipv4/conf/eth0/rp_filter"] = 1 }, paths: byMark(),
			warnings: []string{"return path \"four\": rp_filter is strict on eth0 and drops flows whose clients are routed elsewhere: run `sysctl -w net/ipv4/conf/eth0/rp_filter=2`"},
		},
		"strict on a device with a dot in its name": { // a dot would separate (sysctl(8))
			change: func(f *Host) { f.Devices["d0.100"], f.Sysctls["net/ipv4/conf/d0.100/rp_filter"] = Device{}, 1 }, paths: []traffic.ReturnPath{{Name: "vlan", Device: "d0.100", Match: traffic.MatchMark}},
			warnings: []string{"return path \"vlan\": rp_filter is strict on d0.100 and drops flows whose clients are routed elsewhere: run `sysctl -w net/ipv4/conf/d0.100/rp_filter=2`"},
		},
		"strict and by address": {change: func(f *Host) { f.Sysctls["net/ipv4/conf/eth0/rp_filter"] = 1 }, paths: byAddress()[:1]},
		"address missing": {
			paths:    byAddress()[1:],
			warnings: []string{"return path \"six\": address fd00::200 is not on this host: run `ip address add fd00::200/128 dev eth0`"},
		},
		"device missing": {
			change: func(f *Host) { f.Devices = nil }, paths: byAddress()[:1],
			warnings: []string{"return path \"four\": there is no device \"eth0\": its replies are dropped until there is: see `ip link`"},
		},
		"tracking begins": {
			change: func(f *Host) { f.Tracking = Tracking{Max: 65536} }, splits: []traffic.Split{both},
			warnings: []string{"note: connection tracking is turned on for all traffic of this host; it holds 65536 flows (nf_conntrack_max): for more, run `sysctl -w net.netfilter.nf_conntrack_max=N`"},
		},
		"tracking is not needed": {change: func(f *Host) { f.Tracking.On = false }, paths: byAddress()[:1]},
		"an earlier translation": {
			change: func(f *Host) {
				f.Tables = []Table{earlierTable(-110, destinationIs("192.0.2.25", 25, &expr.NAT{Type: expr.NATTypeDestNAT}))}
			}, splits: []traffic.Split{both},
			warnings: []string{"split \"mx\": another program's rule takes 192.0.2.25 . tcp . 25 before splitd sees it: if it is not meant, run `nft delete rule inet other pre handle 7`"},
		},
		"a later translation": {
			change: func(f *Host) {
				f.Tables = []Table{earlierTable(-100, destinationIs("192.0.2.25", 25, &expr.NAT{Type: expr.NATTypeDestNAT}))}
			}, splits: []traffic.Split{both},
		},
		"a forward chain that drops": {
			change: func(f *Host) { f.Tables = []Table{dropTable("inet", "fw", "fwd", nil)} }, splits: []traffic.Split{elsewhere},
			warnings: []string{"split \"mx\": chain fwd of table inet fw drops what this host forwards, flows to 10.0.0.12 too: run `nft insert rule inet fw fwd ct status dnat accept`"},
		},
		"a forward chain of iptables that drops": {
			change: func(f *Host) { f.Tables = []Table{dropTable("ip", "filter", "FORWARD", nil)} }, splits: []traffic.Split{elsewhere},
			warnings: []string{"split \"mx\": chain FORWARD of table ip filter drops what this host forwards, flows to 10.0.0.12 too: run `iptables -I FORWARD -m conntrack --ctstate DNAT -j ACCEPT`"},
		},
		"a forward chain of Docker's that drops": {
			change: func(f *Host) {
				table := dropTable("ip6", "filter", "FORWARD", nil)
				table.rules["DOCKER-USER"] = nil
				f.Tables = []Table{table}
			}, splits: []traffic.Split{both},
			warnings: []string{"split \"mx\": chain FORWARD of table ip6 filter drops what this host forwards, flows to fd00::12 too: run `ip6tables -I DOCKER-USER -m conntrack --ctstate DNAT -j ACCEPT`"},
		},
		"a forward chain of another family": {
			change: func(f *Host) { f.Tables = []Table{dropTable("ip6", "filter", "FORWARD", nil)} }, splits: []traffic.Split{elsewhere},
		},
		"a forward chain with the cure": {
			change: func(f *Host) {
				f.Tables = []Table{dropTable("inet", "fw", "fwd", [][]expr.Any{join(isTranslated(), accept())})}
			}, splits: []traffic.Split{both},
		},
	} {
		t.Run(name, func(t *testing.T) {
			facts := goodHost()
			if test.change != nil {
				test.change(&facts)
			}
			warnings, err := Sentences(judgeStart(facts, about(test.splits, test.paths)))
			faults := ""
			if err != nil {
				faults = err.Error()
			}
			if diff := cmp.Diff(test.faults, faults); diff != "" {
				t.Errorf("faults (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(test.warnings, warnings); diff != "" {
				t.Errorf("warnings (-want +got):\n%s", diff)
			}
		})
	}
}

func destinationIs(to string, port uint16, then expr.Any) []expr.Any {
	return join(toAddress(to), toPort(port), []expr.Any{then})
}

func earlierTable(priority int, exprs ...[]expr.Any) Table {
	t := Table{
		family: "inet", name: "other", sets: map[string]namedSet{}, rules: map[string][]*nftables.Rule{"pre": nil},
		chains: []baseChain{{name: "pre", kind: kindNAT, hook: hookPrerouting, priority: priority}},
	}
	for _, e := range exprs {
		t.rules["pre"] = append(t.rules["pre"], &nftables.Rule{Handle: 7, Exprs: e})
	}
	return t
}

func dropTable(family, name, chain string, exprs [][]expr.Any) Table {
	t := Table{
		family: family, name: name, sets: map[string]namedSet{}, rules: map[string][]*nftables.Rule{},
		chains: []baseChain{{name: chain, kind: kindFilter, hook: hookForward, drops: true}},
	}
	for _, e := range exprs {
		t.rules[chain] = append(t.rules[chain], &nftables.Rule{Exprs: e})
	}
	return t
}

func TestForeignRulesAreReadAsTheKernelReadsThem(t *testing.T) {
	mail := packet{to: addr("192.0.2.25"), port: traffic.Port{Number: 25, Transport: traffic.TCP}, in: "wan0"}
	dnat := &expr.NAT{Type: expr.NATTypeDestNAT}
	jump := func(to string) expr.Any { return &expr.Verdict{Kind: expr.VerdictJump, Chain: to} }
	device := cameIn
	tcp := func(low, high uint16, flags xt.TcpInvFlagset) expr.Any {
		return &expr.Match{Name: "tcp", Info: &xt.Tcp{SrcPorts: [2]uint16{0, 65535}, DstPorts: [2]uint16{low, high}, InvFlags: flags}}
	}
	portMap := namedSet{elements: []nftables.SetElement{
		{Key: []byte{0, 25}, VerdictData: &expr.Verdict{Kind: expr.VerdictGoto, Chain: "mail"}},
		{Key: []byte{0, 80}, VerdictData: &expr.Verdict{Kind: expr.VerdictGoto, Chain: "web"}},
	}}
	range20to30 := namedSet{interval: true, elements: []nftables.SetElement{{Key: []byte{0, 0}, IntervalEnd: true}, {Key: []byte{0, 20}}, {Key: []byte{0, 31}, IntervalEnd: true}}}
	range30to40 := namedSet{interval: true, elements: []nftables.SetElement{{Key: []byte{0, 41}, IntervalEnd: true}, {Key: []byte{0, 30}}}}
	port := loadPort()
	for name, test := range map[string]struct {
		exprs [][]expr.Any
		want  answer
	}{
		"its address and port":         {[][]expr.Any{destinationIs("192.0.2.25", 25, dnat)}, yes},
		"another port":                 {[][]expr.Any{destinationIs("192.0.2.25", 26, dnat)}, no},
		"another address":              {[][]expr.Any{destinationIs("192.0.2.26", 25, dnat)}, no},
		"another family":               {[][]expr.Any{destinationIs("2001:db8::25", 25, dnat)}, no},
		"its device":                   {[][]expr.Any{append(device("wan0"), dnat)}, yes},
		"another device":               {[][]expr.Any{append(device("lan0"), dnat)}, no},
		"a client's address":           {[][]expr.Any{append(fromNetwork("198.51.100.7"), dnat)}, maybe},
		"a source translation":         {[][]expr.Any{{&expr.NAT{Type: expr.NATTypeSourceNAT}}}, no},
		"a redirect":                   {[][]expr.Any{{&expr.Redir{}}}, yes},
		"iptables' DNAT":               {[][]expr.Any{{tcp(25, 25, 0), &expr.Target{Name: "DNAT"}}}, yes},
		"iptables' DNAT, other port":   {[][]expr.Any{{tcp(80, 90, 0), &expr.Target{Name: "DNAT"}}}, no},
		"iptables' DNAT, other than":   {[][]expr.Any{{tcp(80, 80, xt.TcpInvDestPorts), &expr.Target{Name: "DNAT"}}}, maybe},
		"behind an accept":             {[][]expr.Any{accept(), {dnat}}, no},
		"behind another's accept":      {[][]expr.Any{append(device("lan0"), accept()...), {dnat}}, yes},
		"in a chain":                   {[][]expr.Any{{jump("mail")}}, yes},
		"in a chain that it misses":    {[][]expr.Any{append(device("lan0"), jump("mail"))}, no},
		"behind a chain that returns":  {[][]expr.Any{{jump("back")}, {dnat}}, yes},
		"a loop of chains":             {[][]expr.Any{{jump("loop")}}, no},
		"in a map":                     {[][]expr.Any{{port, &expr.Lookup{SourceRegister: 1, SetName: "ports", IsDestRegSet: true}}}, yes},
		"in a set of intervals":        {[][]expr.Any{{port, &expr.Lookup{SourceRegister: 1, SetName: "20-30"}, dnat}}, yes},
		"beside a set of intervals":    {[][]expr.Any{{port, &expr.Lookup{SourceRegister: 1, SetName: "30-40"}, dnat}}, no},
		"not in a set":                 {[][]expr.Any{{port, &expr.Lookup{SourceRegister: 1, SetName: "20-30", Invert: true}, dnat}}, no},
		"in an unknown set":            {[][]expr.Any{{port, &expr.Lookup{SourceRegister: 1, SetName: "what"}, dnat}}, maybe},
		"a network of addresses":       {[][]expr.Any{{loadNetwork(destinationAt4, 4), &expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: []byte{255, 255, 255, 0}, Xor: []byte{0, 0, 0, 0}}, equal(192, 0, 2, 0), dnat}}, yes},
		"another network of addresses": {[][]expr.Any{{loadNetwork(destinationAt4, 4), &expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: []byte{255, 255, 0, 0}, Xor: []byte{0, 0, 0, 0}}, equal(192, 1, 0, 0), dnat}}, no},
		"ports in a range":             {[][]expr.Any{{port, &expr.Range{Op: expr.CmpOpEq, Register: 1, FromData: []byte{0, 20}, ToData: []byte{0, 30}}, dnat}}, yes},
		"a mark":                       {[][]expr.Any{{&expr.Ct{Key: expr.CtKeyMARK, Register: 1}, masked(0xff, 0), equal(1, 0, 0, 0), dnat}}, maybe},
		"now and then":                 {[][]expr.Any{{&expr.Limit{}, dnat}}, maybe},
	} {
		t.Run(name, func(t *testing.T) {
			table := earlierTable(-110, test.exprs...)
			table.sets = map[string]namedSet{"ports": portMap, "20-30": range20to30, "30-40": range30to40}
			table.rules["mail"] = []*nftables.Rule{{Handle: 8, Exprs: []expr.Any{dnat}}}
			table.rules["back"] = []*nftables.Rule{{Exprs: []expr.Any{&expr.Verdict{Kind: expr.VerdictReturn}}}, {Exprs: accept()}}
			table.rules["loop"] = []*nftables.Rule{{Exprs: []expr.Any{jump("loop")}}}
			if got := table.walk(table.chains[0], mail).translated; got != test.want {
				t.Errorf("translated = %d, want %d", got, test.want)
			}
		})
	}
}

// A router without return paths has a route table and a rule of ours where a
// relay gets a sample.
func TestARouteInTheTableOfRelaysIsAnErrorWhereThereIsOne(t *testing.T) {
	host := goodHost()
	table := settings.RouteTable + netfilter.ReturnsMax
	host.Taken = []TakenRoute{{Table: table, Default: true, Text: "default dev tun9"}}
	host.Rules = []Rule{{Priority: 9, Table: table, Text: "ip rule pref 9 lookup 5315"}}
	split := mxSplit("10.0.0.12", "fd00::12")
	worst := func() []Level {
		var all []Level
		for _, f := range Judge(host, about([]traffic.Split{split}, nil)) {
			if f.ID == "route-table-taken" {
				all = append(all, f.Level)
			}
		}
		return all
	}
	if got := worst(); !slices.Equal(got, []Level{LevelOK}) {
		t.Errorf("without a relay: %v", got)
	}
	split.SamplePort = 15000
	if got := worst(); !slices.Equal(got, []Level{LevelWarning, LevelError}) {
		t.Errorf("with a relay: %v, want a warning of the rule and an error of the route", got)
	}
}
