package smtp

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/splitd/splitd/shadow"
)

// commandLine is how long a command may be: RFC 5321, 4.5.3.1.4, allows 512 bytes,
// and extensions more.
const commandLine = 4096

// What the client's next bytes are.
type saying uint8

const (
	commands  saying = iota
	undecided        // the primary's reply to DATA or STARTTLS says what they are
	starting         // behind a STARTTLS that the primary agrees to: TLS
	aContent
	aChunk
)

// A client is what is known of the client's side of the session.
type client struct {
	saying saying
	offset int64  // of the byte that comes next
	line   []byte // of a command, so far
	early  []byte // while undecided
	mail   *step  // whose bytes come: content or a chunk
	left   int64  // of a chunk
	dots   scanner
	deaf   bool // what comes is not looked at

	lmtp       bool // RFC 2033
	recipients int  // that the primary has accepted
}

func (c *client) held() int { return len(c.line) + len(c.early) + len(c.dots.held) }

// hearClient takes what the client says.
func (d *driver) hearClient(e shadow.Event) {
	d.say(e.Bytes, e.At)
	if e.End != shadow.Open && e.End != shadow.Closed {
		d.finished("the client " + said(e.End) + " before a reply")
	}
}

// finished ends the flow: who has no reply by now gets none.
func (d *driver) finished(reason string) {
	if d.over {
		return
	}
	if d.beginning() != nil {
		d.encrypted()
		return
	}
	d.over, d.client.deaf = true, true
	for _, s := range d.queue[d.answered:] {
		switch {
		case s.verdict != "":
		case s.open:
			s.verdict, s.reason = shadow.Skipped, "the session ended in the middle of it"
		default:
			s.verdict, s.reason = shadow.PrimaryError, reason
		}
	}
}

// say cuts bytes of the client into steps.
func (d *driver) say(b []byte, at time.Time) {
	for len(b) > 0 && !d.client.deaf {
		var n int
		switch d.client.saying {
		case commands:
			if d.client.offset == 0 && b[0] == tlsHandshake {
				d.break_(shadow.Opaque, "TLS, from byte 0 of the client on")
				break
			}
			n = d.sayLine(b, at)
		case undecided:
			n = d.sayEarly(b)
		case starting:
			d.encrypted()
		case aContent:
			n = d.sayContent(b, at)
		case aChunk:
			n = d.sayChunk(b, at)
		}
		b = b[n:]
		d.advance(at)
		if d.Held() > d.most() && !d.client.deaf {
			d.last(&step{endpoint: other}, shadow.Truncated, fmt.Sprintf("more than %d bytes wait for servers that lag", d.most()))
		}
	}
}

// last pushes a step behind which the client is not listened to any more. Those
// before it are played to their end.
func (d *driver) last(s *step, verdict shadow.Verdict, reason string) {
	s.verdict, s.reason = verdict, reason
	d.push(s)
	d.client.deaf, d.client.line, d.client.early = true, nil, nil
}

func (d *driver) sayLine(b []byte, at time.Time) int {
	c := &d.client
	i := bytes.IndexByte(b, '\n')
	part := b
	if i >= 0 {
		part = b[:i+1]
	}
	start, limit := c.offset-int64(len(c.line)), min(commandLine, d.session.Keep)
	if len(c.line)+len(part) > limit {
		verdict := shadow.Opaque
		if limit < commandLine {
			verdict = shadow.Truncated
		}
		d.last(&step{endpoint: other}, verdict, fmt.Sprintf("client: the command at byte %d is longer than %d bytes", start, limit))
		return len(part)
	}
	c.offset += int64(len(part))
	c.line = append(c.line, part...)
	if i < 0 {
		return len(part)
	}
	line, ok := bytes.CutSuffix(c.line, []byte("\r\n"))
	if !ok || bytes.ContainsFunc(line, isControl) {
		d.last(&step{endpoint: other}, shadow.Opaque, fmt.Sprintf("client: the command at byte %d is no line that ends in CRLF and nowhere else", start))
		return len(part)
	}
	c.line = nil
	d.command(string(line), at)
	return len(part)
}

// isControl names what servers read differently in a line.
func isControl(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f }

// command pushes the step of a whole command.
func (d *driver) command(line string, at time.Time) {
	c := parseCommand(line)
	s := &step{command: c, endpoint: c.endpoint(), asked: at}
	if played(c.verb) || c.verb == "DATA" || c.verb == "STARTTLS" {
		s.unit = []byte(line + "\r\n")
	}
	switch c.verb {
	case "AUTH":
		s.command.argument = "" // it may have a password
		d.last(s, shadow.Skipped, "AUTH ends the shadow: no password is played, and what follows is a user's")
		return
	case "DATA", "STARTTLS":
		d.client.saying = undecided
	case "BDAT":
		if !d.chunk(s) {
			return
		}
	}
	d.push(s)
	if r := d.early; r != nil {
		d.early = nil
		d.answer(s, r)
		d.replies(s, at)
	}
}

