package smtp

import (
	"cmp"
	"fmt"
	"time"

	"github.com/splitd/splitd/shadow"
)

// What the candidate's next reply is of.
type awaits uint8

const (
	idle         awaits = iota
	theStep             // play.played
	theHello            // our EHLO, to learn whether it offers XCLIENT
	theXCLIENT          // its second greeting
	theHandshake        // of TLS
	theReset            // RSET in the place of content
	theLeaveReset
	theLeaveQuit
	theEnd // that it closes
)

// A play is what is known of the candidate's side of the session.
type play struct {
	answers     replies
	awaits      awaits
	played      *step  // the last one that it was asked
	unasked     *reply // 421, that nothing was asked before
	greeted     bool
	offered     map[string]bool // by its last EHLO reply
	proven      bool            // to be a sink
	transaction bool            // MAIL was accepted
	inside      bool            // in the middle of content or of a chunk
	delivered   bool            // the last content has gone to it with its end
	parked      bool            // nothing is asked while the primary gets content
	excused     bool            // it was lost meanwhile
	introduced  bool            // XCLIENT was tried, or cannot be
	untold      string          // why the candidate was not told by XCLIENT
	identified  bool
	sender      string
	leaving     bool
	lost        string // why nothing more can be asked
	left        bool   // FIN was sent
	gone        bool   // it has ended
}

// owes says whether the candidate owes something.
func (p *play) owes() bool {
	switch {
	case p.gone || p.awaits == idle:
		return false
	case p.awaits == theStep:
		// While the primary thinks about it, the candidate may.
		s := p.played
		return s.ended && s.candidate == nil && (s.primary != nil || s.verdict != "" || s.done)
	}
	return true
}

// advance does what can be done: whatever was heard last.
func (d *driver) advance(at time.Time) {
	for len(d.queue) > 0 && d.turn(d.queue[0], at) {
	}
	if len(d.queue) == 0 && d.client.deaf {
		d.over = true
	}
	if len(d.queue) == 0 && d.over {
		d.leaving = true
	}
	d.leave()
}

// turn does what can be done for the first step, and says whether that was
// something.
func (d *driver) turn(s *step, at time.Time) bool {
	switch {
	case s.undecided():
		return false
	case s.verdict != "":
		// Whether the candidate has answered by now means nothing.
		d.changed(s, func() { s.candidate, s.candidateAsked = nil, time.Time{} })
		d.emit()
		return true
	case s.sent:
		return d.finish(s, at)
	case d.rest != "":
		return d.settle(s, d.rest, d.restReason)
	case d.awaits != idle && d.awaits != theEnd:
		return false
	}
	return d.start(s, at)
}

// settle emits a step that is not compared, when the primary has answered it.
func (d *driver) settle(s *step, verdict shadow.Verdict, reason string) bool {
	if s.primary == nil {
		return false
	}
	s.verdict, s.reason = verdict, reason
	if s.endpoint == content || s.last {
		d.parked = false
	}
	d.emit()
	return true
}

// part has the rest of the session not played, and the candidate's ended.
func (d *driver) part(verdict shadow.Verdict, reason string) {
	if d.rest == "" {
		d.rest, d.restReason = verdict, reason
	}
	d.leaving = true
}

// start gives a step to the candidate, or says why not.
func (d *driver) start(s *step, at time.Time) bool {
	if s.primary == nil && (d.session.Control || s.command.verb == "STARTTLS") {
		return false // its own client comes first, or whether it is seen
	}
	if why := d.forbids(s); why != "" {
		if s.primary != nil && d.commits(s) {
			d.reset()
			d.parked = true
		}
		return d.settle(s, shadow.Skipped, why)
	}
	if d.lost != "" {
		return d.startLost(s)
	}
	if s.dotted {
		return d.settleDotted(s)
	}
	if s.tooLong {
		if s.primary != nil {
			d.part(shadow.Truncated, "behind content that was not kept")
		}
		return d.settle(s, shadow.Truncated, fmt.Sprintf("the candidate lags: more than %d bytes of content would wait for it", d.session.Keep))
	}
	if keyword := lacks(d.offered, s.command.needs()); keyword != "" && (d.offered != nil || s.command.verb != "STARTTLS") { // said behind HELO
		reason := "the candidate does not offer " + shownExtension(keyword)
		if s.primary != nil {
			d.part(shadow.AfterDivergence, reason)
		}
		return d.settle(s, shadow.AfterDivergence, reason)
	}
	if s.tls != nil {
		return d.startTLS(s, at)
	}
	if r := d.unasked; r != nil {
		d.unasked = nil
		s.sent, s.ended, d.played = true, true, s
		d.heardStep(r)
		d.closes()
		return true
	}
	if d.introduce(s, at) {
		return false
	}
	d.send(s, at)
	return true
}

