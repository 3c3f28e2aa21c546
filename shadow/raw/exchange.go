package raw

import (
	"cmp"
	"encoding/hex"
	"fmt"
	"strconv"
	"time"

	"github.com/splitd/splitd/shadow"
)

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

// request is what is told of the flow, and not compared: who ends first is a matter
// of a moment where both end.
func (d *driver) request() []shadow.Field {
	return []shadow.Field{
		plain("bytes of the client", number(d.said)),
		plain("bytes alike", number(d.race.same)),
		plain("ended first", cmp.Or(d.first, "nobody")),
	}
}

// reply has the times from when the server was sent the client's first byte. Where a
// server speaks first it is not known since when it might have.
func (d *driver) reply(who int) shadow.Reply {
	r := d.times[who]
	r.Asked = [...]time.Time{d.asked, d.passed}[who]
	return r
}

// diverged are the fields of servers that say different bytes.
func (d *driver) diverged(who int) []shadow.Field {
	next := d.race.differs[who]
	return append([]shadow.Field{{Path: "bytes", Value: fmt.Sprintf("%#02x", next[0]), Level: shadow.Semantic}}, d.around(next)...)
}

// stopped are the fields of servers of which one has ended and the other says more.
func (d *driver) stopped(who int) []shadow.Field {
	leads, length, end := d.race.leads(), "shorter", string(d.ends[who])
	var next []byte
	if who == leads {
		length, end, next = "longer", "later", clip(d.race.rest())
	}
	fields := []shadow.Field{{Path: "length", Value: length, Level: shadow.Semantic, Plain: true}}
	if leads == primary {
		// That a candidate says too much does not tell how it would end.
		fields = append(fields, shadow.Field{Path: "end", Value: end, Level: shadow.Decision, Plain: true})
	}
	return append(fields, d.around(next)...)
}

// whole are the fields of servers that have said the same, and all that they had to
// say as far as is known.
func (d *driver) whole(who int) []shadow.Field {
	end := cmp.Or(string(d.ends[who]), "open")
	if d.cut {
		end = "cut off"
	}
	return []shadow.Field{
		{Path: "length", Value: number(d.race.same), Level: shadow.Semantic, Plain: true},
		d.hash(),
		{Path: "end", Value: end, Level: shadow.Decision, Plain: true},
	}
}

// around tells where they part: the offset and a hash of what is the same, and the
// bytes before and behind it.
func (d *driver) around(next []byte) []shadow.Field {
	return []shadow.Field{
		plain("offset", number(d.race.same)),
		d.hash(),
		{Path: "context", Value: hex.EncodeToString(d.race.tail) + " | " + hex.EncodeToString(next), Level: shadow.Text},
	}
}

// hash is of the bytes that are alike. It is no Plain field: of few bytes it tells
// what they are.
func (d *driver) hash() shadow.Field {
	return shadow.Field{Path: "hash", Value: "fnv1a64 " + hex.EncodeToString(d.race.sum.Sum(nil)), Level: shadow.Text}
}

func plain(path, value string) shadow.Field {
	return shadow.Field{Path: path, Value: value, Level: shadow.Text, Plain: true}
}

func number(n int64) string { return strconv.FormatInt(n, 10) }
