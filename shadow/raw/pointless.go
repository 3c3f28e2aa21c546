package raw

import (
	"fmt"

	"github.com/splitd/splitd/shadow"
)

// Pointless says why a rule excuses nothing, empty when it may excuse something.
func Pointless(rule shadow.Ignore) string {
	endpoint := shadow.Ignore{Path: rule.Endpoint}
	if rule.Endpoint == shadow.Handshaken || rule.Endpoint == "" && rule.MayMatch(shadow.SecuredPaths()...) {
		return shadow.PointlessSecured(rule)
	}
	switch {
	case !rule.MayMatch("bytes", "length", "hash", "end", "offset", "context"):
		return fmt.Sprintf("no effect: %q is no path of protocol raw: those are bytes, length, hash, end, offset, context", rule.Path)
	case rule.Endpoint != "" && !endpoint.MayMatch(Endpoint):
		return fmt.Sprintf("no effect: %q is no endpoint of protocol raw: there is one, %s", rule.Endpoint, Endpoint)
	}
	return ""
}
