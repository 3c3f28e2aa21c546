package raw

import (
	"fmt"
	"time"

	"github.com/splitd/splitd/shadow"
)

// Endpoint is that of all exchanges: what is asked for is not known.
const Endpoint = "flow"

// Rule says what is written to a candidate, for plans and reports.
func Rule() string {
	return "raw: all that clients say, as they say it, also what changes something; nothing of TLS that nobody sees into, nor of mail"
}

// New returns what makes the driver of a flow.
func New() func(shadow.Session) shadow.Driver {
	return func(s shadow.Session) shadow.Driver {
		return &driver{session: s, race: newRace(), turns: true}
	}
}

// The servers, by place in a driver's arrays.
const (
	primary   = 0
	candidate = 1
)

// driver compares what two servers say.
type driver struct {
	session shadow.Session

	asked   time.Time // when the client said its first byte
	passed  time.Time // when it was sent to the candidate, or could be: that is connected
	said    int64     // bytes of the client
	turns   bool      // the client's next byte is the first behind what the primary said
	opening []byte    // of such a turn, while it may be TLS, or of a line, while it may be mail
	inLine  bool      // what the candidate has got of the client ends within a line
	greets  []byte    // the first bytes of the primary
	left    shadow.End

	race  race
	times [2]shadow.Reply // without fields
	ends  [2]shadow.End
	first string // who ended first
	// cut says that the flow was reset before the primary had ended: what it would
	// have said still, and how it would have ended, is not known.
	cut  bool
	over bool
}

// Hear implements [shadow.Driver].
func (d *driver) Hear(e shadow.Event) shadow.Moves {
	switch {
	case d.over:
		return shadow.Moves{Done: true}
	case d.session.Control:
		return d.end(d.uncompared(shadow.Skipped, "bytes of which nothing is known are not sent twice"))
	case e.From == shadow.Client:
		return d.client(e)
	case e.From == shadow.Primary:
		return d.primary(e)
	case len(e.Bytes) == 0 && e.End == shadow.Open: // the candidate is connected
		if !d.passed.IsZero() {
			d.passed = e.At
		}
		return d.settle(shadow.Moves{})
	default:
		d.server(candidate, e)
		return d.settle(shadow.Moves{})
	}
}

// client passes on what the client says.
func (d *driver) client(e shadow.Event) shadow.Moves {
	if d.asked.IsZero() && len(e.Bytes) > 0 {
		d.asked = e.At
	}
	m := shadow.Moves{Send: append(d.opening, e.Bytes...)}
	d.opening = nil
	if len(m.Send) > 0 {
		encrypted, mails := no, d.mail(m.Send)
		if d.turns {
			encrypted = tls(m.Send)
		}
		switch {
		case encrypted == yes:
			return d.end(d.uncompared(shadow.Opaque, fmt.Sprintf("TLS, from byte %d of the client on", d.said)))
		case mails == yes:
			return d.isMail()
		case encrypted == no && mails == no:
		case e.End == shadow.Open && len(m.Send) < early:
			d.opening = m.Send
			return d.settle(shadow.Moves{})
		case mails == perhaps && d.unsure(m.Send):
			return d.isMail()
		}
		d.turns = false
	}
	d.passes(m.Send, e.At)
	if e.End != shadow.Open && d.left == shadow.Open {
		d.left = e.End
		d.ended("the client")
		// Who resets waits for nothing, but the candidate may still be about to say
		// what the primary has said.
		d.cut = e.End != shadow.Closed && d.ends[primary] == shadow.Open
		m.FIN = !d.cut
	}
	return d.settle(m)
}

// passes counts what the candidate gets of the client.
func (d *driver) passes(said []byte, at time.Time) {
	if len(said) > 0 {
		if d.said == 0 {
			d.passed = at
		}
		d.said += int64(len(said))
		d.inLine = said[len(said)-1] != '\n'
	}
}

// primary compares what the primary says. It has answered, so what the client has
// said is no beginning of TLS. Of mail it may be one, until the line is whole.
func (d *driver) primary(e shadow.Event) shadow.Moves {
	var m shadow.Moves
	d.greets = append(d.greets, e.Bytes[:min(len(e.Bytes), longGreets-len(d.greets))]...)
	mails := no
	if len(d.opening) > 0 {
		mails = d.mail(d.opening)
	}
	switch {
	case mails == yes, mails == perhaps && e.End != shadow.Open && d.unsure(d.opening):
		return d.isMail()
	case mails == perhaps && e.End == shadow.Open:
	case len(e.Bytes) > 0 || e.End != shadow.Open:
		m.Send, d.opening = d.opening, nil
		d.passes(m.Send, e.At)
	}
	if len(e.Bytes) > 0 {
		d.turns = true
	}
	if d.cut {
		e.End = shadow.Open
	}
	d.server(primary, e)
	return d.settle(m)
}

// server compares what a server says.
func (d *driver) server(who int, e shadow.Event) {
	if len(e.Bytes) > 0 {
		r := &d.times[who]
		if r.First.IsZero() {
			r.First = e.At
		}
		r.Last, r.Bytes = e.At, r.Bytes+int64(len(e.Bytes))
		d.race.say(who, e.Bytes)
	}
	if e.End != shadow.Open && d.ends[who] == shadow.Open {
		d.ends[who] = e.End
		d.ended([...]string{"the primary", "the candidate"}[who])
	}
}

func (d *driver) ended(who string) {
	if d.first == "" {
		d.first = who
	}
}

// settle ends the exchange as soon as it is known how the servers compare.
func (d *driver) settle(m shadow.Moves) shadow.Moves {
	a, b, leads := d.ends[primary], d.ends[candidate], d.race.leads()
	switch {
	case d.race.parted:
		return d.end(d.compared(d.diverged))
	case d.fails():
		return d.end(d.uncompared(shadow.CandidateError, string(b)))
	case leads == primary && b != shadow.Open, leads == candidate && a != shadow.Open:
		return d.end(d.compared(d.stopped))
	case d.race.length() > d.session.Keep:
		return d.end(d.uncompared(shadow.Truncated, fmt.Sprintf("one server is over %d bytes ahead of the other, at byte %d", d.session.Keep, d.race.same)))
	case a != shadow.Open && b != shadow.Open, d.cut && leads != primary:
		return d.end(d.compared(d.whole))
	}
	// The candidate owes what the primary has said, and to end when that has ended.
	m.Owed = b == shadow.Open && (leads == primary || a != shadow.Open)
	return m
}

// fails says whether the candidate has ended without a word, and not as one does who
// has nothing to say, or as the primary does.
func (d *driver) fails() bool {
	a, b := d.ends[primary], d.ends[candidate]
	switch {
	case d.times[candidate].Bytes > 0 || b == shadow.Open:
		return false
	case d.times[primary].Bytes > 0:
		return true
	case b == shadow.Reset:
		return a != shadow.Open && a != shadow.Reset
	default:
		return b != shadow.Closed
	}
}

func (d *driver) end(x shadow.Exchange) shadow.Moves {
	d.over = true
	d.race, d.opening = race{}, nil
	return shadow.Moves{Exchanges: []shadow.Exchange{x}, FIN: true, Done: true}
}

// Held implements [shadow.Driver].
func (d *driver) Held() int { return d.race.held() + cap(d.opening) }

// Stop implements [shadow.Driver].
func (d *driver) Stop(why shadow.Verdict, reason string) []shadow.Exchange {
	if d.over {
		return nil
	}
	return d.end(d.uncompared(why, reason)).Exchanges
}
