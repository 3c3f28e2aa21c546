package smtp

import (
	"fmt"
	"time"

	"github.com/splitd/splitd/shadow"
)

// startsTLS is the code of a server that agrees to STARTTLS (RFC 3207, section 4).
const startsTLS = 220

// tlsHandshake is the type of a record that a ClientHello comes in (RFC 8446, section 5.1). No
// command begins so.
const tlsHandshake = 0x16

// undecided says whether the primary has agreed to begin TLS, and it is not known yet
// whether what follows will be seen.
func (s *step) undecided() bool {
	return s.command.verb == "STARTTLS" && s.primary != nil && s.primary.accepts() && !s.seen && s.verdict == ""
}

// beginning is the step of a STARTTLS that is undecided; nil where there is none.
func (d *driver) beginning() *step {
	if n := len(d.queue); n > 0 && d.client.saying == starting {
		return d.queue[n-1]
	}
	return nil
}

// encrypted is behind a STARTTLS of which nobody has said that what follows will be seen.
func (d *driver) encrypted() {
	d.break_(shadow.Opaque, fmt.Sprintf("encrypted from byte %d of the client on (STARTTLS)", d.client.offset))
}

// hearTLS is told that client and primary have begun TLS: both begin anew, and what was
// said in clear behind STARTTLS was said to nobody (RFC 3207, sections 4.2 and 6).
func (d *driver) hearTLS(h *shadow.Handshake) {
	s := d.beginning()
	switch {
	case d.over || d.client.deaf:
		return
	case s == nil:
		d.break_(shadow.Opaque, "TLS begins where nobody has asked for it")
		return
	case h.Failed != "":
		d.break_(shadow.Opaque, "the TLS handshake with the primary failed")
		return
	}
	s.seen = true
	d.client = client{offset: d.client.offset}
	d.primary = replies{keep: d.primary.keep, offset: d.primary.offset}
	d.push(&step{command: command{verb: shadow.Handshaken}, endpoint: shadow.Handshaken, tls: h, primary: &reply{}})
	d.answered++
}

// startTLS has the candidate begin TLS, where it has answered STARTTLS as the primary has.
// It says whether there is more to do for the step.
func (d *driver) startTLS(s *step, at time.Time) bool {
	if d.unasked != nil {
		d.closes()
		return true
	}
	d.played, d.awaits = s, theHandshake
	s.sent, s.ended, s.candidateAsked = true, true, at
	if d.answers.held() > 0 {
		d.tooEarly()
		return true
	}
	d.moves.Secure = s.tls
	return false
}

// tooEarly is of a candidate that says more in clear behind its reply to STARTTLS: whoever
// takes that for said inside is told by anybody what is (CVE-2011-0411).
func (d *driver) tooEarly() {
	d.moves.Secure = nil
	d.fail("candidate: it says more in clear behind its reply to STARTTLS")
	d.hangUp()
}

// heardTLS is told how the candidate's handshake has ended: its side begins anew, too.
func (d *driver) heardTLS(h *shadow.Handshake, at time.Time) {
	if d.awaits != theHandshake {
		return
	}
	s := d.played
	if h.Failed != "" {
		d.changed(s, func() { s.candidateTLS = h })
		d.fail(shadow.Secured(*s.tls, *h, at).Reason)
		d.hangUp()
		return
	}
	d.changed(s, func() { s.candidateTLS, s.candidate = h, &reply{} })
	d.answers = replies{keep: d.answers.keep, offset: d.answers.offset}
	d.play = play{answers: d.answers, played: s, greeted: true, identified: d.options.Identified, leaving: d.leaving}
}

// handshakes is a step that is the handshakes of both as an exchange.
func (s *step) handshakes() shadow.Exchange {
	var candidate shadow.Handshake
	if s.candidateTLS != nil {
		candidate = *s.candidateTLS
	}
	x := shadow.Secured(*s.tls, candidate, s.tls.Ended)
	if s.verdict != "" {
		x.Verdict, x.Reason = s.verdict, s.reason
	}
	return x
}