// startLost is of a step that would be sent if the candidate were still there.
func (d *driver) startLost(s *step) bool {
	if s.primary == nil {
		return false
	}
	if d.excused {
		d.part(shadow.Skipped, "the candidate closed while nothing was asked of it, since content is not sent")
		return d.settle(s, shadow.Skipped, d.restReason)
	}
	d.part(shadow.AfterDivergence, "the candidate has failed before")
	return d.settle(s, shadow.CandidateError, d.lost)
}

// settleDotted ends the session at a chunk that has a line of one dot. How much of
// it the candidate has, if any, depends on how fast everybody was.
func (d *driver) settleDotted(s *step) bool {
	if s.primary == nil {
		return false
	}
	d.part(shadow.Skipped, "mode data-abort: a chunk has a line of one dot, which is not sent")
	return d.settle(s, shadow.Skipped, d.restReason)
}

// forbids says why a step is not sent, empty when it may be.
func (d *driver) forbids(s *step) string {
	switch {
	case d.session.Control && !safe(s.endpoint):
		return "not asked of the primary a second time: it may change something"
	case s.endpoint == content || s.endpoint == "DATA" || s.endpoint == "BDAT":
		return d.forbidsMail(s)
	case s.endpoint == "STARTTLS" && !s.seen:
		return "the primary refuses it; a candidate is not asked"
	case !played(s.command.verb) && !s.seen && s.tls == nil:
		return s.command.shown() + " is none that candidates get"
	}
	return ""
}

func (d *driver) forbidsMail(s *step) string {
	switch {
	case d.options.Mode == Envelope:
		return "mode envelope sends no content"
	case d.options.Mode == Sink && !d.proven:
		return "no content: the candidate's EHLO reply does not have " + Proof + " with the token, so it is not known to be a sink"
	case s.endpoint == "DATA" && s.command.argument != "":
		return "DATA has no argument"
	case s.command.verb == each && !d.delivered, s.command.verb == content && !d.inside:
		return "the candidate did not get this content"
	case s.endpoint == "BDAT" && d.options.Mode == DataAbort && s.size == 0 && s.last:
		return "mode data-abort sends no empty last chunk"
	}
	return ""
}

// commits says whether a step that is not sent takes the transaction with it.
func (d *driver) commits(s *step) bool {
	if !d.transaction || d.lost != "" {
		return false
	}
	return s.endpoint == "DATA" && s.primary.code/100 == 3 || s.endpoint == "BDAT" && s.primary.accepts()
}

// reset sends RSET in the place of content.
func (d *driver) reset() {
	d.moves.Send = append(d.moves.Send, "RSET\r\n"...)
	d.awaits = theReset
}

// send gives the candidate a step, or the beginning of one that is still open.
func (d *driver) send(s *step, at time.Time) {
	d.played, d.awaits = s, theStep
	if s.command.verb == "MAIL" {
		d.sender, _ = s.command.path()
	}
	d.changed(s, func() {
		d.moves.Send = append(d.moves.Send, s.unit...)
		s.unit = nil
	})
	s.sent, s.candidateAsked = true, at
	s.ended = !s.open && s.command.verb != content
	d.inside = !s.ended
	if s.command.verb != each {
		d.delivered = false
	}
}

// finish compares a step that the candidate has got.
func (d *driver) finish(s *step, at time.Time) bool {
	switch {
	case s.primary == nil:
		return false
	case s.failed != "":
		d.part(shadow.AfterDivergence, "the candidate has failed before")
		return d.settle(s, shadow.CandidateError, s.failed)
	case s.dotted:
		return d.settleDotted(s)
	case s.open: // 421 of the primary
		d.part(shadow.AfterDivergence, "the primary closed in the middle of content")
		return d.settle(s, shadow.PrimaryError, d.restReason)
	case s.command.verb == content && s.candidate == nil && !s.ended:
		return d.endContent(s, at)
	case s.candidate == nil:
		return false
	}
	d.judge(s, at)
	return true
}

// endContent is where the client has said CRLF.CRLF and the primary has answered it.
func (d *driver) endContent(s *step, at time.Time) bool {
	if d.options.Mode != Sink {
		d.part(shadow.Skipped, "mode data-abort: the session ended within content")
		return d.settle(s, shadow.Skipped, "mode data-abort: content is sent, its end is not, so there is no verdict")
	}
	d.moves.Send = append(d.moves.Send, ".\r\n"...)
	s.ended, s.candidateAsked = true, at
	d.inside, d.delivered, d.transaction = false, true, false
	return false
}

