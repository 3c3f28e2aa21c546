package smtp

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/splitd/splitd/shadow"
)

// A candidate answers what it is sent by a script: each command by the next turn in
// which the client says it, and what the client never said (RSET, QUIT, XCLIENT) as
// servers do.
type candidate struct {
	script   script
	at       int // turns up to here were asked
	buffer   []byte
	chunk    int64
	data     bool
	heard    []string // commands
	raw      []byte
	replies  []byte // to be said
	ending   shadow.End
	ended    bool
	tls      *shadow.Handshake // to be told
	secured  int               // the turn that TLS began with
	xclients int
}

func newCandidate(s script) *candidate {
	c := &candidate{script: s}
	c.say(0)
	return c
}

func (c *candidate) say(turn int) {
	c.replies = append(c.replies, c.script.turns[turn].candidate...)
	c.ending = c.script.turns[turn].candidateEnd
}

// secure begins TLS by the next turn of the script that does.
func (c *candidate) secure() {
	for i := c.at + 1; i < len(c.script.turns); i++ {
		if h := c.script.turns[i].candidateTLS; h != nil {
			c.at, c.secured, c.tls = i, i, h
			return
		}
	}
	c.tls = &shadow.Handshake{Failed: "not in the script"}
}

// take hears bytes.
func (c *candidate) take(b []byte) {
	c.raw = append(c.raw, b...)
	c.buffer = append(c.buffer, b...)
	for {
		switch {
		case c.chunk > 0:
			n := min(c.chunk, int64(len(c.buffer)))
			c.buffer, c.chunk = c.buffer[n:], c.chunk-n
			if c.chunk > 0 {
				return
			}
			c.say(c.at)
			continue
		case c.data:
			i := 0
			if !bytes.HasPrefix(c.buffer, []byte(".\r\n")) {
				if i = bytes.Index(c.buffer, []byte("\r\n.\r\n")); i < 0 {
					return
				}
				i += 2
			}
			c.buffer, c.data = c.buffer[i+3:], false
			c.at++
			c.say(c.at)
			continue
		}
		line, rest, ok := bytes.Cut(c.buffer, []byte("\r\n"))
		if !ok {
			return
		}
		c.buffer = rest
		c.command(string(line))
	}
}

func (c *candidate) command(line string) {
	c.heard = append(c.heard, line)
	verb, _, _ := strings.Cut(line, " ")
	for i := c.at + 1; i < len(c.script.turns) && c.script.turns[i].tls == nil; i++ {
		said := c.script.turns[i].said
		if said == line+"\r\n" || verb == "STARTTLS" && strings.HasPrefix(said, line+"\r\n") || verb == "BDAT" && strings.TrimSuffix(said, " LAST\r\n") == line {
			c.at = i
			if verb == "BDAT" {
				_, _ = fmt.Sscan(line[5:], &c.chunk)
				if c.chunk > 0 {
					c.at++ // its bytes are the next turn's
					return
				}
			}
			c.data = verb == "DATA" && strings.HasPrefix(c.script.turns[i].candidate, "354")
			c.say(i)
			return
		}
	}
	switch verb {
	case "RSET":
		c.replies = append(c.replies, "250 2.0.0 Ok\r\n"...)
	case "QUIT":
		c.replies = append(c.replies, "221 2.0.0 Bye\r\n"...)
		c.ending = shadow.Closed
	case "XCLIENT":
		c.xclients++
		c.replies = append(c.replies, "220 new.example ESMTP\r\n"...)
	case "EHLO", "HELO": // our own, before the client's
		for i := range c.script.turns {
			if i < c.secured {
				continue
			}
			if strings.HasPrefix(c.script.turns[i].said, "EHLO") {
				c.replies = append(c.replies, c.script.turns[i].candidate...)
				return
			}
		}
		c.replies = append(c.replies, "250-new.example\r\n250 XCLIENT ADDR\r\n"...)
	default:
		c.replies = append(c.replies, "500 5.5.2 Not in the script\r\n"...)
	}
}

// A result is what a session has come to.
type result struct {
	exchanges []shadow.Exchange
	raw       string // what the candidate has heard
	heard     []string
	fin, done bool
	stopped   bool
	most      int
}

// A schedule says in which pieces and order things happen. Without randomness they
// happen one after another.
type schedule struct {
	*rand.Rand
	patient bool // the candidate is heard last
}

func (s schedule) piece(b []byte) int {
	if s.Rand == nil || len(b) == 0 {
		return len(b)
	}
	return 1 + s.IntN(min(len(b), 1+s.IntN(40)))
}

// start is when sessions of tests begin.
var start = time.Date(2026, 11, 26, 12, 0, 0, 0, time.UTC)

// A player plays a script through a driver.
type player struct {
	script          script
	driver          shadow.Driver
	candidate       *candidate
	order           schedule
	client, primary []byte // said, not told yet
	said, answered  int    // turns
	clientTold      bool   // its end
	primaryEnd      shadow.End
	result          result
	now             time.Time
}

