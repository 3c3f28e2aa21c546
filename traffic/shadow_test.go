package traffic_test

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/splitd/splitd/traffic"
)

func TestASampleIsRefusedWhereItCannotOrMustNotBeShadowed(t *testing.T) {
	tcp := func(numbers ...uint16) (ports []traffic.Port) {
		for _, n := range numbers {
			ports = append(ports, traffic.Port{Number: n, Transport: traffic.TCP})
		}
		return ports
	}
	const mail = `protocol raw sends "new" all that clients say, and at port 25 that is mail, which would be delivered twice: set protocol: smtp`
	tests := []struct {
		name, protocol, to string
		ports              []traffic.Port
		at                 uint16 // of the candidate
		want               string
	}{
		{"mail", "smtp", "new", tcp(25), 0, ""},
		{"web", "http", "new", tcp(80), 0, ""},
		{"redis", "raw", "new", tcp(6379), 0, ""},
		{"nobody chosen", "smtp", "", tcp(25), 0, `shadow.to does not say which candidate: name one of "new", "newer"`},
		{"nobody there", "smtp", "old", tcp(25), 0, `shadow.to: "old" is not a candidate: name one of "new", "newer"`},
		{"mail as raw bytes", "raw", "new", tcp(80, 25), 0, mail},
		{"mail in a range", "raw", "new", []traffic.Port{{Number: 1, Last: 100, Transport: traffic.TCP}}, 0, mail},
		{"mail behind another port", "raw", "new", tcp(1025), 25, mail},
		{"mail behind a filter", "raw", "new", tcp(8025), 10025, strings.Replace(mail, "25", "10025", 1)},
		{"lmtp", "raw", "new", tcp(24), 0, strings.Replace(mail, "25", "24", 1)},
		{"mail without TLS", "raw", "new", tcp(465), 0, strings.Replace(mail, "25", "465", 1)},
		{"udp", "raw", "new", []traffic.Port{{Number: 25, Transport: traffic.UDP}}, 0, "the service has no tcp port, and shadows copy nothing else (for udp there is mirror, which compares nothing)"},
	}
	for _, test := range tests {
		split := traffic.Split{
			Protocol: test.protocol, Service: traffic.Service{Ports: test.ports}, Shadow: traffic.Shadow{To: test.to},
			Candidates: []traffic.Backend{
				{Name: "new", Addresses: []traffic.Address{{IP: netip.MustParseAddr("10.0.0.12"), Port: test.at}}},
				{Name: "newer", Addresses: []traffic.Address{{IP: netip.MustParseAddr("10.0.0.13")}}},
			},
		}
		got := ""
		if err := split.CheckSample(); err != nil {
			got = err.Error()
		}
		if got != test.want {
			t.Errorf("%s: got %q, want %q", test.name, got, test.want)
		}
	}
}

// Nobody sees from the service's port, nor the candidate's, that this is mail.
func TestASampleOfRawBytesIsRefusedWhereThePrimarySpeaksMail(t *testing.T) {
	split := traffic.Split{
		Protocol: "raw", Shadow: traffic.Shadow{To: "new"},
		Service:    traffic.Service{Ports: []traffic.Port{{Number: 8025, Transport: traffic.TCP}}},
		Primary:    traffic.Backend{Name: "old", Addresses: []traffic.Address{{IP: netip.MustParseAddr("10.0.0.11"), Port: 25}}},
		Candidates: []traffic.Backend{{Name: "new", Addresses: []traffic.Address{{IP: netip.MustParseAddr("10.0.0.12"), Port: 9025}}}},
	}
	if err := split.CheckSample(); err == nil || !strings.Contains(err.Error(), "at port 25 that is mail") {
		t.Errorf("with the primary at port 25: %v", err)
	}
	split.Primary.Addresses[0].Port = 11025
	if err := split.CheckSample(); err != nil {
		t.Errorf("with the primary at another port: %v", err)
	}
}
