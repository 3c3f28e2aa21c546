package netfilter

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/splitd/splitd/traffic"
)

func addr(text string) netip.Addr { return netip.MustParseAddr(text) }

func TestReturnPathsPrintAsNftAndIPCommands(t *testing.T) {
	smtp, dns := traffic.Port{Number: 25, Transport: traffic.TCP}, traffic.Port{Number: 53, Transport: traffic.UDP}
	odd := labSettings
	odd.MarkMask = 0x0ff0_0003
	for name, test := range map[string]struct {
		paths    []traffic.ReturnPath
		settings Settings
	}{
		"none":    {nil, labSettings},
		"address": {byAddress(), labSettings},
		"mark": {[]traffic.ReturnPath{
			{Name: "containers", Via: addr("10.0.0.1"), Device: "eth0", Match: traffic.MatchMark, Ports: []traffic.Port{smtp, dns}},
			{Name: "six", Via: addr("fd00::1"), Device: "eth0", Match: traffic.MatchMark},
		}, labSettings},
		"tunnel": {[]traffic.ReturnPath{
			{Name: "wire", Device: "wg0", Match: traffic.MatchMark, Ports: []traffic.Port{smtp}},
			{Name: "kept", Device: "tun0", Match: traffic.MatchAddress, Address: addr("10.8.0.2")},
		}, labSettings},
		"mask": {byMark(smtp), odd},
	} {
		t.Run(name, func(t *testing.T) {
			r, err := BuildReturns(test.paths, test.settings)
			if err != nil {
				t.Fatal(err)
			}
			golden(t, "returns/"+name+".nft", r.Text())
			golden(t, "returns/"+name+".ip", strings.Join(append(r.Routes(), r.Rules()...), "\n")+"\n")
		})
	}
}

func TestReturnPathsThatCannotWorkAreRefusedAllAtOnce(t *testing.T) {
	few := labSettings
	few.MarkMask = 0xf
	mark := traffic.ReturnPath{Name: "m", Via: addr("10.0.0.1"), Device: "eth0", Match: traffic.MatchMark}
	onPort := mark
	onPort.Name, onPort.Ports = "p", []traffic.Port{{Number: 25, Transport: traffic.TCP}}
	address := traffic.ReturnPath{Name: "a", Via: addr("10.0.0.1"), Device: "eth0", Match: traffic.MatchAddress, Address: addr("10.0.0.200")}
	mixed := address
	mixed.Via = addr("fd00::1")
	for name, test := range map[string]struct {
		paths    []traffic.ReturnPath
		settings Settings
		want     string
	}{
		"too many":      {make([]traffic.ReturnPath, 17), labSettings, `return_paths: 17 is over 15, the number of route tables for them`},
		"no device":     {[]traffic.ReturnPath{{Name: "x", Match: traffic.MatchMark}}, labSettings, `return_paths[0] "x": device is missing`},
		"no address":    {[]traffic.ReturnPath{{Name: "x", Device: "eth0", Match: traffic.MatchAddress}}, labSettings, `return_paths[0] "x": address is missing: match: address needs the source address of the replies`},
		"mixed":         {[]traffic.ReturnPath{mixed}, labSettings, `return_paths[0] "a": via fd00::1 and address 10.0.0.200 are of different families`},
		"zone":          {[]traffic.ReturnPath{{Name: "x", Device: "eth0", Via: addr("fe80::1%eth0"), Match: traffic.MatchMark}}, labSettings, `return_paths[0] "x": an address here has no zone: the device is named by its own key`},
		"unknown match": {[]traffic.ReturnPath{{Name: "x", Device: "eth0", Match: "magic"}}, labSettings, `return_paths[0] "x": match "magic" is unknown: write address or mark`},
		"few bits":      {[]traffic.ReturnPath{mark}, few, `return_paths[0] "m": mark_mask 0xf has 4 bits: match: mark needs at least 5`},
		"same address":  {[]traffic.ReturnPath{address, address}, labSettings, `return_paths[1] "a": no flow is left for it: "a" takes them`},
		"all ports":     {[]traffic.ReturnPath{mark, onPort}, labSettings, `return_paths[1] "p": no flow is left for it: "m" takes them`},
		"rest":          {[]traffic.ReturnPath{onPort, mark}, labSettings, ""},
		"two": {
			[]traffic.ReturnPath{{Name: "x"}, {Name: "y", Device: "eth0"}},
			labSettings,
			"return_paths[0] \"x\": device is missing\nreturn_paths[1] \"y\": match \"\" is unknown: write address or mark",
		},
	} {
		t.Run(name, func(t *testing.T) {
			var got string
			if _, err := BuildReturns(test.paths, test.settings); err != nil {
				got = err.Error()
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("error (-want +got):\n%s", diff)
			}
		})
	}
}