func playScript(s script, driver shadow.Driver, order schedule) result {
	p := &player{script: s, driver: driver, candidate: newCandidate(s), order: order, now: start}
	for p.step() {
	}
	if !p.result.done {
		p.result.stopped = true
		p.result.exchanges = append(p.result.exchanges, driver.Stop(shadow.Dropped, "the test is over")...)
	}
	p.result.raw, p.result.heard = string(p.candidate.raw), p.candidate.heard
	return p.result
}

// step tells the driver one thing, and says whether there was any.
func (p *player) step() bool {
	if p.result.done {
		return false
	}
	type move struct {
		can bool
		do  func()
	}
	moves := []move{
		{p.canAnswer(), p.answer},
		{p.canSay(), p.say},
		{!p.order.patient && p.candidateCan(), p.candidateSays},
	}
	moves = slices.DeleteFunc(moves, func(m move) bool { return !m.can })
	switch {
	case len(moves) == 0 && p.candidateCan():
		p.candidateSays()
	case len(moves) == 0:
		return false
	case p.order.Rand == nil:
		moves[0].do()
	default:
		moves[p.order.IntN(len(moves))].do()
	}
	return true
}

func (p *player) hear(e shadow.Event) {
	p.now = p.now.Add(time.Millisecond)
	e.At = p.now
	m := p.driver.Hear(e)
	p.result.most = max(p.result.most, p.driver.Held())
	p.result.exchanges = append(p.result.exchanges, m.Exchanges...)
	p.candidate.take(m.Send)
	if m.Secure != nil {
		p.candidate.secure()
	}
	p.result.fin = p.result.fin || m.FIN
	p.result.done = p.result.done || m.Done
}

// canSay: the client has bytes under way, or may begin a turn.
func (p *player) canSay() bool {
	if len(p.client) > 0 {
		return true
	}
	if p.said+1 >= len(p.script.turns) {
		return !p.clientTold && p.answered == len(p.script.turns)
	}
	return p.primaryEnd == "" && (p.answered > p.said || p.order.Rand != nil && p.script.turns[p.said].ready() || p.isBytes(p.said+1))
}

// isBytes says whether a turn is the bytes of the chunk before it.
func (p *player) isBytes(i int) bool {
	return strings.HasPrefix(p.script.turns[i-1].said, "BDAT") && p.script.turns[i-1].primary == "" && p.script.turns[i-1].primaryEnd == ""
}

func (p *player) say() {
	if len(p.client) == 0 {
		if p.said+1 >= len(p.script.turns) {
			p.clientTold = true
			p.hear(shadow.Event{From: shadow.Client, End: shadow.Closed})
			return
		}
		p.said++
		p.client = append(p.client, p.script.turns[p.said].said...)
		if len(p.client) == 0 {
			return // TLS begins
		}
	}
	n := p.order.piece(p.client)
	b := slices.Clone(p.client[:n])
	p.client = p.client[n:]
	p.hear(shadow.Event{From: shadow.Client, Bytes: b})
	clear(b) // it was lent
}

func (p *player) canAnswer() bool {
	switch {
	case len(p.primary) > 0:
		return true
	case p.primaryEnd != "":
		return false
	case p.answered < len(p.script.turns):
		return p.answered < p.said || p.answered == p.said && len(p.client) == 0
	}
	return p.clientTold
}

func (p *player) answer() {
	if len(p.primary) == 0 {
		if p.answered >= len(p.script.turns) {
			p.primaryEnd = shadow.Closed
			p.hear(shadow.Event{From: shadow.Primary, End: shadow.Closed})
			return
		}
		t := p.script.turns[p.answered]
		p.answered++
		if t.tls != nil {
			p.hear(shadow.Event{From: shadow.Primary, TLS: t.tls})
			return
		}
		if p.primary = append(p.primary, t.primary...); len(p.primary) == 0 {
			if t.primaryEnd != "" {
				p.primaryEnd = t.primaryEnd
				p.hear(shadow.Event{From: shadow.Primary, End: t.primaryEnd})
			}
			return
		}
	}
	n := p.order.piece(p.primary)
	b := slices.Clone(p.primary[:n])
	p.primary = p.primary[n:]
	e := shadow.Event{From: shadow.Primary, Bytes: b}
	if t := p.script.turns[p.answered-1]; len(p.primary) == 0 && t.primaryEnd != "" {
		e.End, p.primaryEnd = t.primaryEnd, t.primaryEnd
	}
	p.hear(e)
	clear(b)
}

func (p *player) candidateCan() bool {
	c := p.candidate
	return !c.ended && (len(c.replies) > 0 || c.ending != "" || c.tls != nil)
}

func (p *player) candidateSays() {
	c := p.candidate
	if h := c.tls; h != nil && len(c.replies) == 0 {
		if c.tls = nil; h.Failed != "" {
			c.ending = shadow.Refused
		}
		p.hear(shadow.Event{From: shadow.Candidate, TLS: h})
		return
	}
	n := p.order.piece(c.replies)
	b := slices.Clone(c.replies[:n])
	c.replies = c.replies[n:]
	e := shadow.Event{From: shadow.Candidate, Bytes: b}
	if len(c.replies) == 0 && c.ending != "" {
		e.End, c.ended = c.ending, true
	}
	p.hear(e)
	clear(b)
}
