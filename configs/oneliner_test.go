package configs_test

import (
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/splitd/splitd/configs"
	"github.com/splitd/splitd/traffic"
)

func TestOneLinerIsASplitInModeProxy(t *testing.T) {
	got, err := configs.OneLiner("127.0.0.1:2525", "10.0.0.11:25", "10.0.0.12:25", "5%")
	if err != nil {
		t.Fatal(err)
	}
	want := configs.Definition{
		Splits: []traffic.Split{{
			Name: "default",
			Service: traffic.Service{
				Addresses: []netip.Addr{netip.MustParseAddr("127.0.0.1")},
				Ports:     []traffic.Port{{Number: 2525, Transport: traffic.TCP}},
			},
			Protocol: "raw",
			Mode:     traffic.ModeProxy,
			Affinity: traffic.AffinityNone,
			Primary:  traffic.Backend{Name: "primary", Addresses: []traffic.Address{{IP: netip.MustParseAddr("10.0.0.11"), Port: 25}}},
			Candidates: []traffic.Backend{
				{Name: "candidate", Addresses: []traffic.Address{{IP: netip.MustParseAddr("10.0.0.12"), Port: 25}}, Weight: 50_000},
			},
			Return:   traffic.ReturnPolicy,
			WhenDown: traffic.WhenDownPrimary,
			Health:   traffic.Health{Check: traffic.CheckTCP, Interval: 2 * time.Second, Timeout: time.Second, Fall: 2, Rise: 3},
			Proxy: traffic.Proxy{
				ConnectTimeout: 500 * time.Millisecond, Fallback: traffic.FallbackPrimary,
				IdleTimeout: time.Hour, DrainTimeout: 30 * time.Second, PeerTimeout: 5 * time.Minute,
			},
			Shadow: traffic.Shadow{To: "candidate", FlowBudget: 1 << 20, Patience: 10 * time.Second, MaxFlows: 1000, MinEffect: 1000},
		}},
		Places: map[string]configs.Place{"default": {File: "--listen"}},
	}
	if diff := cmp.Diff(want, got, equateAddrs()); diff != "" {
		t.Errorf("definition (-want +got):\n%s", diff)
	}

	config, err := configs.WithDefinition(configs.Options{LookupEnv: env("SPLITD_LOG_FORMAT", "json")}, got)
	if err != nil {
		t.Fatal(err)
	}
	if config.HTTP.Listen != "" || config.Log.Format != "json" || len(config.Splits) != 1 || config.Control.GroupExplicit {
		t.Errorf("config %+v", config)
	}
	config, err = configs.WithDefinition(configs.Options{Flags: map[string]string{"http.listen": ":9480"}}, got)
	if err != nil || config.HTTP.Listen != ":9480" {
		t.Errorf("http %q, %v", config.HTTP.Listen, err)
	}
}

func TestOneLinerErrorsNameTheFlag(t *testing.T) {
	tests := []struct {
		name                               string
		listen, primary, candidate, weight string
		want                               []string
	}{
		{"nothing", "", "", "", "", []string{
			"--candidate: missing: the backend's address and port, such as 10.0.0.12:25",
			"--listen: missing: the address and port that clients use, such as 127.0.0.1:2525",
			"--primary: missing: the backend's address and port, such as 10.0.0.12:25",
		}},
		{"weight", "127.0.0.1:2525", "10.0.0.11:25", "10.0.0.12:25", "105%", []string{"--weight: 105% is over 100%"}},
		{"bare weight", "127.0.0.1:2525", "10.0.0.11:25", "10.0.0.12:25", "5", []string{
			"--weight: 5 is a bare number: write 5%",
		}},
		{"host names", "localhost:2525", "mx1:25", "mx2.example.org", "5%", []string{
			`--candidate: "mx2.example.org" is a host name: write its IP address`,
			`--listen: "localhost:2525" is a host name: write its IP address`,
			`--primary: "mx1:25" is a host name: write its IP address`,
		}},
		{"no port", "127.0.0.1", "10.0.0.11", "10.0.0.12", "5%", []string{
			`--listen: "127.0.0.1" has no port: write one such as 127.0.0.1:2525`,
		}},
		{"no address", ":2525", "10.0.0.11:25", "10.0.0.12:25", "5%", []string{
			`--listen: ":2525" has no address: write 0.0.0.0:2525 or [::]:2525`,
		}},
		{"a port alone", "2527", "10.0.0.11:25", "10.0.0.12:25", "5%", []string{
			`--listen: "2527" has no address: write ADDRESS:PORT, such as 127.0.0.1:2527`,
		}},
		{"a word", "mx", "10.0.0.11:25", "10.0.0.12:25", "5%", []string{
			`--listen: "mx" is not ADDRESS:PORT: write one such as 127.0.0.1:2525`,
		}},
		{"port zero", "127.0.0.1:0", "10.0.0.11:25", "10.0.0.12:0", "5%", []string{
			"--candidate: 10.0.0.12:0 has port 0: write 1 to 65535, or no port to keep the client's",
			`--listen: port "0" is not a number from 1 to 65535`,
		}},
		{"families", "127.0.0.1:2525", "[::1]:25", "10.0.0.12:25", "5%", []string{
			"--primary: no IPv4 address, but the service has 127.0.0.1 (--listen)",
		}},
		{"itself", "127.0.0.1:2525", "local", "127.0.0.1:2525", "5%", []string{
			"--candidate: 127.0.0.1 is the service's own address: a candidate needs one of its own",
			"--primary: local is 127.0.0.1 in mode proxy, at the service's own port (127.0.0.1 listens there): " +
				"give the service an address that the local server does not hold, or name the server's address and port",
		}},
		{"twins", "127.0.0.1:2525", "10.0.0.11:2525", "10.0.0.11", "5%", []string{
			`--candidate: 10.0.0.11 is where backend "primary" is too (--primary): their flows could not be told apart`,
		}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			_, err := configs.OneLiner(test.listen, test.primary, test.candidate, test.weight)
			refused(t, err, test.want...)
		})
	}
}
