package configs

import (
	"cmp"
	"slices"
	"strings"

	"github.com/splitd/splitd/shadow"
	"github.com/splitd/splitd/shadow/http1"
	"github.com/splitd/splitd/shadow/raw"
	"github.com/splitd/splitd/shadow/smtp"
	"github.com/splitd/splitd/traffic"
)

// judgeShadow refuses what would be shadowed to nobody, or otherwise than the file
// says, and completes the shadow with what follows from the rest of the split.
func (d *draft) judgeShadow() {
	d.judgeTo()
	d.judgeProtocol()
	d.judgeToken()
	d.judgeIdentity()
	d.judgeControl()
	d.judgeIgnore()
	d.judgeAllow()
	d.judgeTLS()
	d.judgeDefaultCheck()
	d.split.Shadow = fitted(d.split)
	d.judgeSample()
}

// unused notes a key of shadow that does something by itself, where it is given.
func (d *draft) unused(key string, does bool, why string) {
	if v, given := d.shadow.given[key]; given && does {
		v.note("unused %s", why)
	}
}

// judgeTo wants a candidate.
func (d *draft) judgeTo() {
	v, given := d.shadow.given["to"]
	to := d.split.Shadow.To
	if !given || to == "" || !d.candidates {
		return
	}
	if _, known := d.split.Candidate(to); known {
		return
	}
	var known []string
	for _, c := range d.split.Candidates {
		known = append(known, c.Name)
	}
	if to == d.split.Primary.Name {
		v.refuse("%q is the primary, whose flows are shadowed: name one of %s", to, names(known))
		return
	}
	v.refuse("%q is not a candidate of this split: name one of %s", to, names(known))
}

// judgeProtocol looks at the keys that say what a candidate may get. Of another
// protocol that has a rule of its own they are without effect. Raw has none: who
// writes one down would believe that it is kept, and everything would be sent.
func (d *draft) judgeProtocol() {
	s := d.split.Shadow
	rules := []struct {
		key, protocol string
		says          bool // more than the default
	}{
		{"mode", protocolSMTP, s.Mode != "" && (s.Mode != string(smtp.Envelope) || d.split.Sample > 0)},
		{"sink_token", protocolSMTP, s.SinkToken != ""},
		{"allow", protocolHTTP, len(s.Allow) > 0},
		{"loop_guard", protocolHTTP, s.LoopGuard != ""},
		{"primary_hosts", protocolHTTP, len(s.PrimaryHosts) > 0},
		{"candidate_hosts", protocolHTTP, len(s.CandidateHosts) > 0},
	}
	for _, r := range rules {
		switch d.split.Protocol {
		case protocolUnknown, r.protocol:
		case protocolRaw:
			if v, given := d.shadow.given[r.key]; given && r.says {
				v.refuse("is a rule of protocol %s; protocol raw has none, and sends the candidate all that clients say: set protocol: %s, or remove it", r.protocol, r.protocol)
			}
		default:
			d.unused(r.key, r.says, "with protocol "+d.split.Protocol)
		}
	}
}

// judgeToken wants a sink to prove itself.
func (d *draft) judgeToken() {
	if d.split.Protocol != protocolSMTP {
		return
	}
	s := d.split.Shadow
	if s.Mode != string(smtp.Sink) {
		d.unused("sink_token", s.SinkToken != "", "with mode: "+cmp.Or(s.Mode, string(smtp.Envelope)))
		return
	}
	if err := (smtp.Options{Mode: smtp.Sink, Token: s.SinkToken}).Check(); err != nil {
		at := d.shadow.at
		at.path += ".sink_token"
		if v, given := d.shadow.given["sink_token"]; given {
			at = v.spot
		}
		at.refuse("%s", err)
	}
	if to, ok := d.split.Candidate(fitted(d.split).To); ok && (to.Weight > 0 || len(to.Clients.Always) > 0) {
		d.shadow.given["mode"].note("a sink throws mail away: see that %q does so with shadows alone, or what clients it gets by weight or groups send is lost", to.Name)
	}
}

// judgeIdentity wants a candidate to be told what it expects. With send_proxy all
// backends wait for that header on every connection, and shadows are connections of
// their own: the relay's header is no part of what clients say.
func (d *draft) judgeIdentity() {
	v, given := d.shadow.given["identity"]
	is, expected := d.split.Shadow.Identity, expectedIdentity(d.split)
	if !given || v.node.Value != string(cmp.Or(is, noIdentity)) { // or it cannot be read
		return
	}
	switch {
	case is == traffic.IdentityXCLIENT && d.split.Protocol != protocolSMTP && d.split.Protocol != protocolUnknown:
		v.refuse("xclient is a command of SMTP, and the protocol is %s: write proxy-v2 or proxy-v1 where the candidate expects such a header, else none", d.split.Protocol)
	case expected != "" && is != expected:
		v.refuse("the backends expect a PROXY header on every connection (proxy.send_proxy: %s), the candidate too: write %s, or leave it out", d.split.Proxy.SendProxy, expected)
	case expected == "" && (is == traffic.IdentityProxyV1 || is == traffic.IdentityProxyV2):
		if to, ok := d.split.Candidate(fitted(d.split).To); ok && to.Weight > 0 {
			v.note("shadows reach %q with a PROXY header, and its own flows (%s) without: most servers cannot have both at one port", to.Name, to.Weight)
		}
	}
}