// judge emits a step that both servers have answered, and says what it means.
func (d *driver) judge(s *step, at time.Time) {
	p, c := s.primary, s.candidate
	aborted := s.last && d.options.Mode == DataAbort
	switch {
	case p.cut || c.cut:
		s.verdict, s.reason = shadow.Truncated, fmt.Sprintf("a reply is longer than the %d bytes that are kept of one", d.session.Keep)
	case aborted && c.accepts():
		s.verdict, s.reason = shadow.Skipped, "mode data-abort: the last chunk is sent as if it were not, so there is no verdict"
	default:
		s.excuse = d.excuse(s, at)
	}
	if hello(s.command.verb) {
		s.untold = d.untold
	}
	d.emit()
	switch {
	case s.command.verb == "STARTTLS" && c.code != startsTLS, parts(s.endpoint) && p.accepts() != c.accepts() && !aborted:
		d.part(shadow.AfterDivergence, fmt.Sprintf("the candidate answered %s otherwise than the primary", s.endpoint))
	case s.command.verb == content && !s.ended:
		d.part(shadow.AfterDivergence, "the candidate answered content before its end")
	case aborted && d.lost == "":
		d.reset()
	case s.command.verb == "QUIT":
		d.part(shadow.Skipped, "behind QUIT")
		d.hangUp()
	}
}

// hearCandidate takes what the candidate says.
func (d *driver) hearCandidate(e shadow.Event) {
	if !d.left && !d.gone && len(e.Bytes) > 0 {
		err := d.answers.feed(e.Bytes, e.At, func(r *reply) bool {
			d.heard(r)
			d.advance(e.At)
			return !d.left
		})
		if err != nil {
			d.fail("candidate: " + err.Error())
			d.hangUp()
		} else if d.awaits == theHandshake && d.answers.held() > 0 {
			d.tooEarly()
		}
	}
	if e.End != shadow.Open && !d.gone {
		d.fail("the candidate " + said(e.End))
		d.gone, d.awaits = true, idle
	}
}

// fail ends what can be asked of the candidate.
func (d *driver) fail(reason string) {
	if (d.awaits == theStep || d.awaits == theHandshake) && d.played.candidate == nil {
		d.played.failed = reason
	}
	d.lose(reason)
	d.awaits = idle
}

// lose keeps why nothing more can be asked. That the candidate does not wait for
// as long as the primary's content takes is no fault of it.
func (d *driver) lose(reason string) {
	d.excused = d.excused || d.parked && d.awaits == idle && d.lost == ""
	d.lost = cmp.Or(d.lost, reason)
}

// heard takes a reply of the candidate.
func (d *driver) heard(r *reply) {
	switch d.awaits {
	case idle:
		switch {
		case r.code != closing || d.unasked != nil:
			d.fail("candidate: " + unasked(r) + " before byte " + number(d.answers.offset))
			d.hangUp()
		case d.parked:
			d.closes()
		default:
			d.unasked = r
		}
		return
	case theStep:
		d.heardStep(r)
	case theHello:
		d.heardHello(r)
	case theXCLIENT:
		d.heardXCLIENT(r)
	case theHandshake:
		d.tooEarly()
		return
	case theReset:
		d.awaits, d.transaction = idle, false
		if !r.accepts() {
			d.part(shadow.AfterDivergence, "the candidate refused RSET")
		}
	case theLeaveReset:
		d.quit()
	case theLeaveQuit:
		d.hangUp()
	case theEnd:
	}
	if r.code == closing {
		d.closes()
	}
}

// closes is behind 421: the candidate hears no more.
func (d *driver) closes() {
	d.lose("the candidate closed the session")
	d.hangUp()
}

// heardStep takes the reply to what was asked last.
func (d *driver) heardStep(r *reply) {
	s := d.played
	d.awaits = idle
	if s.done {
		s.candidate = r
	} else {
		d.changed(s, func() { s.candidate = r })
	}
	switch {
	case s.endpoint == greeting:
		d.greeted = r.accepts()
	case hello(s.command.verb):
		d.metHello(s.command.verb, r)
	case s.command.verb == "MAIL":
		d.transaction = d.transaction || r.accepts()
	case s.command.verb == "RSET", s.endpoint == "BDAT" && s.last && d.options.Mode == Sink:
		d.transaction = false
	case s.command.verb == "DATA":
		d.inside = r.code/100 == 3
	}
}

// metHello keeps what the candidate offers from now on.
func (d *driver) metHello(verb string, r *reply) {
	d.offered, d.proven = nil, false
	if !r.accepts() {
		return
	}
	d.transaction = false
	if verb != "HELO" {
		d.offered, d.proven = r.offers(), r.proves(d.options.Token)
	}
}
