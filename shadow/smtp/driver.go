package smtp

import (
	"fmt"
	"slices"
	"time"

	"github.com/splitd/splitd/shadow"
)

// A driver plays one session. What client and primary have said stands in its
// queue, a step for each exchange; the first one is played, the others wait.
type driver struct {
	options Options
	session shadow.Session
	grey    *greylist

	queue    []*step
	answered int // how many of the queue's have the primary's reply; they are the first
	held     int // what they cost

	client  client
	primary replies
	early   *reply // 421 of the primary, that nothing was asked before
	over    bool   // nothing more comes of client and primary

	// What is behind the point where the session is not played any more gets this.
	rest       shadow.Verdict
	restReason string

	play

	moves shadow.Moves
}

func newDriver(o Options, s shadow.Session, grey *greylist) *driver {
	d := &driver{options: o, session: s, grey: grey}
	d.identified = o.Identified
	d.session.Keep = max(d.session.Keep, 0)
	d.primary.keep, d.answers.keep = d.session.Keep, d.session.Keep
	d.awaits = theStep
	d.push(&step{command: command{verb: greeting}, endpoint: greeting, sent: true, ended: true})
	d.played = d.queue[0]
	return d
}

// Hear implements [shadow.Driver].
func (d *driver) Hear(e shadow.Event) shadow.Moves {
	d.moves = shadow.Moves{}
	switch {
	case e.Opaque != "":
		d.break_(shadow.Opaque, e.Opaque)
	case e.TLS != nil && e.From == shadow.Candidate:
		d.heardTLS(e.TLS, e.At)
	case e.TLS != nil:
		d.hearTLS(e.TLS)
	}
	switch e.From {
	case shadow.Client:
		d.hearClient(e)
	case shadow.Primary:
		d.hearPrimary(e)
	case shadow.Candidate:
		d.hearCandidate(e)
	}
	d.advance(e.At)
	d.moves.Owed = d.owes()
	d.moves.Done = (d.gone || d.left) && d.over && len(d.queue) == 0
	return d.moves
}

// Held implements [shadow.Driver].
func (d *driver) Held() int {
	return d.held + d.client.held() + d.primary.held() + d.answers.held()
}

// most is how much may be held: of what waits for a candidate that lags.
func (d *driver) most() int { return 4*d.session.Keep + 16<<10 }

// Stop implements [shadow.Driver].
func (d *driver) Stop(why shadow.Verdict, reason string) []shadow.Exchange {
	d.moves = shadow.Moves{}
	for len(d.queue) > 0 {
		if s := d.queue[0]; s.verdict == "" {
			s.verdict, s.reason = why, reason
		}
		d.emit()
	}
	return d.moves.Exchanges
}

// push adds a step.
func (d *driver) push(s *step) {
	d.queue = append(d.queue, s)
	d.held += s.cost()
}

// changed has what a step costs counted anew around a change of it.
func (d *driver) changed(s *step, change func()) {
	d.held -= s.cost()
	change()
	d.held += s.cost()
}

// emit returns the first step as an exchange.
func (d *driver) emit() {
	s := d.queue[0]
	d.queue[0] = nil
	d.queue = d.queue[1:]
	d.answered = max(0, d.answered-1)
	d.held -= s.cost()
	s.done = true
	d.moves.Exchanges = append(d.moves.Exchanges, s.exchange())
}

// hearPrimary takes what the primary says.
func (d *driver) hearPrimary(e shadow.Event) {
	if !d.over && len(e.Bytes) > 0 {
		err := d.hearReplies(e)
		if err != nil {
			d.break_(shadow.Opaque, "primary: "+err.Error())
		}
	}
	if e.End != shadow.Open {
		d.finished("the primary " + said(e.End) + " without a reply")
	}
}

// hearReplies cuts what the primary says into replies, up to the one behind which TLS
// begins: what comes in clear between that and TLS is said to nobody, and what is not in
// clear is behind the client's first byte of it.
func (d *driver) hearReplies(e shadow.Event) error {
	if d.beginning() != nil {
		return nil
	}
	return d.primary.feed(e.Bytes, e.At, func(r *reply) bool {
		d.reply(r, e.At)
		d.advance(e.At)
		return !d.over && d.beginning() == nil
	})
}

