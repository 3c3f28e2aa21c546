package configs

import (
	"net/netip"
	"slices"
	"time"

	"github.com/splitd/splitd/traffic"
)

// The bounds of udp_timeout.
const (
	udpTimeoutMin = time.Second
	udpTimeoutMax = 24 * time.Hour
)

// mirrorDraft is where the parts of a mirror stand.
type mirrorDraft struct{ at, to spot }

// readUDP reads what only UDP has.
func (d *draft) readUDP(t *table) {
	if v, ok := t.take("udp_timeout"); ok {
		d.readUDPTimeout(v)
	}
	t.inside("mirror", d.readMirror)
}

func (d *draft) readUDPTimeout(v value) {
	limit, ok := v.duration()
	switch {
	case !ok || limit == 0:
		return
	case limit < udpTimeoutMin || limit > udpTimeoutMax || limit%time.Second != 0:
		v.refuse("%s is not in whole seconds from 1s to 24h; 0s leaves it to the host", limit)
		return
	case d.whole && !d.usesUDP():
		v.note("unused: the service has no udp port")
	}
	d.split.UDPTimeout = limit
}

func (d *draft) readMirror(t *table) {
	to, given := t.take("to")
	sample, sampled := t.take("sample")
	d.mirror = mirrorDraft{at: t.spot, to: to.spot}
	if sampled {
		d.split.Mirror.Sample, _ = sample.weight()
	}
	if !given || to.node.Value == "" && !to.refused() {
		if d.split.Mirror.Sample > 0 {
			_, _ = t.need("to", "the address of the collector")
		}
		d.split.Mirror = traffic.Mirror{}
		return
	}
	ip, ok := parsed(to, parseSource)
	if ok && !sampled {
		_, _ = t.need("sample", "the share of the flows to copy, such as 1%")
	}
	d.split.Mirror.To = ip
}

// judgeMirror refuses a collector that would be no bystander, or get nothing.
func (d *draft) judgeMirror() {
	to := d.split.Mirror.To
	if !to.IsValid() || !d.whole {
		return
	}
	if !d.usesUDP() {
		d.mirror.at.refuse("the service has no udp port, and a mirror copies nothing else")
	}
	service := d.split.Service.Addresses
	if slices.Contains(service, to) {
		d.mirror.to.refuse("%s is the service's own address: the copies would be split too", to)
	}
	for i, ip := range service {
		if ip.Is4() != to.Is4() {
			d.mirror.to.note("flows to %s (%s) are not copied: %s is an %s address", ip, d.addresses[i], to, family(to))
		}
	}
	if !slices.ContainsFunc(service, func(ip netip.Addr) bool { return ip.Is4() == to.Is4() }) {
		d.mirror.to.refuse("the service has no %s address whose flows could be copied", family(to))
	}
	for _, b := range d.backends {
		for _, a := range b.backend.Addresses {
			if a.IP == to {
				d.mirror.to.refuse("%s is where backend %q is (%s): copies would mix with its own flows and ruin them; name a host that only collects",
					to, b.backend.Name, b.at)
			}
		}
	}
}
