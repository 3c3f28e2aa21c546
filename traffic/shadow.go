package traffic

import (
	"errors"
	"fmt"
	"slices"
	"time"
)

// Shadow says how the sampled flows of a split are played to a candidate, and how
// what it answers is compared. Which of the flows are sampled is Split.Sample. A
// definition has what its protocol uses, and nothing of the others'.
type Shadow struct {
	// To is the candidate that they are played to. Empty where nobody has chosen
	// among several: then none may be sampled, see Split.CheckSample.
	To string `json:"to,omitempty"`
	// Mode is how much a candidate gets, in the protocol's words. SMTP alone has
	// modes: "envelope", "data-abort", "sink".
	Mode string `json:"mode,omitempty"`
	// SinkToken is what a candidate has to show that is to get whole mails. With
	// Mode "sink" alone.
	SinkToken string `json:"sink_token,omitempty"`
	// Identity is how a candidate is told whose a flow is. Where the candidate
	// expects a PROXY header on every connection (Proxy.SendProxy) it is that one.
	// Whoever is asked a second time (Control) gets the primary's: that of SendProxy,
	// or none.
	Identity Identity `json:"identity,omitempty"`
	// Allow are requests beyond the harmless ones that a candidate may have, as in
	// "POST /search". HTTP alone, as the hosts and the guard.
	Allow []string `json:"allow,omitempty"`
	// PrimaryHosts and CandidateHosts are names by which each calls itself in what it
	// answers.
	PrimaryHosts   []string `json:"primary_hosts,omitempty"`
	CandidateHosts []string `json:"candidate_hosts,omitempty"`
	// LoopGuard is the header that each request to a candidate gets; empty is none.
	LoopGuard string `json:"loop_guard,omitempty"`
	// FlowBudget is the most memory that the shadow of one flow may hold, in bytes.
	FlowBudget int64 `json:"flow_budget,omitempty"`
	// Patience is how long the candidate may take to be connected, and owe a reply.
	Patience time.Duration `json:"patience,omitempty"`
	// MaxFlows is how many flows may be played at once; 0 is no limit.
	MaxFlows int `json:"max_flows,omitempty"`
	// Ignore are rules of what may differ, as the comparer writes them.
	Ignore []string `json:"ignore,omitempty"`
	// MinEffect is how much more often than by itself something has to differ to be
	// reported.
	MinEffect Weight `json:"min_effect_ppm,omitempty"`
	// FullSamples keeps what clients and servers said in samples, unmasked.
	FullSamples bool `json:"full_samples,omitempty"`
	// Control is who is asked a second time, to learn what differs by itself.
	Control Control `json:"control,omitzero"`
	// TLS is how encrypted flows are seen into.
	TLS TLS `json:"tls,omitzero"`
}

// Identity is how a candidate is told whose a shadowed flow is; the zero value
// tells it nothing.
type Identity string

// IdentityXCLIENT is SMTP's command for it, the others are the headers of the
// PROXY protocol.
const (
	IdentityXCLIENT Identity = "xclient"
	IdentityProxyV1 Identity = "proxy-v1"
	IdentityProxyV2 Identity = "proxy-v2"
)

// Control is who is asked a second time: the primary, unless it says otherwise.
type Control struct {
	// Off asks nobody.
	Off bool `json:"off,omitempty"`
	// Address, where its IP is valid, is who is asked in the primary's place, at the
	// primary's port unless it has its own.
	Address Address `json:"address,omitzero"`
}

// CheckSample says what keeps flows of the split from being shadowed, and what to
// do about it: nothing may raise its Sample over 0 until then.
func (s Split) CheckSample() error {
	tcp := func(p Port) bool { return p.Transport == TCP }
	if !slices.ContainsFunc(s.Service.Ports, tcp) {
		return errors.New("the service has no tcp port, and shadows copy nothing else (for udp there is mirror, which compares nothing)")
	}
	if len(s.Candidates) == 0 {
		return errors.New("there is no candidate that flows could be played to: write one under candidates")
	}
	if s.Shadow.To == "" {
		return fmt.Errorf("shadow.to does not say which candidate: name one of %s", s.candidateNames())
	}
	to, known := s.Candidate(s.Shadow.To)
	if !known {
		return fmt.Errorf("shadow.to: %q is not a candidate: name one of %s", s.Shadow.To, s.candidateNames())
	}
	if port, speaks := s.mailPort(to); s.Protocol == "raw" && speaks {
		return fmt.Errorf("protocol raw sends %q all that clients say, and at port %d that is mail, which would be delivered twice: set protocol: smtp", to.Name, port)
	}
	return nil
}

// mailPort is a port at which clients, the primary or the backend speak SMTP or LMTP
// (RFC 5321, section 4.5.4.2; RFC 6409, section 3.1; RFC 8314, section 3.3, where
// somebody in front has taken TLS off) or are used to: 24 is LMTP's, 10024 to 10027
// are where filters of content stand. At other ports the driver hears that it is
// mail.
func (s Split) mailPort(b Backend) (uint16, bool) {
	for _, number := range [...]uint16{25, 24, 26, 465, 587, 2424, 2465, 2500, 2525, 2526, 2587, 10024, 10025, 10026, 10027} {
		in := func(p Port) bool { return p.Transport == TCP && p.Contains(number) }
		at := func(a Address) bool { return a.Port == number }
		if slices.ContainsFunc(s.Service.Ports, in) || slices.ContainsFunc(b.Addresses, at) || slices.ContainsFunc(s.Primary.Addresses, at) {
			return number, true
		}
	}
	return 0, false
}
