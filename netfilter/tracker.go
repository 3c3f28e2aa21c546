package netfilter

import (
	"sync"
	"time"

	"github.com/splitd/splitd/traffic"
)

// A tracker knows the flows of the splits: those that are open, by looks at
// conntrack, and what became of those that have ended, by the looks and by the
// kernel's news of destroyed entries. News are hints: a flow that is missed by
// them (nf_conntrack_events is 2 by default, and then entries older than the
// first listener end in silence; or the socket was full) is missed by the next
// looks too and so has ended. Its methods may be called from many goroutines.
type tracker struct {
	mu       sync.Mutex // protects all below, and is held during a look
	lookup   *lookup
	known    map[uint64]flow
	most     int // of known
	accounts map[accountKey]*account
	look     uint64 // counts looks
	at       time.Time
	took     time.Duration
	bytes    bool   // the kernel counts them
	lost     uint64 // how often news were lost
}

func newTracker() *tracker {
	return &tracker{known: map[uint64]flow{}, most: knownMost, accounts: map[accountKey]*account{}}
}

// knownMost bounds the memory, some 100 MB. Of flows beyond it a look tells how
// many are open, and no more: what they carry and what becomes of them is known
// when the news tell.
const knownMost = 1 << 20

// A flow is what is remembered of one entry between two looks.
type flow struct {
	account *account
	in, out uint64 // bytes so far
	began   int64  // nanoseconds since 1970; 0: before anybody looked
	seen    int64  // the same: not later than this it began
	look    uint64 // the last one that saw it
	end     ending
	overdue bool // no answer came for traffic.AnswerDue
	over    bool // its end is counted
}

// An ending is how a flow ends, or would if it ended now.
type ending uint8

const (
	endClosed     ending = iota // in an orderly way, or by timeout
	endUnanswered               // nothing ever came back
	endRefused                  // nothing but a reset came back
	endReset                    // by a reset
)

func (e *entry) ending() ending {
	switch {
	case e.tcpState == tcpClose && e.answered():
		return endReset
	case e.tcpState == tcpClose:
		return endRefused
	case !e.answered():
		return endUnanswered
	}
	return endClosed
}

type accountKey struct {
	traffic.BackendKey
	generation traffic.Generation
}

// An account is what is known of the flows that a generation gave to a backend.
type account struct {
	into                        *account // it has been added to that one
	since                       time.Time
	flows, active, halfOpen     uint64
	overdue                     uint64 // of halfOpen
	ended                       uint64
	unanswered, refused, resets uint64
	late                        uint64 // of unanswered: those overdue
	in, out                     uint64
	lifetimes                   traffic.Lifetimes
	lost                        uint64 // what the tracker had lost when this began
}

// current is the account that this one has become part of.
func (c *account) current() *account {
	for c.into != nil {
		c = c.into
	}
	return c
}

func (t *tracker) account(key traffic.BackendKey, g traffic.Generation, now time.Time) *account {
	at := accountKey{key, g}
	c := t.accounts[at]
	if c == nil {
		c = &account{since: now, lost: t.lost}
		t.accounts[at] = c
	}
	return c
}

// identity tells entries apart: the kernel's id is a hash of 32 bits, in which
// a few among hundreds of thousands are alike.
func (e *entry) identity() uint64 {
	ip := e.original.source.As16()
	return uint64(e.id) | uint64(e.original.fromPort)<<32 | uint64(ip[14])<<48 | uint64(ip[15])<<56
}

// begin prepares a look. Called with mu held, as are see and end.
func (t *tracker) begin(l *lookup) {
	t.lookup = l
	t.look++
	for _, c := range t.accounts {
		c.active, c.halfOpen, c.overdue = 0, 0, 0
	}
}

// see takes note of an entry.
func (t *tracker) see(e *entry, now time.Time) {
	id := e.identity()
	f, known := t.known[id]
	if !known {
		at, ok := t.lookup.find(e)
		if !ok {
			return
		}
		f = flow{account: t.account(t.lookup.key(at), t.lookup.generation(at, e.mark, 0), now), began: t.began(e, now), seen: seen(e, now)}
		if len(t.known) >= t.most {
			f.account.sees(e)
			return
		}
		f.account.flows++
	}
	f.look = t.look
	t.note(&f, e, now)
	f.account.current().sees(e)
	if f.overdue && e.halfOpen() {
		f.account.current().overdue++
	}
	if !e.open() {
		t.conclude(&f, now)
	}
	t.known[id] = f
}

// sees counts an entry that is open now.
func (c *account) sees(e *entry) {
	if e.open() {
		c.active++
	}
	if e.halfOpen() {
		c.halfOpen++
	}
}

// leave takes back what the last look counted of a flow that is gone since.
func (f *flow) leave() {
	c := f.account.current()
	if f.over {
		return
	}
	c.active--
	if f.end == endUnanswered {
		c.halfOpen--
	}
	if f.overdue {
		c.overdue--
	}
}

// began is when a flow that is seen for the first time began: between the look
// before and this one. At the first look nobody knows.
func (t *tracker) began(e *entry, now time.Time) int64 {
	switch {
	case e.start != 0:
		return int64(e.start)
	case t.at.IsZero():
		return 0
	}
	return now.Add(-now.Sub(t.at) / 2).UnixNano()
}

// seen is the time at which a flow that is seen for the first time had begun for
// certain.
func seen(e *entry, now time.Time) int64 {
	if e.start != 0 {
		return int64(e.start)
	}
	return now.UnixNano()
}

