package configs

import (
	"strings"
	"testing"
)

// A transparent relay can show no backend a client of the other family, in either
// direction: who reads the plan finds out before the first client is reset.
func TestWhichClientsATransparentRelayCannotShowIsNoted(t *testing.T) {
	const (
		four, six = "192.0.2.25", "2001:db8::25"
		backend4  = "10.0.0.12"
		backend6  = "fd00::12"
	)
	for name, tc := range map[string]struct {
		service, backend, networks, rest string
		want                             string // "" for no note
	}{
		"IPv6 clients of an IPv4 service":  {four, backend4, "203.0.113.0/24", "", "every IPv6 client that a PROXY header names (accept_proxy) is reset: the proxies connect by IPv4 alone"},
		"IPv4 clients of an IPv6 service":  {six, backend6, "2001:db8:f::/64", "", "every IPv4 client that a PROXY header names (accept_proxy) is reset: the proxies connect by IPv6 alone"},
		"proxies of one family alone":      {four + ", " + six, backend4 + ", " + backend6, "203.0.113.0/24", "", "every IPv6 client"},
		"a service of one family alone":    {four, backend4, "203.0.113.0/24, 2001:db8:f::/64", "", "every IPv6 client"},
		"proxies of both families":         {four + ", " + six, backend4 + ", " + backend6, "203.0.113.0/24, 2001:db8:f::/64", "", "is reset where its address is of the other family"},
		"proxies that cannot connect":      {four, backend4, "2001:db8:f::/64", "", ""},
		"no proxies":                       {four, backend4, "", "", ""},
		"a header tells backends, instead": {four, backend4, "203.0.113.0/24", "send_proxy: v2", ""},
	} {
		proxy := "transparent: true"
		if tc.rest != "" {
			proxy = tc.rest
		}
		d, err := ParseDefinition("x.yaml", []byte("splits: [{name: mx, mode: proxy, service: {addresses: ["+quoted(tc.service)+
			"], ports: [25/tcp]}, primary: {name: old, addresses: [local]}, candidates: [{name: new, addresses: ["+quoted(tc.backend)+"], weight: 5%}], proxy: {"+proxy+", accept_proxy: ["+quoted(tc.networks)+"]}}]\n"))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		got := strings.Join(d.Notes, "\n")
		if tc.want == "" && got != "" || !strings.Contains(got, tc.want) {
			t.Errorf("%s: the notes are %q, want %q", name, got, tc.want)
		}
	}
}

// quoted are the items of a list, which may have colons.
func quoted(list string) string {
	if list == "" {
		return ""
	}
	return "'" + strings.ReplaceAll(list, ", ", "', '") + "'"
}