// said is an end in words.
func said(end shadow.End) string {
	switch end {
	case shadow.Closed, shadow.Open:
		return "closed"
	case shadow.Reset:
		return "reset the connection"
	case shadow.Refused:
		return "refused the connection"
	case shadow.Unsecured:
		return "made no TLS handshake"
	case shadow.TimedOut:
		return "did not answer in time"
	}
	return string(end)
}

// reply gives a reply of the primary to the step that it answers.
func (d *driver) reply(r *reply, at time.Time) {
	if d.answered >= len(d.queue) || d.queue[d.answered].verdict != "" {
		switch {
		case d.client.deaf: // what it answers is not understood
			d.over = true
		case r.code == closing && d.early == nil:
			d.early = r
		default:
			d.break_(shadow.Opaque, "primary: "+unasked(r)+" before byte "+number(d.primary.offset))
		}
		return
	}
	s := d.queue[d.answered]
	if s.open && r.code != closing {
		d.break_(shadow.Opaque, "primary: the reply before byte "+number(d.primary.offset)+" is to content that has not ended in CRLF.CRLF: client and primary take something else for its end")
		return
	}
	d.answer(s, r)
	d.replies(s, at)
}

// answer is the primary's reply to a step.
func (d *driver) answer(s *step, r *reply) {
	if d.Held()+r.cost > 2*d.most() {
		r.lines, r.cost, r.cut = nil, 0, true
	}
	d.changed(s, func() { s.primary = r })
	d.answered++
}

// replies follows what the primary's reply means for what the client says next.
func (d *driver) replies(s *step, at time.Time) {
	switch {
	case s.endpoint == greeting:
	case s.command.verb == "RCPT" && s.primary.accepts():
		d.client.recipients++
	case s.command.verb == "LHLO" || s.command.verb == "EHLO" || s.command.verb == "HELO":
		if s.primary.accepts() {
			d.client.lmtp, d.client.recipients = s.command.verb == "LHLO", 0
		}
	case s.command.verb == "MAIL" || s.command.verb == "RSET":
		d.client.recipients = 0
	case s.command.verb == content:
		d.perRecipient(s)
	case s.command.verb == "DATA" || s.command.verb == "STARTTLS":
		d.resume(s, at)
	case s.endpoint == other && s.primary.code < 400:
		d.unknown(s)
	}
}

// perRecipient expects a reply for each recipient after content in LMTP (RFC 2033,
// 4.2).
func (d *driver) perRecipient(s *step) {
	n := d.client.recipients
	d.client.recipients = 0
	if !d.client.lmtp {
		return
	}
	if n > mostRecipients {
		d.break_(shadow.Truncated, "client: more recipients than "+number(mostRecipients))
		return
	}
	for range n - 1 {
		more := &step{command: command{verb: each}, endpoint: content, asked: s.asked}
		d.queue = slices.Insert(d.queue, d.answered, more)
		d.held += more.cost()
	}
}

// unknown is behind a verb of which we do not know what it changes.
func (d *driver) unknown(s *step) {
	switch {
	case s.primary.code/100 == 3:
		d.break_(shadow.Opaque, fmt.Sprintf("primary: it asks for more behind %s, before byte %d: what the client says is not known", s.command.shown(), d.primary.offset))
	case s.command.verb == "XCLIENT":
		d.break_(shadow.Skipped, "the client speaks for another one (XCLIENT)")
	case s.command.verb == "TURN" || s.command.verb == "ATRN":
		d.break_(shadow.Opaque, fmt.Sprintf("the primary is the client from its byte %d on (%s)", d.primary.offset, s.command.verb))
	}
}

// break_ ends what is understood: the steps without a reply, or else one that
// stands for the rest, get the verdict.
func (d *driver) break_(verdict shadow.Verdict, reason string) {
	if d.over {
		return
	}
	begins := d.beginning()
	d.over, d.client.deaf = true, true
	if begins != nil {
		begins.verdict, begins.reason = verdict, reason
		return
	}
	if d.answered == len(d.queue) {
		d.push(&step{endpoint: other})
	}
	for _, s := range d.queue[d.answered:] {
		if s.verdict == "" {
			s.verdict, s.reason = verdict, reason
		}
	}
}
