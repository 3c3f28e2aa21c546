package daemon

import (
	"fmt"
	"slices"
	"time"

	"github.com/splitd/splitd/control/api"
	"github.com/splitd/splitd/metrics"
	"github.com/splitd/splitd/shadow"
	"github.com/splitd/splitd/terminator"
	"github.com/splitd/splitd/traffic"
)

// sample is what the metrics tell of flows in TLS; nil where none is seen into.
func (i *insider) sample() *metrics.ShadowTLS {
	item := i.item()
	if item == nil {
		return nil
	}
	m := &metrics.ShadowTLS{
		Seen: item.Terminated, Resumed: item.Resumed, Passed: item.PassedThrough,
		Failed: map[string]uint64{"client": item.FailedClient, "primary": item.FailedPrimary},
	}
	for _, c := range item.Certificates {
		if m.Expires.IsZero() || c.NotAfter.Before(m.Expires) {
			m.Expires = c.NotAfter
		}
	}
	return m
}

// item is what an operator is told of them.
func (i *insider) item() *api.ShadowTLS {
	if i == nil {
		return nil
	}
	n := i.numbers()
	item := &api.ShadowTLS{
		Clear: n.Clear, Terminated: n.Terminated, Resumed: n.Resumed, PassedThrough: n.PassedThrough,
		FailedClient: n.FailedClient, FailedPrimary: n.FailedPrimary, Certificates: []api.ServiceCertificate{},
	}
	t := i.made.Load()
	if t == nil {
		return item
	}
	for _, c := range t.Served() {
		one := api.ServiceCertificate{Cert: c.Files.Cert, Key: c.Files.Key, NotAfter: c.NotAfter, RenewBy: c.RenewBy, Refused: c.Refused}
		if c.Fault != nil {
			one.Fault = c.Fault.Error()
		}
		if c.Distrust != nil {
			one.Distrust = c.Distrust.Error()
		}
		item.Certificates = append(item.Certificates, one)
	}
	return item
}

// certificateWarnings say which certificates are or will be over, and which files cannot be
// used.
func certificateWarnings(of *api.ShadowTLS, now time.Time) []string {
	if of == nil {
		return nil
	}
	var warnings []string
	for _, c := range of.Certificates {
		end := c.NotAfter.UTC().Format("2006-01-02 15:04 MST")
		switch {
		case now.After(c.NotAfter):
			warnings = append(warnings, fmt.Sprintf("the certificate in %q has expired on %s: sampled flows go on unseen where the primary's has not: renew it", c.Cert, end))
		case now.After(c.RenewBy):
			warnings = append(warnings, fmt.Sprintf("the certificate in %q expires on %s: renew it", c.Cert, end))
		}
		if c.Fault != "" {
			warnings = append(warnings, "sampled flows go on with the certificate of before: "+c.Fault)
		}
		switch {
		case c.Refused:
			warnings = append(warnings, fmt.Sprintf("clients have refused the certificate in %q, and flows that it is for go on unseen, but for one now and then: its chain has to be whole (certbot: fullchain.pem), and of an authority that they know", c.Cert))
		case c.Distrust != "":
			warnings = append(warnings, fmt.Sprintf("who trusts the primary's certificate would not trust the one in %q, and flows that it is for go on unseen: %s: its chain has to be whole (certbot: fullchain.pem), or its root beside that of the primary in to_primary", c.Cert, c.Distrust))
		}
	}
	return warnings
}

// blindness says that nothing was seen inside TLS of flows that are not a few, unless the user has
// said that it does not matter.
func blindness(of *api.ShadowTLS, split traffic.Split) []string {
	if of == nil || acceptsUnseen(split) {
		return nil
	}
	const few = 10
	var passed, most uint64
	var reason string
	for why, flows := range of.PassedThrough {
		if why == terminator.Unready || !terminator.Encrypted(why) {
			continue // of which another warning tells, or nobody knows
		}
		passed += flows
		if flows > most || flows == most && why < reason {
			most, reason = flows, why
		}
	}
	if of.Terminated > 0 || passed < few {
		return nil
	}
	return []string{fmt.Sprintf("none of %d flows in TLS was seen into, %d for this: %s. docs/shadow.md, \"Inside TLS\", says of each what helps", passed, most, reason)}
}

// acceptsUnseen says that a rule of the split has flows that are not seen into be none to mind.
func acceptsUnseen(split traffic.Split) bool {
	return slices.ContainsFunc(split.Shadow.Ignore, func(text string) bool {
		rule, err := shadow.ParseIgnore(text)
		return err == nil && rule.AcceptsUnseen()
	})
}
