package doctor

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/splitd/splitd/netfilter"
	"github.com/splitd/splitd/traffic"
)

func judgeForeignTranslation(e *examination) {
	for _, s := range e.Splits {
		for _, a := range s.Service.Addresses {
			for _, port := range s.Service.Ports {
				for _, table := range e.Tables {
					e.judgeTranslation(table, hookPrerouting, s.Name, packet{to: a, port: port, in: e.clients(a).Device})
					if s.LocalClients {
						e.judgeTranslation(table, hookOutput, s.Name, packet{to: a, port: port})
					}
				}
			}
		}
	}
}

func (e *examination) judgeTranslation(table Table, hook, split string, p packet) {
	for _, c := range table.chains {
		if c.kind != kindNAT || c.hook != hook || c.priority > netfilter.PrioritySplit {
			continue
		}
		walk := table.walk(c, p)
		if walk.translated == no {
			continue
		}
		verb := "takes"
		if walk.translated == maybe {
			verb = "may take"
		}
		e.add(Finding{
			Level: LevelWarning,
			Seen:  seen("split %q: another program's rule %s %s . %s . %s before splitd sees it", split, verb, p.to, p.port.Transport, strings.TrimSuffix(p.port.String(), "/"+string(p.port.Transport))),
			Why:   seen("of several translations the first wins, and chain %s of table %s %s is hooked at %d, ours at %d", c.name, table.family, table.name, c.priority, netfilter.PrioritySplit),
			If:    "if it is not meant,", Cure: seen("nft delete rule %s %s %s handle %d", table.family, table.name, walk.by.chain, walk.by.handle),
		})
	}
}

// judgeForeignDrop warns once for each chain: its cure is for all flows.
func judgeForeignDrop(e *examination) {
	for _, table := range e.Tables {
		for _, c := range table.chains {
			if c.hook != hookForward {
				continue
			}
			dropped := map[string]bool{}
			var w forward
			for _, way := range e.ways {
				if dropped[way.split.Name] || !table.walk(c, e.forwarded(way)).drops(c) {
					continue
				}
				if len(dropped) == 0 {
					w = way
				}
				dropped[way.split.Name] = true
			}
			if len(dropped) == 0 {
				continue
			}
			e.add(Finding{
				Level: LevelWarning,
				Seen:  seen("split %q%s: chain %s of table %s %s drops what this host forwards, flows to %s too", w.split.Name, more(len(dropped)), c.name, table.family, table.name, w.to.IP),
				Why:   "an accept in a table of ours does not help: a drop is final, and the share of remote backends times out",
				Cure:  table.letThrough(c, w),
			})
		}
	}
}

// forwarded is the way's first packet, translated, as the forward hook sees it.
func (h Host) forwarded(w forward) packet {
	return packet{
		to: w.to.IP, port: traffic.Port{Number: w.to.Port, Transport: w.port.Transport},
		in: h.clients(w.to.IP).Device, out: h.Ways[w.to.IP].Device, translated: true,
	}
}

// letThrough is the command that lets translated flows pass the chain, in the
// words of the program that owns it.
func (t Table) letThrough(c baseChain, w forward) string {
	tool := map[string]string{"ip": "iptables", "ip6": "ip6tables"}[t.family]
	const translated = " -m conntrack --ctstate DNAT -j ACCEPT"
	_, docker := t.rules["DOCKER-USER"]
	_, ufw := t.rules["ufw-user-forward"]
	_, ufw6 := t.rules["ufw6-user-forward"]
	switch {
	case t.name == "firewalld":
		return firewalldPolicy(w)
	case tool == "" || t.name != "filter" || c.name != "FORWARD":
		return "nft insert rule " + t.family + " " + t.name + " " + c.name + " ct status dnat accept"
	case docker: // what Docker leaves alone
		return tool + " -I DOCKER-USER" + translated
	case ufw || ufw6: // what a reload of ufw keeps
		return fmt.Sprintf("ufw route allow proto %s to %s port %d", w.port.Transport, w.to.IP, w.to.Port)
	}
	return tool + " -I FORWARD" + translated
}

// firewalldPolicy asks firewalld: it owns its table, and no other program can
// add a rule to it.
func firewalldPolicy(w forward) string {
	family := "ipv4"
	if w.to.IP.Is6() {
		family = "ipv6"
	}
	const policy = "firewall-cmd --permanent --policy splitd"
	return strings.Join([]string{
		"firewall-cmd --permanent --new-policy splitd",
		policy + " --add-ingress-zone ANY",
		policy + " --add-egress-zone ANY",
		fmt.Sprintf(`%s --add-rich-rule 'rule family="%s" destination address="%s" port port="%d" protocol="%s" accept'`, policy, family, whole(w.to.IP), w.to.Port, w.port.Transport),
		"firewall-cmd --reload",
	}, " && ")
}

// inputShown bounds how many rules of a chain a finding names.
const inputShown = 5

