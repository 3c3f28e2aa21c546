package terminator

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/splitd/splitd/shadow"
	"github.com/splitd/splitd/shadow/secure"
)

const (
	mostKnown  = 1024
	mostProbes = 4 // at once
	// knownFor is how long what was found is believed, failedFor a failure; from half of it on the
	// next flow has the primary probed again.
	knownFor  = 5 * time.Minute
	failedFor = 30 * time.Second
	// askedFor is how long it is believed that a primary asks for a new handshake, which no probe
	// finds out.
	askedFor = 24 * time.Hour
	// probePatience is how long a probe may take: some servers of mail greet late on purpose.
	probePatience = 10 * time.Second
)

// A finding is what is known of a primary, for what a client asks: what a handshake comes to, or
// why the flow has to be passed through.
type finding struct {
	handshake shadow.Handshake
	reason    string
}

func (f finding) lasts() time.Duration {
	switch f.reason {
	case unopened:
		return failedFor
	case asksAnew:
		return askedFor
	}
	return knownFor
}

// A place is where a primary's TLS begins: at an address, at once or by what is agreed in clear.
type place struct {
	primary netip.AddrPort
	agreed  bool
}

// A question is what a finding is for.
type question struct {
	at                       place
	name, protocols, ciphers string
	least, most              uint16
}

func questionOf(at place, asked shadow.Handshake) question {
	return question{
		at: at, name: strings.ToLower(asked.ServerName), protocols: strings.Join(asked.Protocols, "\x00"),
		ciphers: fmt.Sprint(asked.Ciphers), least: asked.Least, most: asked.Most,
	}
}

// anew is under what it is noted that a primary asks for new handshakes, whoever asks.
func anew(q question) question { return question{at: q.at, name: q.name, protocols: asksAnew} }

type entry struct {
	finding  finding
	at       time.Time // when it was found; zero: it was not yet
	probed   bool      // a probe is under way
	outdated bool      // what it finds is judged by what is no more
}

// knowledge is what is known of primaries.
type knowledge struct {
	t       *Terminator
	dial    func(context.Context, netip.AddrPort) (net.Conn, error)
	ctx     context.Context
	cancel  context.CancelFunc
	running sync.WaitGroup

	mu      sync.Mutex
	pairs   []pair         // the service's own, and
	roots   *x509.CertPool // the primary's, by which all was judged
	entries map[question]*entry
	probes  int // under way
	warned  time.Time
}

func newKnowledge(t *Terminator, dial func(context.Context, netip.AddrPort) (net.Conn, error)) *knowledge {
	k := &knowledge{t: t, dial: dial, entries: map[question]*entry{}}
	k.ctx, k.cancel = context.WithCancel(context.Background())
	return k
}

func (k *knowledge) close() {
	k.mu.Lock()
	k.cancel() // under the lock: no probe begins behind it
	k.mu.Unlock()
	k.running.Wait()
}

// judgedBy has everything be found anew where the service's certificates, or the roots of the
// primary's, are others than they were; else it says that they are the same.
func (k *knowledge) judgedBy(pairs []pair, roots *x509.CertPool) (same bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	same = roots.Equal(k.roots) && slices.EqualFunc(pairs, k.pairs, pair.same)
	k.pairs, k.roots = pairs, roots
	if !same {
		k.forget(func(question) bool { return true })
	}
	return same
}

// forget has things be found anew, but that a primary asks for a new handshake in the middle,
// which no probe finds.
func (k *knowledge) forget(those func(question) bool) {
	maps.DeleteFunc(k.entries, func(q question, e *entry) bool {
		if those(q) && e.finding.reason != asksAnew {
			e.at, e.outdated = time.Time{}, e.probed
		}
		return e.at.IsZero() && !e.probed
	})
}

// changed notes that a primary is not any more what it was for who asks that: for all others it
// is found anew, or each of them would be refused once.
func (k *knowledge) changed(at place, asked shadow.Handshake) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.doubt(questionOf(at, asked))
}

func (k *knowledge) doubt(found question) {
	k.forget(func(q question) bool { return q.at == found.at && q != found })
}

