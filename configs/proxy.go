package configs

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/splitd/splitd/traffic"
)

// defaultProxy is what a split has where its file says nothing.
func defaultProxy() traffic.Proxy {
	return traffic.Proxy{
		ConnectTimeout: 500 * time.Millisecond,
		Fallback:       traffic.FallbackPrimary,
		IdleTimeout:    time.Hour,
		DrainTimeout:   30 * time.Second,
		PeerTimeout:    5 * time.Minute,
	}
}

// flowsMost bounds limits of flows: more than a process may have files.
const flowsMost = 1 << 30

// readProxy reads what mode proxy alone uses.
func (d *draft) readProxy(t *table) {
	t.inside("proxy", func(t *table) {
		p := &d.split.Proxy
		t.duration("connect_timeout", &p.ConnectTimeout)
		t.duration("idle_timeout", &p.IdleTimeout)
		t.duration("drain_timeout", &p.DrainTimeout)
		t.duration("half_closed_timeout", &p.HalfClosedTimeout)
		t.duration("first_byte_timeout", &p.FirstByteTimeout)
		t.duration("peer_timeout", &p.PeerTimeout)
		t.limit("max_flows", &p.MaxFlows)
		t.limit("max_client_flows", &p.MaxClientFlows)
		if v, ok := t.take("fallback"); ok {
			if word, ok := oneOf(v, []traffic.Fallback{traffic.FallbackPrimary, traffic.FallbackNone}, nil); ok {
				p.Fallback = word
			}
		}
		if v, ok := t.take("splice"); ok {
			if on, ok := v.boolean(); ok {
				p.NoSplice = !on
			}
		}
		d.readSendProxy(t)
		d.readAcceptProxy(t)
		d.readTransparent(t)
		if d.split.Mode == traffic.ModeKernel {
			unusedInKernel(t.given)
			return
		}
		for key, v := range t.given {
			if slices.Contains(ofStreams, key) && d.whole && !d.uses(traffic.TCP) {
				v.note("unused: the service has no tcp port")
			}
		}
	})
}

// unusedInKernel notes the keys of proxy where the kernel splits: in one line at
// the first of them, which names the others.
func unusedInKernel(given map[string]value) {
	if len(given) == 0 {
		return
	}
	keys := slices.SortedFunc(maps.Keys(given), func(a, b string) int {
		return cmp.Or(cmp.Compare(given[a].line, given[b].line), cmp.Compare(given[a].column, given[b].column))
	})
	others := ""
	if len(keys) > 1 {
		others = ", and so are " + strings.Join(keys[1:], ", ")
	}
	given[keys[0]].note("unused in mode %s%s", traffic.ModeKernel, others)
}

// ofStreams are the keys that flows of TCP alone have a use for.
var ofStreams = []string{"idle_timeout", "half_closed_timeout", "peer_timeout", "splice"}

// noSendProxy is what a file says for no PROXY header.
const noSendProxy traffic.SendProxy = "none"

// readSendProxy reads how backends are told whose a flow is. Which plane serves
// must be certain: a server that expects the header cannot do without, and one
// that does not takes it for the client's words.
func (d *draft) readSendProxy(t *table) {
	v, given := t.take("send_proxy")
	if !given {
		return
	}
	word, ok := oneOf(v, []traffic.SendProxy{noSendProxy, traffic.SendProxyV1, traffic.SendProxyV2}, nil)
	if !ok || word == noSendProxy {
		return
	}
	d.split.Proxy.SendProxy = word
	switch {
	case d.split.Mode == traffic.ModeAuto:
		v.refuse("mode auto may become kernel, which sends no PROXY header: set mode: proxy")
	case d.split.Mode == traffic.ModeProxy && d.usesUDP():
		v.refuse("flows of udp ports get no PROXY header: make another split of those")
	}
}

// readTransparent reads whether backends see the clients' addresses.
func (d *draft) readTransparent(t *table) {
	v, given := t.take("transparent")
	if !given {
		return
	}
	on, ok := v.boolean()
	if !ok || !on {
		return
	}
	d.split.Proxy.Transparent = true
	switch {
	case d.split.Mode == traffic.ModeAuto:
		v.refuse("mode auto becomes proxy only where this process lacks the capability that transparent needs: set mode: proxy, or leave it out: mode kernel keeps the client's address")
	case d.split.Mode == traffic.ModeProxy && d.usesUDP():
		v.refuse("flows of udp ports do not keep the client's address: make another split of those")
	default:
		d.transparent = v
	}
}

// judgeShown notes which clients, named by PROXY headers, backends cannot be shown:
// a connection begins and ends at addresses of one family.
func (d *draft) judgeShown() {
	if !d.split.Transparent() || !d.whole {
		return
	}
	const cure = "have the proxy connect by the client's family"
	switch by4, by6 := d.split.ProxyFamilies(); {
	case by4 && by6:
		d.transparent.note("a client that a PROXY header names (accept_proxy) is reset where its address is of the other family than the one that the proxy connects to: %s, or use send_proxy instead", cure)
	case by4:
		d.transparent.note("%s", shownTo("IPv6", "IPv4", cure))
	case by6:
		d.transparent.note("%s", shownTo("IPv4", "IPv6", cure))
	}
}

func shownTo(client, proxy, cure string) string {
	return fmt.Sprintf("every %s client that a PROXY header names (accept_proxy) is reset: the proxies connect by %s alone, and backends cannot be shown an address of the other family: "+
		"give the service %s addresses and accept_proxy %s networks and %s, or use send_proxy instead", client, proxy, client, client, cure)
}

// readAcceptProxy reads whose connections begin with a PROXY header. Which plane
// serves must be certain here too: to the kernel all clients of a proxy are one,
// and their servers get its headers.
func (d *draft) readAcceptProxy(t *table) {
	v, given := t.take("accept_proxy")
	if !given {
		return
	}
	var members []member
	eachOrNone(v, networksMax, func(item value) bool {
		network, ok := parsed(item, parseNetwork)
		if !ok {
			return false
		}
		members = append(members, member{network: network, at: item.spot})
		if network.Bits() == 0 {
			item.note("anybody may claim to be any client: name the networks of your proxies alone")
		}
		return true
	})
	overlaps(members, func(later, first member) {
		if later.network == first.network {
			later.at.refuse("%s is there already: %s", later.network, first.at)
			return
		}
		later.at.refuse("%s overlaps %s: %s", later.network, first.network, first.at)
	})
	for _, m := range members {
		d.split.Proxy.AcceptProxy = append(d.split.Proxy.AcceptProxy, m.network)
	}
	switch {
	case len(members) == 0:
	case d.split.Mode == traffic.ModeAuto:
		v.refuse("mode auto may become kernel, which reads no PROXY header: set mode: proxy")
	case d.split.Mode == traffic.ModeProxy && d.usesUDP():
		v.refuse("flows of udp ports begin with no PROXY header: make another split of those")
	}
}

// limit reads a number of flows.
func (t *table) limit(key string, target *int) {
	if v, ok := t.take(key); ok {
		if n, ok := v.number(flowsMost, "a number of flows, or 0 for no limit"); ok {
			*target = n
		}
	}
}
