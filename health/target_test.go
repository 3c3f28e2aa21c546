package health_test

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/splitd/splitd/health"
	"github.com/splitd/splitd/traffic"
)

func ip(text string) netip.Addr { return netip.MustParseAddr(text) }

func ips(texts ...string) []netip.Addr {
	var all []netip.Addr
	for _, text := range texts {
		all = append(all, ip(text))
	}
	return all
}

func addresses(texts ...string) []traffic.Address {
	var all []traffic.Address
	for _, text := range texts {
		if both, err := netip.ParseAddrPort(text); err == nil {
			all = append(all, traffic.Address{IP: both.Addr(), Port: both.Port()})
			continue
		}
		all = append(all, traffic.Address{IP: ip(text)})
	}
	return all
}

func mx() traffic.Split {
	return traffic.Split{
		Name:    "mx",
		Mode:    traffic.ModeKernel,
		Service: traffic.Service{Addresses: ips("192.0.2.25", "192.0.2.26", "2001:db8::25"), Ports: []traffic.Port{{Number: 25, Transport: traffic.TCP}}},
		Primary: traffic.Backend{Name: "old", Local: true},
		Candidates: []traffic.Backend{
			{Name: "new", Addresses: addresses("10.0.0.12", "10.0.0.13:2525", "2001:db8:1::12")},
		},
		Health:   traffic.Health{Check: traffic.CheckTCP, Interval: time.Second, Fall: 2, Rise: 3},
		WhenDown: traffic.WhenDownPrimary,
	}
}

func endpoints(targets []health.Target) map[string][]string {
	found := map[string][]string{}
	for _, t := range targets {
		found[t.Backend] = append(found[t.Backend], t.Endpoint().String())
	}
	return found
}

func TestEveryAddressOfEveryBackendIsChecked(t *testing.T) {
	tests := []struct {
		name   string
		change func(*traffic.Split)
		want   map[string][]string
	}{
		{"a local primary where clients find it, each address of a candidate", func(*traffic.Split) {}, map[string][]string{
			"old": {"192.0.2.25:25", "[2001:db8::25]:25"},
			"new": {"10.0.0.12:25", "10.0.0.13:2525", "[2001:db8:1::12]:25"},
		}},
		{"a local primary of the relay on loopback", func(s *traffic.Split) { s.Mode = traffic.ModeProxy }, map[string][]string{
			"old": {"127.0.0.1:25", "[::1]:25"},
			"new": {"10.0.0.12:25", "10.0.0.13:2525", "[2001:db8:1::12]:25"},
		}},
		{"no family that the service does not have", func(s *traffic.Split) { s.Service.Addresses = ips("192.0.2.25") }, map[string][]string{
			"old": {"192.0.2.25:25"},
			"new": {"10.0.0.12:25", "10.0.0.13:2525"},
		}},
		{"a port of its own", func(s *traffic.Split) { s.Health.Port = 80; s.Service.Addresses = ips("192.0.2.25") }, map[string][]string{
			"old": {"192.0.2.25:80"},
			"new": {"10.0.0.12:80", "10.0.0.13:80"},
		}},
		{"nothing with check none", func(s *traffic.Split) { s.Health.Check = traffic.CheckNone }, map[string][]string{}},
		{"nothing without a port to check", func(s *traffic.Split) { s.Service.Ports[0].Transport = traffic.UDP }, map[string][]string{
			"new": {"10.0.0.13:2525"},
		}},
	}
	for _, tt := range tests {
		s := mx()
		tt.change(&s)
		if diff := cmp.Diff(tt.want, endpoints(health.Targets(s, 0))); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tt.name, diff)
		}
	}
}

