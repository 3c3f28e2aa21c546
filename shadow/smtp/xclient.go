package smtp

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"
)

// introduce tells the candidate who the client is, before the client's first EHLO
// or HELO, and says whether it began to. For that it has to offer XCLIENT in a reply
// to EHLO; behind XCLIENT its session begins anew.
func (d *driver) introduce(s *step, at time.Time) bool {
	if !hello(s.command.verb) || d.introduced || !d.options.XCLIENT || d.session.Control || !d.session.Client.IsValid() {
		return false
	}
	d.introduced, d.awaits = true, theHello
	d.moves.Send = fmt.Appendf(d.moves.Send, "EHLO %s\r\n", s.command.argument)
	s.candidateAsked = at
	return true
}

// heardHello takes the reply to our own EHLO. Where it has no XCLIENT it may be the
// reply to the client's, which is the same.
func (d *driver) heardHello(r *reply) {
	d.awaits = idle
	if len(d.queue) == 0 || d.queue[0].done || !hello(d.queue[0].command.verb) {
		return
	}
	s := d.queue[0]
	if line := d.xclient(r, s.command); line != "" {
		d.moves.Send = append(d.moves.Send, line...)
		d.awaits = theXCLIENT
		return
	}
	d.untold = "not offered"
	if s.command.verb == "EHLO" {
		s.sent, s.ended, d.played = true, true, s
		d.changed(s, func() { s.unit = nil })
		d.heardStep(r)
	}
}

// heardXCLIENT takes the greeting behind XCLIENT, or the refusal.
func (d *driver) heardXCLIENT(r *reply) {
	d.awaits = idle
	if r.code/100 != 2 {
		d.untold = "refused"
		return
	}
	d.identified = true
}

// xclient is the command with those attributes that are offered; empty where the
// address is none of them.
func (d *driver) xclient(r *reply, hello command) string {
	if r.code/100 != 2 {
		return ""
	}
	offered := make(map[string]bool)
	for i, line := range r.lines {
		keyword, attributes := cutKeyword(line)
		if i == 0 || keyword != "XCLIENT" {
			continue
		}
		for _, a := range attributes {
			offered[strings.ToUpper(a)] = true
		}
	}
	if !offered["ADDR"] {
		return ""
	}
	protocol := "ESMTP"
	if hello.verb == "HELO" {
		protocol = "SMTP"
	}
	var line strings.Builder
	line.WriteString("XCLIENT")
	for _, a := range [...][2]string{
		{"NAME", "[UNAVAILABLE]"}, // we do not ask DNS
		{"ADDR", xaddress(d.session.Client.Addr())},
		{"PORT", strconv.Itoa(int(d.session.Client.Port()))},
		{"PROTO", protocol},
		{"HELO", xtext(hello.argument)},
		{"DESTADDR", xaddress(d.session.Service.Addr())},
		{"DESTPORT", strconv.Itoa(int(d.session.Service.Port()))},
	} {
		if offered[a[0]] && a[1] != "" {
			line.WriteString(" " + a[0] + "=" + a[1])
		}
	}
	return line.String() + "\r\n"
}

// xaddress writes an address as XCLIENT wants it.
func xaddress(ip netip.Addr) string {
	ip = ip.Unmap().WithZone("")
	switch {
	case !ip.IsValid():
		return ""
	case ip.Is6():
		return "IPV6:" + ip.String()
	}
	return ip.String()
}

// xtext is the encoding of RFC 3461, 4, that XCLIENT takes.
func xtext(text string) string {
	var b strings.Builder
	for i := range len(text) {
		if c := text[i]; c < '!' || c > '~' || c == '+' || c == '=' {
			fmt.Fprintf(&b, "+%02X", c)
		} else {
			b.WriteByte(c)
		}
	}
	return b.String()
}
