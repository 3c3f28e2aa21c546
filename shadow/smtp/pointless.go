package smtp

import (
	"fmt"
	"strings"

	"github.com/splitd/splitd/shadow"
)

// Pointless says why a rule excuses nothing, empty when it may excuse something.
func Pointless(rule shadow.Ignore) string {
	inner := rule
	for _, excuse := range []string{excuseIdentity, excuseGreylisting} {
		if path, ok := strings.CutPrefix(rule.Path, excuse+" "); ok {
			inner.Path = path
		}
	}
	switch {
	case rule.Endpoint == shadow.Handshaken, rule.Endpoint == "" && rule.MayMatch(shadow.SecuredPaths()...):
		return shadow.PointlessSecured(rule)
	case !inner.MayMatch("code", "enhanced", "text", "greeting", "keyword ", excuseIdentity+" ", excuseGreylisting+" "):
		return fmt.Sprintf("no effect: %q is no path of protocol smtp: those are code, enhanced, text, greeting, keyword NAME, and the same below %s and %s; for all of a command write \"%s RCPT | *\"",
			rule.Path, excuseIdentity, excuseGreylisting, rule.Predicate)
	case rule.Endpoint != "" && strings.ContainsAny(rule.Endpoint, "/ "):
		return fmt.Sprintf("no effect: %q is no endpoint of protocol smtp: those are greeting, content, and commands such as RCPT", rule.Endpoint)
	}
	return ""
}