func TestWhatIsDownIsWithdrawnPerFamilyAndThePrimaryNeverWhole(t *testing.T) {
	const p, keep = traffic.WhenDownPrimary, traffic.WhenDownKeep
	local := func(s *traffic.Split) {
		s.Primary, s.Candidates[0].Addresses, s.Candidates[0].Local = s.Candidates[0], nil, true
	}
	farm := func(s *traffic.Split) {
		s.Primary = traffic.Backend{Name: "old", Addresses: addresses("10.0.1.11", "10.0.1.12", "2001:db8:1::11")}
	}
	tests := []struct {
		name     string
		whenDown traffic.WhenDown
		change   func(*traffic.Split)
		down     []netip.Addr
		want     []netip.Addr // of the candidate
		primary  []netip.Addr
	}{
		{"nothing", p, nil, nil, nil, nil},
		{"one of two of a family", p, nil, ips("10.0.0.13"), ips("10.0.0.13"), nil},
		{"a family", p, nil, ips("2001:db8:1::12"), ips("2001:db8:1::12"), nil},
		{"all", p, nil, ips("10.0.0.12", "10.0.0.13", "2001:db8:1::12"), ips("10.0.0.12", "10.0.0.13", "2001:db8:1::12"), nil},
		{"a local primary", p, nil, ips("192.0.2.25", "2001:db8::25"), nil, nil},
		{"one of two of a primary", p, farm, ips("10.0.1.12"), nil, ips("10.0.1.12")},
		{"all of a primary", p, farm, ips("10.0.1.11", "10.0.1.12", "2001:db8:1::11"), nil, nil},
		{"a local candidate", p, local, ips("2001:db8::25"), ips("2001:db8::25"), nil},
		{"keep: a local candidate", keep, local, ips("2001:db8::25"), nil, nil},
		{"keep: one of two of a family is left out", keep, nil, ips("10.0.0.13", "2001:db8:1::12"), ips("10.0.0.13"), nil},
		{"keep: all stay", keep, nil, ips("10.0.0.12", "10.0.0.13", "2001:db8:1::12"), nil, nil},
		{"no check", p, func(s *traffic.Split) { s.Health.Check = traffic.CheckNone }, ips("10.0.0.12"), nil, nil},
	}
	for _, tt := range tests {
		s := mx()
		s.WhenDown = tt.whenDown
		if tt.change != nil {
			tt.change(&s)
		}
		got := health.Withdraw(s, func(k health.Key) bool { return k.Split == "mx" && slices.Contains(tt.down, k.Address) })
		equal := cmp.Comparer(func(a, b netip.Addr) bool { return a == b })
		if diff := cmp.Diff(tt.want, got.Candidates[0].Down, equal); diff != "" {
			t.Errorf("%s: candidate (-want +got):\n%s", tt.name, diff)
		}
		if diff := cmp.Diff(tt.primary, got.Primary.Down, equal); diff != "" {
			t.Errorf("%s: primary (-want +got):\n%s", tt.name, diff)
		}
		if len(s.Candidates[0].Down) > 0 {
			t.Errorf("%s: the original has changed", tt.name)
		}
	}
}

func TestABackendIsDownWhenAllOfItsAddressesAre(t *testing.T) {
	status := func(address string, s health.Standing) health.Status {
		return health.Status{Key: health.Key{Address: ip(address)}, Standing: s}
	}
	up, refused := health.Standing{State: health.Up}, health.Standing{State: health.Down, Reason: "refused"}
	stuck := refused
	stuck.Trouble = "no memory"
	tests := []struct {
		name     string
		statuses []health.Status
		state    health.State
		reason   string
	}{
		{"up", []health.Status{status("10.0.0.12", up), status("::1", up)}, health.Up, ""},
		{"down", []health.Status{status("10.0.0.12", refused)}, health.Down, "down: refused"},
		{"down in both", []health.Status{status("10.0.0.12", refused), status("::1", refused)}, health.Down, "10.0.0.12 down: refused; ::1 down: refused"},
		{"half", []health.Status{status("10.0.0.12", up), status("::1", refused)}, health.Up, "::1 down: refused"},
		{"nothing known", []health.Status{status("10.0.0.12", health.Standing{State: health.Checking})}, health.Checking, ""},
		{"nothing known of one", []health.Status{status("10.0.0.12", refused), status("::1", health.Standing{State: health.Checking})}, health.Checking, "10.0.0.12 down: refused"},
		{"a first failure", []health.Status{status("10.0.0.12", health.Standing{State: health.Up, Reason: "refused"})}, health.Up, "refused"},
		{"rising", []health.Status{status("10.0.0.12", health.Standing{State: health.Down})}, health.Down, "down, checks pass again, but not yet often enough"},
		{"cannot be checked", []health.Status{status("10.0.0.12", stuck)}, health.Down, "down: refused; cannot be checked: no memory"},
	}
	for _, tt := range tests {
		state, reason := health.Sum(tt.statuses)
		if state != tt.state || reason != tt.reason {
			t.Errorf("%s: Sum = %s, %q, want %s, %q", tt.name, state, reason, tt.state, tt.reason)
		}
	}
}
