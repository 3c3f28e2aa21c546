package play

import (
	"fmt"

	"github.com/splitd/splitd/shadow"
	"github.com/splitd/splitd/shadow/http1"
	"github.com/splitd/splitd/shadow/raw"
	"github.com/splitd/splitd/shadow/smtp"
	"github.com/splitd/splitd/traffic"
)

// A protocol is what the comparer does not know of what is spoken in a split.
type protocol struct {
	name   string // as in the configuration
	driver func(shadow.Session) shadow.Driver
	noise  []shadow.Ignore // what is built in
	rule   string          // what may be written to the candidate
	learns bool            // something of it may be asked twice
}

// protocolOf makes that of a split.
func protocolOf(s traffic.Split) (protocol, error) {
	switch s.Protocol {
	case "smtp":
		return mail(s)
	case "http":
		return web(s)
	case "", "raw":
		return protocol{
			name: "raw", driver: raw.New(),
			rule: raw.Rule(),
		}, nil
	default:
		return protocol{}, fmt.Errorf("shadow split %q: nothing plays protocol %q: set protocol to smtp, http or raw", s.Name, s.Protocol)
	}
}

func mail(s traffic.Split) (protocol, error) {
	o := smtp.Options{
		Mode: smtp.Mode(s.Shadow.Mode), Token: s.Shadow.SinkToken,
		XCLIENT: s.Shadow.Identity == traffic.IdentityXCLIENT, Identified: identified(s),
	}
	if o.Mode == "" {
		o.Mode = smtp.Envelope
	}
	if err := o.Check(); err != nil {
		return protocol{}, fmt.Errorf("shadow split %q: %w", s.Name, err)
	}
	return protocol{name: "smtp", driver: smtp.New(o), noise: smtp.Noise(), rule: o.Rule(), learns: true}, nil
}

// identified says whether the candidate knows as well as the primary who a client
// is: it is told, or neither knows.
func identified(s traffic.Split) bool {
	return header(s) != "" || s.Mode == traffic.ModeProxy && !s.Proxy.Transparent && !s.Primary.Local
}

func web(s traffic.Split) (protocol, error) {
	o := http1.Options{PrimaryHosts: s.Shadow.PrimaryHosts, CandidateHosts: s.Shadow.CandidateHosts, LoopGuard: s.Shadow.LoopGuard}
	for _, text := range s.Shadow.Allow {
		allow, err := http1.ParseAllow(text)
		if err != nil {
			return protocol{}, fmt.Errorf("shadow split %q: %w", s.Name, err)
		}
		o.Allow = append(o.Allow, allow)
	}
	if err := o.Check(); err != nil {
		return protocol{}, fmt.Errorf("shadow split %q: %w", s.Name, err)
	}
	return protocol{name: "http", driver: http1.New(o), noise: http1.Noise(), rule: o.Rule(), learns: true}, nil
}

// Rule says in words what may be written to the candidate of a split.
func Rule(s traffic.Split) (string, error) {
	p, err := protocolOf(s)
	if err != nil {
		return "", err
	}
	return ruleOf(s, p), nil
}

// ruleOf adds to a protocol's rule by what the candidate is told whose a flow is.
func ruleOf(s traffic.Split, p protocol) string {
	switch version := header(s); {
	case version != "":
		return fmt.Sprintf("%s; before all else a PROXY header, %s", p.rule, version)
	case s.Shadow.Identity == traffic.IdentityXCLIENT && p.name == "smtp":
		return p.rule + "; XCLIENT to who offers it"
	}
	return p.rule
}