// note brings what is remembered of a flow to what the entry says at that time.
func (t *tracker) note(f *flow, e *entry, at time.Time) {
	f.end = e.ending()
	f.overdue = f.end == endUnanswered && at.UnixNano()-f.seen >= int64(traffic.AnswerDue)
	if !e.counted {
		return
	}
	t.bytes = true
	c := f.account.current()
	c.in += max(e.in.bytes, f.in) - f.in
	c.out += max(e.out.bytes, f.out) - f.out
	f.in, f.out = max(e.in.bytes, f.in), max(e.out.bytes, f.out)
}

// conclude counts how a flow has ended, once.
func (t *tracker) conclude(f *flow, now time.Time) {
	if f.over {
		return
	}
	f.over = true
	c := f.account.current()
	c.ended++
	switch f.end {
	case endUnanswered:
		c.unanswered++
		if f.overdue {
			c.late++
		}
	case endRefused:
		c.refused++
	case endReset:
		c.resets++
	case endClosed:
	}
	if f.began != 0 {
		c.lifetimes.Add(max(0, time.Duration(now.UnixNano()-f.began)))
	}
}

// goneAfter is how many looks a flow may be missed by before it counts as ended:
// news of its end may be on the way when a look begins.
const goneAfter = 2

// end closes a look: what it and the one before did not see has ended.
func (t *tracker) end(now time.Time, took time.Duration) {
	for id, f := range t.known {
		if t.look-f.look >= goneAfter {
			t.conclude(&f, now)
			delete(t.known, id)
		}
	}
	t.at, t.took = now, took
	t.prune()
}

// destroyed takes note of the news that an entry is gone.
func (t *tracker) destroyed(e *entry, now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	id := e.identity()
	f, known := t.known[id]
	if !known {
		if t.lookup == nil {
			return
		}
		at, ok := t.lookup.find(e)
		if !ok {
			return
		}
		f = flow{account: t.account(t.lookup.key(at), t.lookup.generation(at, e.mark, generationsAhead), now), began: t.began(e, now), seen: seen(e, now)}
		f.account.flows++
	} else if f.look == t.look {
		f.leave()
	}
	if e.stop != 0 {
		now = time.Unix(0, int64(e.stop))
	}
	t.note(&f, e, now)
	t.conclude(&f, now)
	delete(t.known, id)
}

// generationsAhead is how much younger flows may be than the last look.
const generationsAhead = 8

// missed takes note that the kernel had to drop news.
func (t *tracker) missed() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.lost++
}

// generationsKept is how many generations of a split are told apart; what
// older ones did is added up under generation 0.
const generationsKept = 16

// prune adds up the old and drops splits that are gone.
func (t *tracker) prune() {
	young := make(map[string]traffic.Generation, len(t.lookup.splits))
	for _, s := range t.lookup.splits {
		young[s.split.Name] = s.split.Generation
	}
	for key, c := range t.accounts {
		youngest, stands := young[key.Split]
		switch {
		case !stands:
			delete(t.accounts, key)
		case key.generation != 0 && key.generation+generationsKept <= youngest:
			t.account(key.BackendKey, 0, c.since).take(c)
			delete(t.accounts, key)
		}
	}
}

// take adds up another account, which becomes part of this one.
func (c *account) take(other *account) {
	c.flows += other.flows
	c.active += other.active
	c.halfOpen += other.halfOpen
	c.overdue += other.overdue
	c.ended += other.ended
	c.unanswered += other.unanswered
	c.late += other.late
	c.refused += other.refused
	c.resets += other.resets
	c.in += other.in
	c.out += other.out
	c.lifetimes.Merge(other.lifetimes)
	if other.since.Before(c.since) {
		c.since, c.lost = other.since, other.lost
	}
	other.into = c
}

// backends adds up all generations of each.
func (t *tracker) backends() map[traffic.BackendKey]account {
	sums := make(map[traffic.BackendKey]account, len(t.accounts))
	for key, c := range t.accounts {
		sum, ok := sums[key.BackendKey]
		if !ok {
			sum = account{since: c.since, lost: c.lost}
		}
		part := *c
		sum.take(&part)
		sums[key.BackendKey] = sum
	}
	return sums
}

// evidence lists what is known by generation.
func (t *tracker) evidence() []traffic.Evidence {
	all := make([]traffic.Evidence, 0, len(t.accounts))
	for key, c := range t.accounts {
		e := traffic.Evidence{
			Split: key.Split, Backend: key.Backend, Generation: key.generation, Since: c.since, Until: t.at,
			Flows: c.flows, Active: c.active, HalfOpen: c.halfOpen,
			Ended: c.ended, Refused: c.refused, Unanswered: c.unanswered, Resets: c.resets,
			Overdue: c.overdue + c.late, Lifetimes: c.lifetimes, Lost: t.lost - c.lost,
		}
		if t.bytes {
			e.BytesIn, e.BytesOut = new(c.in), new(c.out)
		}
		all = append(all, e)
	}
	traffic.SortEvidence(all)
	return all
}

// fresh says whether the last look will do for who asks at that time.
func (t *tracker) fresh(now time.Time) bool { return fresh(t.at, t.took, now) }

// fresh says whether a look will do for who asks now. One that took long is good
// for a while, so that who asks all the time takes a fifth of a processor at most;
// a quick one never is.
func fresh(at time.Time, took time.Duration, now time.Time) bool {
	const long = 20 * time.Millisecond
	return took > long && now.Sub(at) < 4*took
}
