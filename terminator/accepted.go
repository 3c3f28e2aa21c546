package terminator

import (
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"net"
	"slices"
	"sync"
	"time"
)

// Clients may refuse what they are shown in the primary's place: the chain is not whole, or of an
// authority that they do not know. Two things keep them from harm: a pair that the roots by
// which the primary is judged do not reach, while they reach the primary's, is not shown at all; and
// one that some of the last clients have refused rests. Many clients look at no certificate, so
// that one has accepted it says little.
const (
	mostRefused  = 3 // of the last clients
	lastClients  = 20
	firstRest    = time.Minute
	longestRest  = time.Hour
	chainsJudged = time.Minute // and how long that holds: roots may change
)

// acceptance is what is known of pairs in that. They are told apart by their whole chain, so one
// that is mended begins anew.
type acceptance struct {
	now   func() time.Time
	judge func(*tls.Certificate) error // by the roots for the primary; it waits for no disk

	mu sync.Mutex
	of map[chain]*standing
}

// A chain is the hash of all that is shown of a pair.
type chain [sha256.Size]byte

type standing struct {
	last    []bool // of the last clients, those that have refused it
	resting bool
	tried   bool // one client is shown it meanwhile
	rest    time.Duration
	until   time.Time // nobody is

	judged   time.Time
	distrust error // why roots do not reach it
}

func chainOf(c *tls.Certificate) chain {
	all := sha256.New()
	for _, der := range c.Certificate {
		_, _ = all.Write(der)
	}
	return chain(all.Sum(nil))
}

// standing is that of a pair; a.mu is held.
func (a *acceptance) standing(c *tls.Certificate) *standing {
	of := chainOf(c)
	s := a.of[of]
	if s == nil {
		const most = 1024 // of renewed ones those from before are forgotten with all others
		if a.of == nil || len(a.of) >= most {
			a.of = make(map[chain]*standing)
		}
		s = &standing{}
		a.of[of] = s
	}
	return s
}

// distrust says why the roots by which the primary is judged do not reach a pair; nil: they do.
func (a *acceptance) distrust(c *tls.Certificate) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	s := a.standing(c)
	if now := a.now(); s.judged.IsZero() || now.Sub(s.judged).Abs() >= chainsJudged {
		s.judged, s.distrust = now, a.judge(c)
	}
	return s.distrust
}

// judgeAgain is where roots have changed.
func (a *acceptance) judgeAgain() {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, s := range a.of {
		s.judged = time.Time{}
	}
}

// tries says whether a client is to be shown a pair. Of one that has rested enough the next
// client tells whether it is accepted now.
func (a *acceptance) tries(c *tls.Certificate) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	s, now := a.standing(c), a.now()
	if !s.resting {
		return true
	}
	if now.Before(s.until) {
		return false
	}
	s.tried, s.until = true, now.Add(s.rest)
	return true
}

// rests says whether a pair does.
func (a *acceptance) rests(c *tls.Certificate) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.standing(c).resting
}

// took notes that a client has accepted a pair. Who was shown it before it began to rest says
// nothing any more.
func (a *acceptance) took(c *tls.Certificate) {
	a.mu.Lock()
	defer a.mu.Unlock()
	s := a.standing(c)
	switch {
	case s.resting && !s.tried:
	case s.resting:
		s.resting, s.tried, s.last = false, false, nil
	case s.note(false) == 0 && len(s.last) == lastClients:
		s.rest = 0 // it is good again
	}
}

// refused notes that a client has not, and says whether the pair begins to rest by that. One that
// has rested already rests for longer.
func (a *acceptance) refused(c *tls.Certificate) (begins bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	s := a.standing(c)
	switch {
	case s.resting && !s.tried:
		return false
	case !s.resting && s.note(true) < mostRefused:
		return false
	}
	begins = !s.resting
	s.resting, s.tried = true, false
	s.rest = min(max(firstRest, 2*s.rest), longestRest)
	s.until = a.now().Add(s.rest)
	return begins
}

// note notes what a client did, and returns how many of the last have refused.
func (s *standing) note(refused bool) (all int) {
	if s.last = append(s.last, refused); len(s.last) > lastClients {
		s.last = s.last[1:]
	}
	for _, was := range s.last {
		if was {
			all++
		}
	}
	return all
}

// refusals are the alerts of who does not accept a certificate (RFC 8446, section 6.2).
var refusals = []tls.AlertError{42, 43, 44, 45, 46, 48}

// errRefused is of a handshake that a client has broken off because of what it was shown.
var errRefused = errors.New("the client refuses the service's certificate")

// refuses says whether a client has broken off a handshake because of our certificate. With TLS
// 1.3 OpenSSL says so in clear, which is no record that can be opened.
func refuses(err error) bool {
	const badRecordMAC tls.AlertError = 20
	op, ok := errors.AsType[*net.OpError](err)
	switch {
	case !ok:
		return false
	case op.Op == "local error":
		return op.Err.Error() == badRecordMAC.Error()
	}
	return op.Op == "remote error" && slices.ContainsFunc(refusals, func(a tls.AlertError) bool { return op.Err.Error() == a.Error() })
}

// isRefused notes that a client has refused a pair.
func (t *Terminator) isRefused(c *tls.Certificate) {
	if t.accepted.refused(c) {
		t.log.Warn("clients refuse the service's certificate: flows that it is for go on unseen, but for one now and then; see that its chain is whole, and of an authority that they know",
			"split", t.split, "names", c.Leaf.DNSNames, "clients", mostRefused)
	}
}