// chunk begins a chunk, and says whether it could.
func (d *driver) chunk(s *step) bool {
	size, last, ok := s.command.chunk()
	switch {
	case !ok:
		d.last(s, shadow.Opaque, fmt.Sprintf("client: BDAT before byte %d has no size", d.client.offset))
		return false
	case d.client.lmtp:
		d.last(s, shadow.Opaque, fmt.Sprintf("client: BDAT before byte %d is in LMTP", d.client.offset))
		return false
	}
	line := "BDAT " + strconv.FormatInt(size, 10)
	if last && d.options.Mode != DataAbort {
		line += " LAST"
	}
	s.size, s.last, s.open = size, last, size > 0
	s.unit = []byte(line + "\r\n")
	if s.open {
		d.client.saying, d.client.mail, d.client.left, d.client.dots = aChunk, s, size, scanner{}
	}
	return true
}

func (d *driver) sayEarly(b []byte) int {
	if len(d.client.early)+len(b) > d.session.Keep {
		d.last(&step{endpoint: other}, shadow.Truncated, fmt.Sprintf("client: more than %d bytes from byte %d on do not wait for the primary's reply", d.session.Keep, d.client.offset))
		return len(b)
	}
	d.client.early = append(d.client.early, b...)
	return len(b)
}

// resume goes on when the primary has said what the client's next bytes are.
func (d *driver) resume(s *step, at time.Time) {
	c := &d.client
	if c.deaf {
		return
	}
	early := c.early
	c.saying, c.early = commands, nil
	switch {
	case s.undecided():
		c.saying = starting // what was early is in clear: with TLS it was said to nobody
		return
	case s.command.verb == "DATA" && s.primary.code/100 == 3:
		c.saying, c.dots = aContent, scanner{}
		c.mail = &step{command: command{verb: content}, endpoint: content, open: true, asked: at}
		d.push(c.mail)
	}
	d.say(early, at)
}

func (d *driver) sayContent(b []byte, at time.Time) int {
	c := &d.client
	s := c.mail
	n, found := c.dots.scan(b, func(b []byte) { d.carry(s, b) })
	c.offset += int64(n)
	switch found {
	case nothing:
	case complete:
		c.saying, c.mail = commands, nil
		s.open, s.asked = false, at
	case smuggled:
		if d.carries() {
			d.break_(shadow.Opaque, fmt.Sprintf("client: a line of one dot before byte %d that does not stand between CRLF and CRLF: servers differ in whether it ends the content", c.offset))
		}
	}
	return n
}

func (d *driver) sayChunk(b []byte, at time.Time) int {
	c := &d.client
	s := c.mail
	n := int(min(int64(len(b)), c.left))
	c.offset += int64(n)
	c.left -= int64(n)
	pass := func(b []byte) { d.carry(s, b) }
	switch {
	case d.options.Mode != DataAbort:
		pass(b[:n])
	case !s.dotted:
		_, found := c.dots.scan(b[:n], pass)
		if found == nothing && c.left == 0 {
			found = c.dots.rest(pass)
		}
		s.dotted = found != nothing
	}
	if c.left == 0 {
		c.saying, c.mail, c.dots = commands, nil, scanner{}
		s.open, s.asked = false, at
		if d.played == s && s.sent && !s.dotted {
			s.ended, s.candidateAsked, d.inside = true, at, false
		}
	}
	return n
}

// carries says whether content may still reach the candidate.
func (d *driver) carries() bool {
	return d.options.Mode != Envelope && !d.session.Control && d.rest == "" && d.lost == ""
}

// carry takes bytes of a mail: they go to the candidate, or wait for its turn.
func (d *driver) carry(s *step, b []byte) {
	switch {
	case len(b) == 0 || s.done || s.verdict != "" || !d.carries():
	case s.sent && d.played == s:
		if s.candidate == nil || s.endpoint == "BDAT" {
			d.moves.Send = append(d.moves.Send, b...)
		}
	case !s.tooLong:
		d.changed(s, func() {
			if s.tooLong = len(s.unit)+len(b) > d.session.Keep; s.tooLong {
				s.unit = nil
			} else {
				s.unit = append(s.unit, b...)
			}
		})
	}
}

func number(n int64) string { return strconv.FormatInt(n, 10) }

func unasked(r *reply) string {
	return strings.TrimSpace(fmt.Sprintf("a reply to nothing, %d", r.code))
}
