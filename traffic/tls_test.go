package traffic_test

import (
	"testing"

	"github.com/splitd/splitd/traffic"
)

func TestTrustIsSaidInWords(t *testing.T) {
	for want, trust := range map[string]traffic.Trust{
		"of a root that this host trusts":                          {System: true},
		"of a root that this host trusts, and of mx.example.org":   {System: true, Name: "mx.example.org"},
		`of a root in "/etc/ssl/roots.pem", and of mx.example.org`: {CA: "/etc/ssl/roots.pem", Name: "mx.example.org"},
		"one with a pinned key (of 2)":                             {Pins: []string{"a", "b"}},
		"whatever it shows (what is wrong with it is reported)":    {Report: true},
	} {
		if got := trust.String(); got != want {
			t.Errorf("%+v is %q, want %q", trust, got, want)
		}
	}
}
