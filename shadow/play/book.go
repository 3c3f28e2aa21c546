package play

import (
	"encoding/json"
	"fmt"
	"sync"
	"time"

	"github.com/splitd/splitd/shadow"
	"github.com/splitd/splitd/shadow/runner"
	"github.com/splitd/splitd/shadow/tally"
)

// book is what was counted of one candidate, by one Play or by several that
// followed one another.
type book struct {
	protocol, candidate string
	totals              runner.Totals // runners count into it, without a lock

	mu        sync.Mutex // guards what follows, for as long as an addition takes
	tally     *tally.Tally
	learner   learner
	elsewhere runner.Declined // that were declined on the way here
	missed    runner.Declined // those of the totals and elsewhere that the tally has
	edition   uint64          // +1 with every change
	resets    uint64
	unsound   uint64 // times that sums were wrong
}

func newBook(p protocol, candidate string, t *tally.Tally) *book {
	return &book{protocol: p.name, candidate: candidate, tally: t}
}

// finding is an exchange with what it differs in.
type finding struct {
	exchange    shadow.Exchange
	differences []shadow.Difference
}

// add counts what was found.
func (b *book) add(found []finding, control bool, at time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.edition++
	for _, f := range found {
		switch {
		case !control:
			b.tally.Add(f.exchange, f.differences, at)
			if f.exchange.Safe {
				b.learner.saw(f.exchange.Endpoint)
			}
		case f.exchange.Safe: // else nobody has been asked
			b.tally.AddControl(f.exchange, f.differences, at)
		}
	}
}

// learns says whether a flow that begins is to be played to the control as well.
func (b *book) learns(draw float64, now time.Time) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.learner.wants(b.tally.WantsControl, draw, now)
}

// again says whether one more exchange of an endpoint is asked of the control.
func (b *book) again(endpoint string, draw float64, now time.Time) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.tally.WantsControl(endpoint, draw) && b.learner.exchanges.take(now, exchangesEach)
}

// settle counts the flows that were declined since; b.mu is held.
func (b *book) settle(at time.Time) {
	now := b.totals.Declined().Plus(b.elsewhere)
	for _, why := range [...]struct {
		count  uint64
		reason string
	}{
		{now.Full - b.missed.Full, "as many flows are shadowed already as max_flows lets, or as one of the relay's threads can have"},
		{now.Broken - b.missed.Broken, "the candidate fails or lags: it is left alone for a while"},
		{now.Stopped - b.missed.Stopped, "splitd ends, or shadows the split no more"},
		{now.Late - b.missed.Late, "the process that plays shadows is late: it has no processor"},
		{now.Lost - b.missed.Lost, "the process that plays shadows ended"},
	} {
		if why.count > 0 {
			b.tally.Miss(shadow.Dropped, why.reason, int64(why.count), at)
			b.edition++
		}
	}
	b.missed = now
}

// state is what is counted now.
func (b *book) state(at time.Time) (s tally.State, edition uint64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.settle(at)
	return b.tally.State(), b.edition
}

// decline counts flows that were declined on the way here.
func (b *book) decline(d runner.Declined) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.elsewhere = b.elsewhere.Plus(d)
}

// mistrust counts that sums were wrong.
func (b *book) mistrust() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.unsound++
}

// reset begins anew, and returns what was counted.
func (b *book) reset(at time.Time) tally.State {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.settle(at)
	held := b.tally.State()
	b.tally.Reset()
	b.learner = learner{}
	b.edition++
	b.resets++
	return held
}

// setRules goes on under other rules.
func (b *book) setRules(ignore []shadow.Ignore, full bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.tally.SetRules(ignore, full)
	b.edition++
}

// kept is a book as it lies on a disk.
type kept struct {
	Candidate string `json:"candidate"`
	Protocol  string `json:"protocol"`
	// Full says that samples may be unmasked.
	Full  bool            `json:"full,omitempty"`
	Tally json.RawMessage `json:"tally"`
}

// readBook makes a book of what was kept, or says why it cannot go on.
func readBook(text []byte, p protocol, candidate string, o tally.Options) (*book, error) {
	var k kept
	if err := json.Unmarshal(text, &k); err != nil {
		return nil, fmt.Errorf("read what was counted: %w", err)
	}
	if k.Candidate != candidate || k.Protocol != p.name {
		return nil, fmt.Errorf("what was counted is of candidate %q by protocol %s", k.Candidate, k.Protocol)
	}
	t, err := tally.Read(k.Tally, o)
	if err != nil {
		return nil, err
	}
	if k.Full && !o.Full {
		t.DropSamples()
	}
	return newBook(p, candidate, t), nil
}