// of returns what is known, and has the primary probed where that is nothing or old. It does not
// wait.
func (k *knowledge) of(at place, asked shadow.Handshake) (finding, bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	q := questionOf(at, asked)
	e, now := k.entries[q], k.t.now()
	if e == nil {
		e = &entry{}
	}
	if asks := k.entries[anew(q)]; asks != nil && now.Sub(asks.at) < askedFor {
		return asks.finding, true
	}
	age, lasts := now.Sub(e.at), e.finding.lasts()
	if (e.at.IsZero() || age >= lasts/2) && !e.probed && k.probes < mostProbes && k.ctx.Err() == nil {
		k.room()
		k.entries[q] = e
		e.probed = true
		k.probes++
		k.running.Go(func() { k.probe(q, e, asked) })
	}
	return e.finding, !e.at.IsZero() && age < lasts
}

// room makes room for one entry, of those that are old, or of any.
func (k *knowledge) room() {
	if len(k.entries) < mostKnown {
		return
	}
	now := k.t.now()
	maps.DeleteFunc(k.entries, func(_ question, e *entry) bool { return !e.probed && now.Sub(e.at) >= e.finding.lasts() })
	for q, e := range k.entries {
		if len(k.entries) < mostKnown {
			return
		}
		if !e.probed {
			delete(k.entries, q)
		}
	}
}

// probe makes a handshake of our own.
func (k *knowledge) probe(q question, e *entry, asked shadow.Handshake) {
	k.t.counts.probes.Add(1)
	ctx, cancel := context.WithTimeout(k.ctx, probePatience)
	defer cancel()
	h, err := k.try(ctx, q.at, asked)
	k.mu.Lock()
	defer k.mu.Unlock()
	outdated := e.outdated
	e.probed, e.outdated = false, false
	k.probes--
	if outdated { // it was judged by what is no more
		delete(k.entries, q)
		return
	}
	if k.ctx.Err() == nil {
		k.note(q, e, h, err)
	}
}

func (k *knowledge) try(ctx context.Context, at place, asked shadow.Handshake) (_ shadow.Handshake, err error) {
	defer func() {
		if p := recover(); p != nil {
			k.t.counts.panicked.Add(1)
			k.t.log.Error("probe of a primary's TLS has panicked", "split", k.t.split, "primary", at.primary, "panic", p)
			err = errors.New("it has panicked")
		}
	}()
	conn, err := k.dial(ctx, at.primary)
	if err != nil {
		return shadow.Handshake{}, fmt.Errorf("connect: %w", err)
	}
	defer func() { _ = conn.Close() }()
	defer context.AfterFunc(ctx, func() { _ = conn.SetDeadline(past) })()
	if at.agreed {
		if err := k.t.protocol.agree(conn); err != nil {
			return shadow.Handshake{}, err
		}
	}
	inside, h, err := secure.Open(ctx, conn, k.t.named(asked), k.t.verifier.Load(), true)
	if err != nil {
		return h, err
	}
	if k.t.protocol.leave != nil {
		k.t.protocol.leave(inside, at.agreed)
	}
	_ = inside.Close() // with close_notify
	return h, nil
}

// learn notes what the handshake of a flow came to.
func (k *knowledge) learn(at place, asked, h shadow.Handshake, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	q := questionOf(at, asked)
	e := k.entries[q]
	if e == nil {
		k.room()
		e = &entry{}
		k.entries[q] = e
	}
	k.note(q, e, h, err)
}

// asks notes that a primary asks for a new handshake in the middle of a flow, as for a
// certificate of the client.
func (k *knowledge) asks(at place, asked shadow.Handshake) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.room()
	k.entries[anew(questionOf(at, asked))] = &entry{finding: finding{reason: asksAnew}, at: k.t.now()}
}

func (k *knowledge) note(q question, e *entry, h shadow.Handshake, err error) {
	was, known := e.finding.reason, !e.at.IsZero()
	e.at = k.t.now()
	e.finding = finding{handshake: h, reason: reasonOf(err)}
	if is := e.finding.reason; known && was == "" && (is == asksClient || is == untrusted) {
		k.doubt(q)
	}
	if err == nil || e.finding.reason == asksClient || !k.warned.IsZero() && e.at.Sub(k.warned) < knownFor {
		return
	}
	k.warned = e.at
	k.t.log.Warn("primary's TLS cannot be opened: flows to it are passed through unseen",
		"split", k.t.split, "primary", q.at.primary, "server_name", q.name, "reason", e.finding.reason, "error", err)
}

// reasonOf is why flows are passed through to a primary with which a handshake has failed.
func reasonOf(err error) string {
	switch {
	case err == nil:
		return ""
	case errors.Is(err, secure.ErrClientCertificate):
		return asksClient
	case errors.Is(err, secure.ErrUntrusted):
		return untrusted
	}
	return unopened
}
