package splitter

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/splitd/splitd/traffic"
)

// at makes a split of services with one remote or (empty) local primary.
func at(name, primary string, services ...string) traffic.Split {
	s := traffic.Split{Name: name, Primary: traffic.Backend{Name: "old", Local: primary == ""}}
	if primary != "" {
		s.Primary = remote("old", netip.MustParseAddrPort(primary))
	}
	for _, service := range services {
		a := netip.MustParseAddrPort(service)
		s.Service.Addresses = append(s.Service.Addresses, a.Addr())
		s.Service.Ports = []traffic.Port{{Number: a.Port(), Transport: traffic.TCP}}
	}
	return s
}

func TestLayoutRefusesWhatCannotBeServed(t *testing.T) {
	ofUDP := func(s traffic.Split) traffic.Split {
		s.Service.Ports[0].Transport = traffic.UDP
		return s
	}
	both := at("dns", "10.0.0.1:53", "192.0.2.1:53")
	both.Service.Ports = append(both.Service.Ports, traffic.Port{Number: 53, Transport: traffic.UDP})
	own := []netip.Addr{netip.MustParseAddr("192.0.2.9")}
	for name, test := range map[string]struct {
		splits []traffic.Split
		want   []string // nil: accepted
	}{
		"two splits on one address": {
			[]traffic.Split{at("a", "10.0.0.1:25", "192.0.2.1:25"), at("b", "10.0.0.1:25", "192.0.2.1:25")},
			[]string{`split "b": 192.0.2.1:25 is also covered by split "a": give each its own address or port`},
		},
		"a wildcard after an address": {
			[]traffic.Split{at("a", "10.0.0.1:25", "192.0.2.1:25"), at("b", "10.0.0.1:25", "0.0.0.0:25")},
			[]string{`split "b": 0.0.0.0:25 is also covered by split "a": give each its own address or port`},
		},
		"an address after a wildcard": {
			[]traffic.Split{at("a", "[2001:db8::1]:26", "[::]:25"), at("b", "[2001:db8::1]:26", "[2001:db8::2]:25")},
			[]string{`split "b": [2001:db8::2]:25 is also covered by split "a": give each its own address or port`},
		},
		"both wildcards side by side": {
			[]traffic.Split{at("a", "10.0.0.1:25", "0.0.0.0:25"), at("b", "[2001:db8::1]:25", "[::]:25")}, nil,
		},
		"TCP and UDP of one split at one port": {[]traffic.Split{both}, nil},
		"TCP and UDP of two splits at one port": {
			[]traffic.Split{at("a", "10.0.0.1:53", "0.0.0.0:53"), ofUDP(at("b", "10.0.0.1:53", "192.0.2.1:53"))}, nil,
		},
		"two splits on one address of UDP": {
			[]traffic.Split{both, ofUDP(at("b", "10.0.0.1:53", "0.0.0.0:53"))},
			[]string{`split "b": 0.0.0.0:53/udp is also covered by split "dns": give each its own address or port`},
		},
		"a local primary behind its own address of UDP": {
			[]traffic.Split{ofUDP(at("a", "", "127.0.0.1:53"))},
			[]string{`split "a": backend "old" is 127.0.0.1:53, where the split itself listens (127.0.0.1:53/udp): give the service an address that the server does not hold, or use mode: kernel`},
		},
		"a local primary behind its own address": {
			[]traffic.Split{at("a", "", "127.0.0.1:25")},
			[]string{`split "a": backend "old" is 127.0.0.1:25, where the split itself listens (127.0.0.1:25): give the service an address that the server does not hold, or use mode: kernel`},
		},
		"a local primary behind the wildcard": {
			[]traffic.Split{at("a", "", "[::]:25")},
			[]string{`split "a": backend "old" is [::1]:25, where the split itself listens ([::]:25): give the service an address that the server does not hold, or use mode: kernel`},
		},
		"an address of this host behind the wildcard": {
			[]traffic.Split{at("a", "192.0.2.9:25", "0.0.0.0:25")},
			[]string{`split "a": backend "old" is 192.0.2.9:25, where the split itself listens (0.0.0.0:25): give the service an address that the server does not hold, or use mode: kernel`},
		},
		"another host behind the wildcard": {[]traffic.Split{at("a", "192.0.2.8:25", "0.0.0.0:25")}, nil},
		"another port of this host":        {[]traffic.Split{at("a", "192.0.2.9:2525", "0.0.0.0:25")}, nil},
		"a local primary":                  {[]traffic.Split{at("a", "", "192.0.2.1:25", "[2001:db8::1]:25")}, nil},
		"one split behind another":         {[]traffic.Split{at("a", "192.0.2.2:25", "192.0.2.1:25"), at("b", "10.0.0.1:25", "192.0.2.2:25")}, nil},
		"all errors at once": {
			[]traffic.Split{at("c", "10.0.0.1:25", "192.0.2.1:25"), at("b", "10.0.0.1:25", "192.0.2.1:25"), at("a", "10.0.0.1:25", "192.0.2.2:25", "[2001:db8::1]:25")},
			[]string{
				`split "b": 192.0.2.1:25 is also covered by split "c": give each its own address or port`,
				`backend "old" of split "a": no address of the family of 2001:db8::1: give it one, or take the address from the service`,
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := layout(test.splits, own)
			var got []string
			if err != nil {
				got = strings.Split(err.Error(), "\n")
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("errors (-want +got):\n%s", diff)
			}
		})
	}
}
