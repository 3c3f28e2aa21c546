package doctor

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