func TestAllReturnPathsStayWithinWhatIsOurs(t *testing.T) {
	var paths []traffic.ReturnPath
	for i := range ReturnsMax {
		paths = append(paths, traffic.ReturnPath{Name: fmt.Sprintf("p%d", i), Device: fmt.Sprintf("tun%d", i), Match: traffic.MatchMark})
	}
	r, err := BuildReturns(paths, labSettings)
	if err != nil {
		t.Fatal(err)
	}
	marks := map[uint32]bool{}
	for _, rule := range r.rules {
		if rule.priority < 5200 || rule.priority > 5219 || rule.table < 5300 || rule.table > 5315 {
			t.Errorf("rule %q is outside of ours", rule.command("add"))
		}
		if rule.mark&^rule.mask != 0 || rule.mask != labSettings.ClassMask() {
			t.Errorf("rule %q looks at marks of others", rule.command("add"))
		}
		marks[rule.mark] = true
	}
	if len(marks) != ReturnsMax {
		t.Errorf("%d marks for %d paths", len(marks), ReturnsMax)
	}
}

// TestStepsBetweenReturnsLoseNoReply walks the steps and asks, after each, where
// a reply from an address goes.
func TestStepsBetweenReturnsLoseNoReply(t *testing.T) {
	a, b := byAddress()[0], byAddress()[0]
	b.Name, b.Address, b.Via = "other", addr("10.0.0.201"), addr("10.0.0.2")
	moved := a
	moved.Via = addr("10.0.0.3")
	for name, test := range map[string]struct {
		before, after []traffic.ReturnPath
		// may lists where replies of each address may go on the way.
		mayA, mayB string
	}{
		"swapped":         {[]traffic.ReturnPath{a, b}, []traffic.ReturnPath{b, a}, "10.0.0.1 blackhole", "10.0.0.2 blackhole"},
		"first goes":      {[]traffic.ReturnPath{a, b}, []traffic.ReturnPath{b}, "10.0.0.1 blackhole main", "10.0.0.2 blackhole"},
		"last goes":       {[]traffic.ReturnPath{a, b}, []traffic.ReturnPath{a}, "10.0.0.1", "10.0.0.2 main"},
		"one comes":       {[]traffic.ReturnPath{a}, []traffic.ReturnPath{a, b}, "10.0.0.1", "main 10.0.0.2"},
		"comes first":     {[]traffic.ReturnPath{a}, []traffic.ReturnPath{b, a}, "10.0.0.1 blackhole", "main blackhole 10.0.0.2"},
		"another router":  {[]traffic.ReturnPath{a}, []traffic.ReturnPath{moved}, "10.0.0.1 10.0.0.3", "main"},
		"all comes":       {nil, []traffic.ReturnPath{a, b}, "main 10.0.0.1", "main 10.0.0.2"},
		"all goes":        {[]traffic.ReturnPath{a, b}, nil, "10.0.0.1 main", "10.0.0.2 main"},
		"nothing changes": {[]traffic.ReturnPath{a, b}, []traffic.ReturnPath{a, b}, "10.0.0.1", "10.0.0.2"},
	} {
		t.Run(name, func(t *testing.T) {
			before, err := BuildReturns(test.before, labSettings)
			if err != nil {
				t.Fatal(err)
			}
			after, err := BuildReturns(test.after, labSettings)
			if err != nil {
				t.Fatal(err)
			}
			k := newPaperKernel(before)
			k.take(after.changes(k.state()), func() {
				if way := k.way(a.Address); !strings.Contains(" "+test.mayA+" ", " "+way+" ") {
					t.Errorf("a reply from %s went by %q", a.Address, way)
				}
				if way := k.way(b.Address); !strings.Contains(" "+test.mayB+" ", " "+way+" ") {
					t.Errorf("a reply from %s went by %q", b.Address, way)
				}
			})
			if left := after.changes(k.state()).lines(); len(left) > 0 {
				t.Errorf("left to do: %q", left)
			}
		})
	}
}

