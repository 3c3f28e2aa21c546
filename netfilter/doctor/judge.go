package doctor

import (
	"fmt"
	"net/netip"

	"github.com/splitd/splitd/traffic"
)

// A row is one thing that is looked at. Its id is what scripts know it by.
type row struct {
	id    string
	about string
	where Where
	// start says that it is also looked at before a start or a change.
	start bool
	// reads is what of the host it cannot be judged well without.
	reads part
	judge func(*examination)
}

// A part is one of a host that one may not be allowed to look at, or several.
type part uint8

const (
	ofRules   part = 1 << iota // of nftables, ours and others'
	ofFiles                    // of /etc
	ofTunnels                  // what devices are tunnels, and to where
)

// rows lists all that is looked at, what keeps flows from passing first.
func rows() []row {
	return []row{
		{"unread", "what this host lets us look at", OnBoth, false, 0, judgeUnread},
		{"kernel-features", "what of nf_tables this kernel has", OnBoth, false, ofRules, judgeFeatures},
		{"forwarding-off", "ip_forward and IPv6 forwarding", OnRouter, true, 0, judgeForwarding},
		{"family-gap", "backends for each family of the service", OnRouter, false, 0, judgeFamilies},
		{"other-family", "clients whose address backends cannot be shown", OnRouter, false, 0, judgeOtherFamily},
		{"loopback-service", "services on loopback addresses", OnRouter, false, 0, judgeLoopback},
		{"service-elsewhere", "service addresses on this host", OnRouter, true, 0, judgeServices},
		{"backend-no-route", "routes to backends", OnRouter, true, 0, judgeBackendRoutes},
		{"backend-silent", "backends that answer", OnRouter, true, 0, judgeSilent},
		{"way-back", "replies of backends through this host", OnRouter, true, 0, judgeWayBack},
		{"first-dnat-wins", "other programs' translations before ours", OnRouter, true, ofRules, judgeForeignTranslation},
		{"forward-drop", "chains that drop what is forwarded", OnRouter, true, ofRules, judgeForeignDrop},
		{"iptables-legacy", "rules that nf_tables does not show", OnBoth, false, 0, judgeLegacy},
		{"input-skipped", "what protects a local primary and not the candidates", OnRouter, true, ofRules, judgeInput},
		{"rp-filter-router", "reverse path filtering towards backends", OnRouter, true, 0, judgeStrictRouter},
		{"relay-replies", "replies to transparent relays", OnRouter, true, 0, judgeRelayReplies},
		{"rp-filter-new-host", "reverse path filtering where marked flows come in", OnNewHost, true, 0, judgeStrictNewHost},
		{"return-path-device", "devices of return paths", OnNewHost, true, 0, judgePathDevices},
		{"return-path-via", "routers of return paths on links with neighbours", OnNewHost, true, 0, judgePathVias},
		{"return-path-address", "addresses of return paths", OnNewHost, true, 0, judgePathAddresses},
		{"no-route-to-clients", "a route to clients for flows that come in by mark", OnNewHost, true, 0, judgeClientRoute},
		{"wildcard-udp", "UDP servers that answer from another address", OnNewHost, false, 0, judgeWildcardUDP},
		{"shared-alias", "return path addresses that serve direct clients too", OnNewHost, false, 0, judgeAlias},
		{"tunnel-loop", "marks that lead a tunnel's outer packets into it", OnBoth, false, ofTunnels, judgeLoops},
		{"route-table-taken", "other programs in our route tables and priorities", OnNewHost, true, 0, judgeTaken},
		{"mark-collision", "other programs that use our mark bits", OnBoth, true, ofRules, judgeMarks},
		{"mirror-target", "where copies of flows are sent", OnRouter, false, 0, judgeMirror},
		{"shadow-certificates", "certificates by which shadows see into TLS", OnRouter, false, 0, judgeCertificates},
		{"shadow-encrypted", "what shadows cannot see because it is encrypted", OnRouter, false, 0, judgeEncrypted},
		{"path-mtu", "the size of packets on the way to backends", OnRouter, false, 0, judgeMTU},
		{"hairpin", "clients and backends on one link", OnRouter, false, 0, judgeHairpin},
		{"router-advertisements", "IPv6 router advertisements on a host that forwards", OnRouter, false, 0, judgeAdvertisements},
		{"conntrack-begins", "connection tracking at work", OnBoth, true, ofRules, judgeTracking},
		{"conntrack-full", "room for flows in connection tracking", OnBoth, false, 0, judgeRoom},
		{"conntrack-accounting", "bytes per flow (nf_conntrack_acct)", OnRouter, false, 0, judgeAccounting},
		{"conntrack-loose", "flows that are picked up in the middle (nf_conntrack_tcp_loose)", OnRouter, false, 0, judgeLoose},
		{"saved-ruleset", "rulesets saved with our tables inside", OnBoth, false, ofFiles, judgeSaved},
		{"ruleset-reload", "ruleset files whose reload removes our tables", OnBoth, false, ofRules | ofFiles, judgeReload},
		{"nft-listing", "an nft program that can list our tables", OnBoth, false, ofRules, judgeNft},
		{"networkd-rules", "systemd-networkd and other programs' rules", OnNewHost, false, ofFiles, judgeNetworkd},
	}
}

