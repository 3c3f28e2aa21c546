package doctor

import "fmt"

// judgeOtherFamily: the relay's own connection begins at the client's address, which
// is of the family that the proxy's connection came by, or cannot be shown. The relay
// resets such a client.
func judgeOtherFamily(e *examination) {
	for _, s := range e.Relayed {
		by4, by6 := s.ProxyFamilies()
		const byClient = "have the proxies connect by the client's family, or set"
		switch {
		case by4 && by6:
			e.add(Finding{
				Level: LevelNote,
				Seen:  seen("split %q is transparent: a client that a PROXY header names is reset where its address is of the other family than the one that the proxy connected to", s.Name),
				Why:   "backends cannot be shown an address of the other family", Do: byClient, Cure: "proxy: {transparent: false, send_proxy: v2}",
			})
		case by4:
			e.add(onlyBy(s.Name, "IPv4", "IPv6", byClient))
		case by6:
			e.add(onlyBy(s.Name, "IPv6", "IPv4", byClient))
		}
	}
}

func onlyBy(split, proxy, client, byClient string) Finding {
	return Finding{
		Level: LevelWarning,
		Seen:  seen("split %q is transparent and its proxies (accept_proxy) connect by %s alone: every %s client that a PROXY header names is reset", split, proxy, client),
		Why:   "backends cannot be shown an address of the other family",
		Do:    fmt.Sprintf("give the service %s addresses and accept_proxy %s networks and %s", client, client, byClient),
		Cure:  "proxy: {transparent: false, send_proxy: v2}",
	}
}

// judgeRelayReplies: a reply to a transparent relay gets a mark by which this
// host takes every address for its own. Where the device looks the sender up by
// that mark too, the sender is this host itself, and the reply a martian, whatever
// rp_filter says (__fib_validate_source in net/ipv4/fib_frontend.c).
func judgeRelayReplies(e *examination) {
	told := map[string]bool{}
	for _, w := range e.legs {
		device := e.Ways[w.to.IP].Device
		if !w.to.IP.Is4() || device == "" || told[device] || !e.looksUpByMark(device) {
			continue
		}
		told[device] = true
		e.add(Finding{
			Level: LevelError,
			Seen:  seen("split %q is transparent and src_valid_mark is on: the kernel drops what backend %q (%s) answers by %s", w.split.Name, w.backend, w.to.IP, device),
			Why:   "the relay's connections there time out; WireGuard's wg-quick turns it on, for a default route through a tunnel and strict rp_filter",
			Cure:  "sysctl -w " + dotted(confAll+"src_valid_mark") + "=0 " + dotted(conf4(device, "src_valid_mark")) + "=0",
		})
	}
}

// looksUpByMark says whether either setting is on, which is enough
// (IN_DEV_SRC_VMARK, include/linux/inetdevice.h).
func (h Host) looksUpByMark(device string) bool {
	return h.sysctl(confAll+"src_valid_mark") == 1 || h.sysctl(conf4(device, "src_valid_mark")) == 1
}