// judgeInput notes once for each chain: a flow that stays here passes the
// host's INPUT rules, one that is sent on does not.
func judgeInput(e *examination) {
	for _, table := range e.Tables {
		for _, c := range table.chains {
			if c.hook == hookInput {
				e.judgeInputChain(table, c)
			}
		}
	}
}

func (e *examination) judgeInputChain(table Table, c baseChain) {
	told := map[string]bool{}
	var texts []string
	for _, w := range e.ways {
		if !w.split.StaysHere(w.split.Primary, w.service, w.port.Number) {
			continue
		}
		way := packet{to: w.service, port: w.port, in: e.clients(w.service).Device}
		for _, h := range table.walk(c, way).hindrances {
			text := table.ruleText(h)
			if !told[text] {
				told[text] = true
				texts = append(texts, text)
			}
		}
	}
	if len(texts) == 0 {
		return
	}
	all := len(texts)
	shown := strings.Join(texts[:min(all, inputShown)], "; ")
	if all > inputShown {
		shown += seen("; and %d more", all-inputShown)
	}
	i := slices.IndexFunc(e.ways, func(w forward) bool { return w.split.StaysHere(w.split.Primary, w.service, w.port.Number) })
	e.add(Finding{
		Level: LevelNote,
		Seen: seen("split %q: the candidates' share skips %d rules that drop or limit in chain %s of table %s %s (policy %s): %s",
			e.ways[i].split.Name, all, c.name, table.family, table.name, c.policy(), shown),
		Why: "input rules protect what stays on this host; what is sent on passes forward rules instead",
		Do:  "have the same on the new host; see", Cure: seen("nft list chain %s %s %s", table.family, table.name, c.name),
	})
}

func (c baseChain) policy() string {
	if c.drops {
		return "drop"
	}
	return "accept"
}

// judgeTaken looks at the tables and priorities that are to be ours: those of
// return paths, and on a router those by which a relay gets its sample.
func judgeTaken(e *examination) {
	if !e.hasRoutes() {
		return
	}
	e.judgeTakenRules()
	first := e.Settings.RouteTable
	for _, r := range e.Taken {
		if r.Table < first || r.Table >= first+netfilter.RouteTables {
			continue
		}
		f := Finding{
			Level: LevelWarning, Seen: seen("another program has a route in table %d, which is splitd's: %s", r.Table, r.Text),
			Why: "replies of a return path, or flows that a relay is to get, may follow it",
			Do:  "set", Cure: seen("netfilter: {route_table: %d}", e.freeTables()),
		}
		if i := r.Table - first; r.Default && i < len(e.Paths) {
			f.Level = LevelError
			f.Seen = seen("return path %q: another program has the default route in table %d: %s", e.Paths[i].Name, r.Table, r.Text)
		} else if r.Default && e.hasRelay() && i == netfilter.ReturnsMax {
			f.Level = LevelError
			f.Seen = seen("what relays take: another program has the default route in table %d: %s", r.Table, r.Text)
		}
		e.add(f)
	}
}

// judgeTakenRules warns of other programs' rules at our priorities or into our
// tables.
func (e *examination) judgeTakenRules() {
	for _, r := range e.Rules {
		if r.Ours || !r.in(e.Settings) {
			continue
		}
		e.add(Finding{
			Level: LevelWarning, Seen: seen("another program's rule has a priority or a table that is splitd's: %s", r.Text),
			Why: "packets that it takes miss a return path or a relay, or get what they should not",
			Do:  "set", Cure: seen("netfilter: {route_table: %d, rule_priority: %d}", e.freeTables(), e.freePriorities()),
		})
	}
}

// freePriorities is the first of as many rule priorities as we need that no
// foreign rule has.
func (e *examination) freePriorities() int {
	first := e.Settings.RulePriority
	for slices.ContainsFunc(e.Rules, func(r Rule) bool {
		return !r.Ours && r.Priority >= first && r.Priority < first+rulePriorities
	}) {
		first += rulePriorities
	}
	return first
}

// freeTables is the first of as many route tables as we need that no foreign
// route or rule names.
func (e *examination) freeTables() int {
	free := func(first int) bool {
		in := func(table int) bool { return table >= first && table < first+netfilter.RouteTables }
		return !slices.ContainsFunc(e.Taken, func(r TakenRoute) bool { return in(r.Table) }) &&
			!slices.ContainsFunc(e.Rules, func(r Rule) bool { return !r.Ours && in(r.Table) })
	}
	first := e.Settings.RouteTable
	for !free(first) {
		first += netfilter.RouteTables
	}
	return first
}

func dotted(sysctl string) string { return strings.ReplaceAll(sysctl, "/", ".") }

func sortedKeys[V any](m map[string]V) []string {
	return slices.Sorted(maps.Keys(m))
}

func addrOf(ip []byte) netip.Addr {
	a, _ := netip.AddrFromSlice(ip)
	return a.Unmap()
}