// judgeControl refuses to learn what differs by itself from one who is compared, or
// from the split.
func (d *draft) judgeControl() {
	v, given := d.shadow.given["control"]
	control := d.split.Shadow.Control
	if !given || !control.Address.IP.IsValid() {
		return
	}
	d.unused("control", d.split.Protocol == protocolRaw, "with protocol raw: bytes of which nothing is known are not sent twice")
	if slices.Contains(d.split.Service.Addresses, control.Address.IP) && slices.ContainsFunc(d.controlPorts(), func(port uint16) bool { return d.portsMeet(port, 0) }) {
		v.refuse("%s is the service's own address, whose flows are split and shadowed: write primary, or where another server like it listens", control.Address.IP)
		return
	}
	meets := func(port uint16) bool {
		return slices.ContainsFunc(d.controlPorts(), func(asked uint16) bool { return d.portsMeet(asked, port) })
	}
	for _, b := range d.backends {
		for _, end := range d.ends(b.backend) {
			if b.primary || end.IP != control.Address.IP || !meets(end.Port) {
				continue
			}
			v.refuse("%s is where candidate %q is (%s): what it answers otherwise would be taken for what differs by itself, and never be reported; write primary, or where another server like it listens",
				control.Address, b.backend.Name, b.at)
			return
		}
	}
}

// controlPorts are the ports at which the control is asked: those of the primary,
// unless it has one; 0 keeps the client's.
func (d *draft) controlPorts() []uint16 {
	if port := d.split.Shadow.Control.Address.Port; port != 0 || d.split.Primary.Local {
		return []uint16{port}
	}
	var ports []uint16
	for _, a := range d.split.Primary.Addresses {
		ports = append(ports, a.Port)
	}
	return ports
}

// judgeIgnore notes rules behind which nothing would be seen, and those that excuse
// nothing.
func (d *draft) judgeIgnore() {
	if len(d.split.Shadow.Ignore) == 0 {
		return
	}
	pointless := map[string]func(shadow.Ignore) string{protocolHTTP: http1.Pointless, protocolSMTP: smtp.Pointless, protocolRaw: raw.Pointless}[d.split.Protocol]
	items, _ := d.shadow.given["ignore"].list()
	for _, item := range items {
		rule, err := shadow.ParseIgnore(item.node.Value)
		switch {
		case err != nil: // refused
		case rule.String() == "ignore *":
			item.note("excuses whatever differs: nothing will be reported")
		case pointless != nil:
			if why := pointless(rule); why != "" {
				item.note("%s", why)
			}
		}
	}
}

// judgeAllow notes what allows nothing.
func (d *draft) judgeAllow() {
	if d.split.Protocol != protocolHTTP || len(d.split.Shadow.Allow) == 0 {
		return
	}
	items, _ := d.shadow.given["allow"].list()
	for _, item := range items {
		if allow, err := http1.ParseAllow(item.node.Value); err == nil && allow.Pointless() != "" {
			item.note("%s", allow.Pointless())
		}
	}
}

// judgeSample refuses a sample of what cannot, or must not, be shadowed. Its shadow
// is complete.
func (d *draft) judgeSample() {
	if d.split.Sample == 0 {
		if len(d.shadow.given) > 0 && d.whole && !d.uses(traffic.TCP) {
			d.shadow.at.note("unused: the service has no tcp port, and shadows copy nothing else")
		}
		return
	}
	at, s := d.shadow.given["sample"], d.split.Shadow
	switch {
	case !d.whole || !d.candidates || d.split.Protocol == protocolUnknown:
		return
	case s.To == "":
		to := d.shadow.at
		to.path += ".to"
		to.refuse("missing: which of the candidates the sample is shadowed to")
		return
	}
	if _, known := d.split.Candidate(s.To); !known { // refused above
		return
	}
	if err := d.split.CheckSample(); err != nil {
		at.refuse("%s", err)
		return
	}
	if d.split.Protocol == protocolRaw {
		at.note("protocol raw sends %q all that clients say, writes too: set protocol: smtp or http where that is spoken", s.To)
	}
	if d.usesUDP() {
		at.note("flows of udp ports are not shadowed")
	}
	if d.split.PrimaryWeight() == 0 {
		at.note("the candidates have all flows (weights add up to 100%%): none is left to the primary, whose flows are shadowed")
	}
	if d.split.Transparent() && s.Identity == "" {
		at.note("shadows reach %q with this host's address, not with the client's as its own flows do (proxy.transparent): identity can tell it whose they are", s.To)
	}
}

// judgeBudgets refuses what one shadow may hold where that is over what all of them
// may, if the texts say so themselves; else it may stand elsewhere.
func (c *collected) judgeBudgets() {
	all, given := c.settings[keyBudget]
	text := defaultBudget
	if given {
		text = all.text
	}
	budget, err := parseBudget(text)
	for _, d := range c.splits {
		v, written := d.shadow.given["flow_budget"]
		if n := d.split.Shadow.FlowBudget; err != nil || !written || n <= budget || n > flowBudgetMost {
			continue
		}
		if given {
			v.refuse("%s is over shadow.budget, %s (%s), which all shadows share", strings.TrimSpace(v.node.Value), text, all.at)
		} else {
			v.note("over shadow.budget, which all shadows share, unless another file raises that above its %s", text)
		}
	}
}
