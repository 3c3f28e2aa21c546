package traffic_test

import (
	"testing"

	"github.com/splitd/splitd/traffic"
)

func ports(all ...traffic.Port) traffic.Service { return traffic.Service{Ports: all} }

func tcp(number uint16) traffic.Port { return traffic.Port{Number: number, Transport: traffic.TCP} }
func udp(number uint16) traffic.Port { return traffic.Port{Number: number, Transport: traffic.UDP} }

func TestTheDefaultCheckIsTheProtocolsUnlessThePortBeginsWithTLS(t *testing.T) {
	tests := []struct {
		protocol string
		service  traffic.Service
		want     traffic.Check
	}{
		{"raw", ports(tcp(25)), traffic.CheckTCP},
		{"smtp", ports(tcp(25), tcp(465)), traffic.CheckSMTP},
		{"smtp", ports(tcp(465)), traffic.CheckTCP},
		{"http", ports(tcp(80), tcp(443)), traffic.CheckHTTP},
		{"http", ports(tcp(443)), traffic.CheckTCP},
		{"dns", ports(udp(53), tcp(53)), traffic.CheckDNS},
		{"raw", ports(udp(53), tcp(53)), traffic.CheckTCP},
		{"raw", ports(udp(514)), traffic.CheckNone},
		{"http", ports(udp(443)), traffic.CheckNone},
	}
	for _, tt := range tests {
		if got := traffic.DefaultCheck(tt.protocol, tt.service); got != tt.want {
			t.Errorf("DefaultCheck(%q, %v) = %q, want %q", tt.protocol, tt.service.Ports, got, tt.want)
		}
	}
}

func TestABackendIsCheckedWhereFlowsGo(t *testing.T) {
	both := ports(udp(53), tcp(853))
	tests := []struct {
		name    string
		service traffic.Service
		health  traffic.Health
		address traffic.Address
		want    uint16
	}{
		{"the service's first port of the transport", both, traffic.Health{Check: traffic.CheckTCP}, address("10.0.0.12"), 853},
		{"udp where dns has it", both, traffic.Health{Check: traffic.CheckDNS}, address("10.0.0.12"), 53},
		{"tcp where dns has no udp", ports(tcp(53)), traffic.Health{Check: traffic.CheckDNS}, address("10.0.0.12"), 53},
		{"the backend's own port", both, traffic.Health{Check: traffic.CheckTCP}, address("10.0.0.12:5353"), 5353},
		{"the port that is given", both, traffic.Health{Check: traffic.CheckTCP, Port: 80}, address("10.0.0.12:5353"), 80},
		{"any port for a command", ports(udp(514)), traffic.Health{Check: traffic.CheckExec}, address("10.0.0.12"), 514},
		{"none", ports(udp(514)), traffic.Health{Check: traffic.CheckTCP}, address("10.0.0.12"), 0},
	}
	for _, tt := range tests {
		s := traffic.Split{Service: tt.service, Health: tt.health}
		if got, ok := s.CheckPort(tt.address); got != tt.want || ok != (tt.want != 0) {
			t.Errorf("%s: CheckPort = %d, %v, want %d", tt.name, got, ok, tt.want)
		}
	}
}

func TestQueriesAreANameAndAType(t *testing.T) {
	good := map[string]struct {
		name string
		kind uint16
	}{
		"example.org":       {"example.org.", 1},
		"example.org. aaaa": {"example.org.", 28},
		" . NS ":            {".", 2},
		"_sip._tcp.a SRV":   {"_sip._tcp.a.", 33},
	}
	for text, want := range good {
		name, kind, err := traffic.ParseQuery(text)
		if err != nil || name != want.name || kind != want.kind {
			t.Errorf("ParseQuery(%q) = %q, %d, %v, want %q, %d", text, name, kind, err, want.name, want.kind)
		}
	}
	for _, text := range []string{"", "a b c", "a ANY", "a..b", ".a", "ä", string(make([]byte, 300))} {
		if _, _, err := traffic.ParseQuery(text); err == nil {
			t.Errorf("ParseQuery(%q) accepts it", text)
		}
	}
}
