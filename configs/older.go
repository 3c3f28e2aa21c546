package configs

import (
	"reflect"

	"github.com/splitd/splitd/traffic"
)

// Complete returns a definition that an older version may have stored with the
// defaults of what that version did not know: what the same file means today.
func Complete(stored traffic.Split) traffic.Split {
	if reflect.ValueOf(stored.Health).IsZero() {
		stored.Health = defaultHealth()
		stored.Health.Check = traffic.DefaultCheck(stored.Protocol, stored.Service)
	}
	if stored.WhenDown == "" {
		stored.WhenDown = traffic.WhenDownPrimary
	}
	if stored.Affinity == traffic.AffinitySource && stored.AffinityPrefix == (traffic.AffinityPrefix{}) {
		stored.AffinityPrefix = defaultPrefix()
	}
	if reflect.ValueOf(stored.Shadow).IsZero() {
		stored.Shadow = defaultShadow()
		stored.Shadow = fitted(stored)
	}
	return stored
}