// examination is one look as it is judged.
type examination struct {
	Host
	Question
	ways  []forward
	legs  []forward // in which a transparent relay's own flows leave
	found []Finding
}

// forward is one way in which flows of a split leave this host for another.
type forward struct {
	split   *traffic.Split
	backend string
	service netip.Addr
	port    traffic.Port
	to      traffic.Address // with the port filled in
}

// Judge says what of the host stands in the way of what it is asked to carry.
// Every row yields at least one finding; it is LevelOK where nothing was found.
// A row that could not be judged yields none: the row "unread" names it.
func Judge(host Host, question Question) []Finding {
	var all []Finding
	e := host.examination(question)
	for _, r := range rows() {
		found := e.judge(r)
		if len(found) == 0 && r.reads&host.lacking() == 0 {
			found = []Finding{{ID: r.id, Level: LevelOK, Where: r.where, Seen: r.about}}
		}
		all = append(all, found...)
	}
	return all
}

// judgeStart judges the rows that matter before a change, and yields only what
// was found.
func judgeStart(host Host, question Question) []Finding {
	var all []Finding
	e := host.examination(question)
	for _, r := range rows() {
		if r.start {
			all = append(all, e.judge(r)...)
		}
	}
	return all
}

func (h Host) examination(question Question) *examination {
	return &examination{Host: h, Question: question, ways: forwards(question.Splits, h.Here), legs: forwards(question.Relayed, h.Here)}
}

// judge returns what a row finds.
func (e *examination) judge(r row) []Finding {
	e.found = nil
	r.judge(e)
	for i := range e.found {
		e.found[i].ID, e.found[i].Where = r.id, r.where
	}
	return e.found
}

func (e *examination) add(f Finding) { e.found = append(e.found, f) }

func seen(format string, args ...any) string { return fmt.Sprintf(format, args...) }

// forwards lists the ways to other hosts. A weight of zero counts: it may be
// raised at any time.
func forwards(splits []traffic.Split, here map[netip.Addr]bool) []forward {
	var ways []forward
	for i := range splits {
		s := &splits[i]
		for _, b := range s.Backends() {
			for _, service := range s.Service.Addresses {
				for _, port := range s.Service.Ports {
					for _, to := range b.Addresses {
						if b.Local || to.IP.Is4() != service.Is4() || here[to.IP] || to.IP == service {
							continue
						}
						if to.Port == 0 {
							to.Port = port.Number
						}
						ways = append(ways, forward{split: s, backend: b.Name, service: service, port: port, to: to})
					}
				}
			}
		}
	}
	return ways
}

// more says how many there are beside the first, "" for none.
func more(all int) string {
	if all < 2 {
		return ""
	}
	return fmt.Sprintf(" (and %d more)", all-1)
}
