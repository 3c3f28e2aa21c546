package raw

import (
	"cmp"
	"encoding/hex"
	"fmt"
	"hash"
	"hash/fnv"
	"strconv"
	"time"

	"github.com/splitd/splitd/shadow"
)

// context is how many bytes around the first difference are told of each side.
const context = 64

// Endpoint is that of all exchanges: what is asked for is not known.
const Endpoint = "flow"

// New returns what makes the driver of a flow.
func New() func(shadow.Session) shadow.Driver {
	return func(s shadow.Session) shadow.Driver {
		return &driver{session: s, sums: [2]hash.Hash64{fnv.New64a(), fnv.New64a()}}
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
	began   time.Time // when the client, or a server, said its first byte
	asked   int64     // bytes of the client
	left    shadow.End
	ends    [2]shadow.End
	times   [2]shadow.Reply // without fields
	sums    [2]hash.Hash64
	same    int64     // bytes that both have said, and alike
	tail    []byte    // the last of them
	ahead   [2][]byte // what a server has said and the other has not yet; one of them is empty
	over    bool
}

// Hear implements [shadow.Driver].
func (d *driver) Hear(e shadow.Event) shadow.Moves {
	if d.over {
		return shadow.Moves{Done: true}
	}
	if d.began.IsZero() {
		d.began = e.At
	}
	switch {
	case d.session.Control:
		return d.end(d.uncompared(shadow.Skipped, "bytes of which nothing is known are not sent twice"))
	case e.From == shadow.Client:
		return d.client(e)
	default:
		return d.server(e)
	}
}

// client passes on what the client says.
func (d *driver) client(e shadow.Event) shadow.Moves {
	if d.asked == 0 && isTLS(e.Bytes) {
		return d.end(d.uncompared(shadow.Opaque, "TLS, from byte 0 of the client on"))
	}
	d.asked += int64(len(e.Bytes))
	m := shadow.Moves{Send: append([]byte(nil), e.Bytes...)}
	if e.End != shadow.Open && d.left == shadow.Open {
		d.left, m.FIN = e.End, true
	}
	m.Owed = d.owed()
	return d.settle(m)
}

// isTLS says whether bytes begin as a TLS record with a handshake (RFC 8446,
// section 5.1).
func isTLS(bytes []byte) bool {
	return len(bytes) >= 2 && bytes[0] == 22 && bytes[1] == 3
}

// server compares what a server says.
func (d *driver) server(e shadow.Event) shadow.Moves {
	who := primary
	if e.From == shadow.Candidate {
		who = candidate
	}
	r := &d.times[who]
	if len(e.Bytes) > 0 {
		if r.First.IsZero() {
			r.First = e.At
		}
		r.Last, r.Bytes = e.At, r.Bytes+int64(len(e.Bytes))
		_, _ = d.sums[who].Write(e.Bytes) // never fails
		d.ahead[who] = append(d.ahead[who], e.Bytes...)
	}
	if e.End != shadow.Open && d.ends[who] == shadow.Open {
		d.ends[who] = e.End
	}
	if d.advance() {
		return d.end(d.compared(d.diverged))
	}
	if len(d.ahead[who]) > d.session.Keep {
		return d.end(d.uncompared(shadow.Truncated, fmt.Sprintf("one server is over %d bytes ahead of the other, at byte %d", d.session.Keep, d.same)))
	}
	return d.settle(shadow.Moves{Owed: d.owed()})
}

// advance goes on as far as both servers say the same, and says whether they part
// there.
func (d *driver) advance() (parted bool) {
	a, b := d.ahead[primary], d.ahead[candidate]
	n := min(len(a), len(b))
	for i := range n {
		if a[i] != b[i] {
			d.take(i)
			return true
		}
	}
	d.take(n)
	return false
}

// take forgets n bytes that are alike, but for the last of them.
func (d *driver) take(n int) {
	d.same += int64(n)
	d.tail = append(d.tail, d.ahead[primary][:n]...)
	d.tail = append([]byte(nil), d.tail[max(len(d.tail)-context, 0):]...)
	for who := range d.ahead {
		rest := d.ahead[who][n:]
		d.ahead[who] = append(d.ahead[who][:0], rest...)
	}
}

// owed says that the candidate has said less than the primary.
func (d *driver) owed() bool {
	return d.ends[candidate] == shadow.Open && (len(d.ahead[primary]) > 0 || d.ends[primary] != shadow.Open)
}

// settle ends the exchange when nothing more can come of it.
func (d *driver) settle(m shadow.Moves) shadow.Moves {
	a, b := d.ends[primary], d.ends[candidate]
	switch {
	case a == shadow.Open && b == shadow.Open, a != shadow.Open && b == shadow.Open:
		return m // the candidate may have more to say: its patience bounds it
	case d.times[candidate].Bytes == 0 && b != shadow.Closed:
		return d.end(d.uncompared(shadow.CandidateError, string(b)))
	case a == shadow.Open && len(d.ahead[primary]) == 0:
		return m // it has ended first: what the primary says next tells whether too early
	}
	return d.end(d.compared(d.whole))
}

func (d *driver) end(x shadow.Exchange) shadow.Moves {
	d.over = true
	d.ahead = [2][]byte{}
	return shadow.Moves{Exchanges: []shadow.Exchange{x}, FIN: true, Done: true}
}

func (d *driver) uncompared(why shadow.Verdict, reason string) shadow.Exchange {
	x := shadow.Exchange{Endpoint: Endpoint, Verdict: why, Reason: reason, Request: d.request()}
	x.Primary, x.Candidate = d.reply(primary), d.reply(candidate)
	return x
}

// compared makes an exchange of what fields says of each server.
func (d *driver) compared(fields func(who int) []shadow.Field) shadow.Exchange {
	x := d.uncompared("", "")
	x.Primary.Fields, x.Candidate.Fields = fields(primary), fields(candidate)
	return x
}

func (d *driver) request() []shadow.Field {
	return []shadow.Field{{Path: "bytes", Value: strconv.FormatInt(d.asked, 10), Plain: true}, {Path: "same", Value: strconv.FormatInt(d.same, 10), Plain: true}}
}

func (d *driver) reply(who int) shadow.Reply {
	r := d.times[who]
	r.Asked = d.began
	return r
}

// diverged are the fields of servers that say different bytes.
func (d *driver) diverged(who int) []shadow.Field {
	next := d.ahead[who][:min(len(d.ahead[who]), context)]
	return []shadow.Field{
		{Path: "bytes", Value: fmt.Sprintf("%#02x", next[0]), Level: shadow.Semantic},
		{Path: "context", Value: hex.EncodeToString(d.tail) + " | " + hex.EncodeToString(next), Level: shadow.Text},
	}
}

// whole are the fields of servers of which one has nothing more to say.
func (d *driver) whole(who int) []shadow.Field {
	return []shadow.Field{
		{Path: "length", Value: strconv.FormatInt(d.times[who].Bytes, 10), Level: shadow.Semantic, Plain: true},
		{Path: "hash", Value: hex.EncodeToString(d.sums[who].Sum(nil)), Level: shadow.Semantic, Plain: true},
		{Path: "end", Value: cmp.Or(string(d.ends[who]), "open"), Level: shadow.Decision, Plain: true},
	}
}

// Held implements [shadow.Driver].
func (d *driver) Held() int { return cap(d.ahead[primary]) + cap(d.ahead[candidate]) + cap(d.tail) }

// Stop implements [shadow.Driver].
func (d *driver) Stop(why shadow.Verdict, reason string) []shadow.Exchange {
	if d.over {
		return nil
	}
	return d.end(d.uncompared(why, reason)).Exchanges
}
