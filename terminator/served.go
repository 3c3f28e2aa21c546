package terminator

import (
	"time"

	"github.com/splitd/splitd/shadow"
	"github.com/splitd/splitd/traffic"
)

// Served is a certificate that clients are shown.
type Served struct {
	Files    traffic.Certificate
	NotAfter time.Time
	// RenewBy is when it should have been renewed.
	RenewBy time.Time
	// Fault is why it is not the one that is in its files now; nil: it is.
	Fault error
	// Distrust is why who trusts a primary's certificate by the roots for that would not trust
	// this one; nil: he would, or there are none.
	Distrust error
	// Refused says that clients have refused it, so that it rests.
	Refused bool
}

// Served returns them as they are now. It looks at no file.
func (t *Terminator) Served() []Served {
	pairs := *t.certificates.pairs.Load()
	all := make([]Served, len(pairs))
	for i, p := range pairs {
		leaf := p.certificate.Leaf
		by := shadow.Shown{Before: leaf.NotBefore, After: leaf.NotAfter}.RenewBy()
		all[i] = Served{Files: t.certificates.files[i], NotAfter: leaf.NotAfter, RenewBy: by, Fault: p.fault, Refused: t.accepted.rests(&p.certificate)}
		if len(t.trust.Pins) == 0 && !t.trust.Report {
			all[i].Distrust = t.accepted.distrust(&p.certificate)
		}
	}
	return all
}

// Plus are the numbers of both.
func (n Numbers) Plus(o Numbers) Numbers {
	passed := make(map[string]uint64, len(n.PassedThrough)+len(o.PassedThrough))
	for _, of := range []map[string]uint64{n.PassedThrough, o.PassedThrough} {
		for reason, flows := range of {
			passed[reason] += flows
		}
	}
	return Numbers{
		Clear: n.Clear + o.Clear, Terminated: n.Terminated + o.Terminated, Resumed: n.Resumed + o.Resumed, PassedThrough: passed,
		FailedClient: n.FailedClient + o.FailedClient, FailedPrimary: n.FailedPrimary + o.FailedPrimary,
		Probes: n.Probes + o.Probes, Panicked: n.Panicked + o.Panicked,
	}
}