// paperKernel is a kernel's rules and routes on paper.
type paperKernel struct {
	rules  map[ipRule]bool
	routes map[ipRoute]bool
}

func newPaperKernel(r Returns) paperKernel {
	k := paperKernel{rules: map[ipRule]bool{}, routes: map[ipRoute]bool{}}
	for _, rule := range r.rules {
		k.rules[rule] = true
	}
	for _, route := range r.routes {
		k.routes[route] = true
	}
	return k
}

func (k paperKernel) state() returnState {
	var s returnState
	for rule := range k.rules {
		s.rules = append(s.rules, kernelRule{ipRule: rule})
	}
	for route := range k.routes {
		s.routes = append(s.routes, kernelRoute{ipRoute: route, dst: netip.PrefixFrom(netip.IPv4Unspecified(), 0)})
	}
	return s
}

// take does what bringReturns does, on paper, and looks after each step.
func (k paperKernel) take(c returnChanges, look func()) {
	put := func(routes []routePut) {
		for _, p := range routes {
			if p.old != nil {
				delete(k.routes, p.old.ipRoute)
			}
			k.routes[p.ipRoute] = true
			look()
		}
	}
	for _, r := range c.park {
		delete(k.routes, r.ipRoute)
		look()
	}
	put(c.putRoutes)
	for _, r := range c.putRules {
		k.rules[r] = true
		look()
	}
	for _, r := range c.dropRules {
		delete(k.rules, r.ipRule)
		look()
	}
	put(c.latePut)
	for _, r := range c.dropRoutes {
		delete(k.routes, r.ipRoute)
		look()
	}
	look()
}

// way says where a reply from the address goes.
func (k paperKernel) way(from netip.Addr) string {
	rules := sortedSet(k.keys(), compareRules)
	for _, rule := range rules {
		if rule.from != from {
			continue
		}
		way := ""
		metric := metricBlackhole + 1
		for route := range k.routes {
			if route.table == rule.table && route.metric < metric {
				metric, way = route.metric, route.via.String()
				if route.blackhole {
					way = "blackhole"
				}
			}
		}
		if way != "" {
			return way
		}
	}
	return "main"
}

func (k paperKernel) keys() []ipRule {
	var rules []ipRule
	for rule := range k.rules {
		rules = append(rules, rule)
	}
	return rules
}

func TestTheLastKnownLinkLayerAddressStaysWhileTheRouterIsSilent(t *testing.T) {
	r, err := BuildReturns(byMark()[:1], labSettings)
	if err != nil {
		t.Fatal(err)
	}
	set := r.sets()[0]
	old, stranger := neighbour{address: "\x02old..", router: "10.0.0.1"}, neighbour{address: "\x02else.", router: "10.0.0.9"}
	current := neighbour{address: "\x02new..", router: "10.0.0.1"}
	for name, test := range map[string]struct {
		known neighbours
		has   []neighbour
		want  []neighbour
	}{
		"known":              {neighbours{set.name: []byte(current.address)}, []neighbour{old, stranger}, []neighbour{current}},
		"silent":             {nil, []neighbour{old}, []neighbour{old}},
		"another's, silent":  {nil, []neighbour{stranger}, []neighbour{}},
		"never heard of yet": {nil, nil, nil},
	} {
		t.Run(name, func(t *testing.T) {
			if got := test.known.want(set, test.has); !slices.Equal(got, test.want) {
				t.Errorf("want() = %q, want %q", got, test.want)
			}
		})
	}
}
