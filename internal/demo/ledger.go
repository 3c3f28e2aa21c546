package demo

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"
)

// between is the step of a mail that was under way while a share changed: it
// may rightly arrive on either side, and counts in everything but shares.
const between = -1

// ledger books every mail: when it was sent, what the client was told, where
// it arrived. Its methods may be called from many goroutines.
type ledger struct {
	mu    sync.Mutex
	mails map[string]*entry
	step  int // that mails are booked to now
	// tallies count by step, kept because a live line asks often.
	tallies map[int]*tally
}

// entry is the life of one mail.
type entry struct {
	step     int
	client   netip.Addr // it was sent from here
	sent     bool       // false: it arrived, but nobody here sent it
	answered bool       // the client knows: accepted or failed
	failure  string     // why the client was not told that it was accepted
	arrivals []arrival
}

// arrival is one copy of a mail in the hands of a backend.
type arrival struct {
	backend string
	client  netip.Addr // as the backend saw it
}

// tally counts the mails of one step.
type tally struct {
	Sent, Answered, Failed int
	Arrived                map[string]int // by backend
}

func newLedger() *ledger {
	return &ledger{step: between, mails: make(map[string]*entry), tallies: make(map[int]*tally)}
}

// Turn books the mails that are sent from now on to the step.
func (l *ledger) Turn(step int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.step = step
}

// Send books a mail that is about to be sent from the client's address.
func (l *ledger) Send(id string, client netip.Addr) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.mails[id] = &entry{step: l.step, client: client, sent: true}
	l.tally(l.step).Sent++
}

// Answer books what the client was told: accepted when failure is "".
func (l *ledger) Answer(id, failure string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	e, ok := l.mails[id]
	if !ok || e.answered {
		return
	}
	e.answered, e.failure = true, failure
	t := l.tally(e.step)
	t.Answered++
	if failure != "" {
		t.Failed++
	}
}

// Arrive books a mail that a backend took in, and the client's address that it
// saw.
func (l *ledger) Arrive(id, backend string, client netip.Addr) {
	l.mu.Lock()
	defer l.mu.Unlock()
	e, ok := l.mails[id]
	if !ok {
		e = &entry{step: between}
		l.mails[id] = e
	}
	if len(e.arrivals) == 0 {
		l.tally(e.step).Arrived[backend]++
	}
	e.arrivals = append(e.arrivals, arrival{backend: backend, client: client})
}

// Tally counts the mails of a step so far.
func (l *ledger) Tally(step int) tally {
	l.mu.Lock()
	defer l.mu.Unlock()
	t := *l.tally(step)
	t.Arrived = maps.Clone(t.Arrived)
	return t
}

// settle waits a moment for the accepted mails of a step to be reported by the
// side that has them. One that is not is lost, which Judge says.
func (l *ledger) settle(ctx context.Context, step int) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	for ctx.Err() == nil {
		if t := l.Tally(step); t.total() >= t.Answered-t.Failed {
			return
		}
		time.Sleep(time.Millisecond)
	}
}

// Pending is the number of mails that were sent and not answered.
func (l *ledger) Pending() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	pending := 0
	for _, t := range l.tallies {
		pending += t.Sent - t.Answered
	}
	return pending
}

func (l *ledger) tally(step int) *tally {
	t, ok := l.tallies[step]
	if !ok {
		t = &tally{Arrived: make(map[string]int)}
		l.tallies[step] = t
	}
	return t
}

// share is the part of the arrived mails that the backend has; 0 at none.
func (t tally) share(backend string) float64 {
	total := t.total()
	if total == 0 {
		return 0
	}
	return float64(t.Arrived[backend]) / float64(total)
}

// total is the number of mails that arrived.
func (t tally) total() int {
	total := 0
	for _, n := range t.Arrived {
		total += n
	}
	return total
}

// verdict is what the ledger proves once everything has arrived.
type verdict struct {
	Sent, Accepted int
	Lost           []string       // accepted, but no backend has it
	Twice          []string       // arrived more than once
	Strays         []string       // arrived, but nobody here sent it
	Failures       map[string]int // why clients were not told that a mail was accepted
	Arrived        map[string]int // mails by backend
	// Clients are the client addresses that each backend saw.
	Clients map[string]map[netip.Addr]int
	// Strangers are mails whose backend saw another address than the one that
	// they were sent from.
	Strangers []string
}

// Judge compares what was sent with what arrived.
func (l *ledger) Judge() verdict {
	l.mu.Lock()
	defer l.mu.Unlock()
	v := verdict{Failures: make(map[string]int), Arrived: make(map[string]int), Clients: make(map[string]map[netip.Addr]int)}
	for _, id := range slices.Sorted(maps.Keys(l.mails)) {
		v.judge(id, l.mails[id])
	}
	return v
}

func (v *verdict) judge(id string, e *entry) {
	switch {
	case !e.sent:
		v.Strays = append(v.Strays, id)
	case !e.answered:
		v.Sent++
		v.Failures["the client never heard of it again"]++
	case e.failure != "":
		v.Sent++
		v.Failures[e.failure]++
	default:
		v.Sent++
		v.Accepted++
		if len(e.arrivals) == 0 {
			v.Lost = append(v.Lost, id)
		}
	}
	if len(e.arrivals) > 1 {
		v.Twice = append(v.Twice, id)
	}
	for i, a := range e.arrivals {
		if i == 0 {
			v.Arrived[a.backend]++
		}
		if v.Clients[a.backend] == nil {
			v.Clients[a.backend] = make(map[netip.Addr]int)
		}
		v.Clients[a.backend][a.client]++
		if e.sent && a.client != e.client {
			v.Strangers = append(v.Strangers, fmt.Sprintf("%s from %s was seen as %s by %q", id, e.client, a.client, a.backend))
		}
	}
}

// failed is the number of mails that a client had to give up.
func (v verdict) failed() int {
	failed := 0
	for _, n := range v.Failures {
		failed += n
	}
	return failed
}
