package traffic

import "time"

// Shadow says how the sampled flows of a split are played to a candidate, and how
// what it answers is compared. Which of the flows are sampled is Split.Sample.
type Shadow struct {
	// To is the candidate that they are played to; empty where there is none to
	// play to.
	To string `json:"to,omitempty"`
	// Mode is how much a candidate gets, in the protocol's words.
	Mode string `json:"mode,omitempty"`
	// SinkToken is what a candidate has to show that is to get whole mails.
	SinkToken string `json:"sink_token,omitempty"`
	// Identity is how a candidate is told whose a flow is.
	Identity Identity `json:"identity,omitempty"`
	// Allow are requests beyond the harmless ones that a candidate may have, as in
	// "POST /search".
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
	// Ignore are rules of what may differ.
	Ignore []string `json:"ignore,omitempty"`
	// MinEffect is how much more often than by itself something has to differ to be
	// reported.
	MinEffect Weight `json:"min_effect_ppm,omitempty"`
	// FullSamples keeps what clients and servers said in samples, unmasked.
	FullSamples bool `json:"full_samples,omitempty"`
	// Control is who is asked a second time, to learn what differs by itself.
	Control Control `json:"control,omitzero"`
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
	// Address, where it is valid, is who is asked in the primary's place.
	Address Address `json:"address,omitzero"`
}
