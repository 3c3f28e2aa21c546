package daemon

import (
	"encoding/json"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/splitd/splitd/splitter"
	"github.com/splitd/splitd/traffic"
)

func TestARelaysFlowIsALineWithWhatTheRelayKnows(t *testing.T) {
	news := splitter.FlowNews{
		BackendKey: ofNew, Transport: traffic.TCP, Generation: 7, Why: traffic.WhyDraw, But: traffic.ButNever, Meant: "newer", At: noon, Connect: 1500 * time.Microsecond,
		Client: netip.MustParseAddrPort("203.0.113.7:41000"), Service: netip.MustParseAddrPort("192.0.2.25:25"), Server: netip.MustParseAddrPort("10.0.0.12:25"),
	}
	end := news
	end.Ends, end.End, end.By, end.Code, end.Lived, end.BytesIn = true, "reset", "client", "CD", 2*time.Second, 300
	datagrams := end
	datagrams.Transport, datagrams.End, datagrams.By, datagrams.Code, datagrams.DatagramsIn = traffic.UDP, "idle", "splitd", "sD", 3
	behind := news
	behind.Via = netip.MustParseAddrPort("198.51.100.80:50000")
	headerless := splitter.FlowNews{
		BackendKey: traffic.BackendKey{Split: "mx"}, Transport: traffic.TCP, Generation: 7, At: noon, Client: news.Client, Service: news.Service,
		Ends: true, End: "bad_header", By: "splitd", Code: "PR", Lived: time.Second,
	}
	served := `"split":"mx","generation":7,"backend":"new","transport":"tcp","client":"203.0.113.7:41000","service":"192.0.2.25:25","server":"10.0.0.12:25","why":"draw","but":"never","meant":"newer","connect_seconds":0.0015`
	for want, n := range map[string]splitter.FlowNews{
		`{"time":"2026-11-20T12:00:00Z","event":"new",` + served + `}`:                                                                                                                                                  news,
		`{"time":"2026-11-20T12:00:00Z","event":"end",` + served + `,"end":"reset","by":"client","code":"CD","seconds":2,"bytes_in":300,"bytes_out":0}`:                                                                 end,
		`{"time":"2026-11-20T12:00:00Z","event":"end",` + strings.Replace(served, "tcp", "udp", 1) + `,"end":"idle","by":"splitd","code":"sD","seconds":2,"bytes_in":300,"bytes_out":0,"packets_in":3,"packets_out":0}`: datagrams,
		`{"time":"2026-11-20T12:00:00Z","event":"new",` + strings.Replace(served, `25:25","server"`, `25:25","via":"198.51.100.80:50000","server"`, 1) + `}`:                                                            behind,
		`{"time":"2026-11-20T12:00:00Z","event":"end","split":"mx","generation":7,"backend":"","transport":"tcp","client":"203.0.113.7:41000","service":"192.0.2.25:25","server":"",` +
			`"end":"bad_header","by":"splitd","code":"PR","seconds":1,"bytes_in":0,"bytes_out":0}`: headerless,
	} {
		got, err := json.Marshal(relayRecord(n))
		if diff := cmp.Diff(want, string(got)); diff != "" || err != nil {
			t.Errorf("line: %v (-want +got):\n%s", err, diff)
		}
	}
}
