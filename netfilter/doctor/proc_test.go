package doctor

import (
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const netstatText = `TcpExt: SyncookiesSent IPReversePathFilter TCPRcvQDrop
TcpExt: 0 40 0
IpExt: InNoRoutes InOctets
IpExt: 1 9000
`

const statText = `entries  clashres found new invalid ignore delete chainlength insert insert_failed drop early_drop icmp_error  expect_new expect_create expect_delete search_restart
0000000a  00000000 00000000 00000000 00000001 00000000 00000000 00000000 00000000 00000002 0000000f 00000001 00000000  00000000 00000000 00000000 00000000
0000000a  00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000001 00000001 00000000 00000000  00000000 00000000 00000000 00000000
`

const udpText = `   sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops
  367: 00000000:0035 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 100 2 0000000000000000 0
  368: 0100007F:0035 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 101 2 0000000000000000 0
  369: 00000000:1F90 0200000A:0035 01 00000000:00000000 00:00000000 00000000     0        0 102 2 0000000000000000 0
`

const udp6Text = `  sl  local_address                         remote_address                        st tx_queue
  1: 00000000000000000000000000000000:14E9 00000000000000000000000000000000:0000 07 00000000:00000000
`

func TestProcTextsAreRead(t *testing.T) {
	if diff := cmp.Diff(map[string]uint64{
		"TcpExt.SyncookiesSent": 0, "TcpExt.IPReversePathFilter": 40, "TcpExt.TCPRcvQDrop": 0, "IpExt.InNoRoutes": 1, "IpExt.InOctets": 9000,
	}, parseCounters(netstatText)); diff != "" {
		t.Errorf("counters (-want +got):\n%s", diff)
	}
	if got, want := parseTrackingStat(statText), (TrackingLosses{Dropped: 16, EarlyDropped: 1, InsertFailed: 3}); got != want {
		t.Errorf("losses = %+v, want %+v", got, want)
	}
	if got := append(parseUnboundUDP(udpText), parseUnboundUDP(udp6Text)...); !slices.Equal(got, []uint16{53, 5353}) {
		t.Errorf("unbound sockets have the ports %v", got)
	}
}

// TestThisKernelsOwnTextsHaveWhatIsLookedFor fails when a kernel names its
// counters otherwise: then nothing would ever be found.
func TestThisKernelsOwnTextsHaveWhatIsLookedFor(t *testing.T) {
	counters := parseCounters(proc("netstat"))
	maps.Copy(counters, parseCounters(proc("snmp")))
	for _, name := range []string{"TcpExt.IPReversePathFilter", "Icmp.OutRedirects"} {
		if _, ok := counters[name]; !ok {
			t.Errorf("%s is missing", name)
		}
	}
	head, _, _ := strings.Cut(proc("stat/nf_conntrack"), "\n")
	for _, name := range []string{"drop", "early_drop", "insert_failed"} {
		if !slices.Contains(strings.Fields(head), name) {
			t.Errorf("/proc/net/stat/nf_conntrack has no %s: %q", name, head)
		}
	}
}

func TestVersionsAreCompared(t *testing.T) {
	for text, want := range map[string]bool{
		"6.9.0": true, "6.9-rc1": true, "6.18.44-fc-v782": true, "7.0": true, "nftables v6.9.1 (name)": true,
		"6.8.12": false, "5.15": false, "": false, "six.nine": false, "6": false,
	} {
		if got := atLeast(text, 6, 9); got != want {
			t.Errorf("atLeast(%q, 6, 9) = %v", text, got)
		}
	}
}

func FuzzProcTexts(f *testing.F) {
	for _, seed := range []string{netstatText, statText, udpText, udp6Text, "", "\n\n\n", "a b\na 18446744073709551616\n", "drop\nffffffffffffffffff\n"} {
		f.Add(seed)
	}
	for _, name := range []string{"netstat", "snmp", "udp", "udp6"} {
		if text, err := os.ReadFile("/proc/self/net/" + name); err == nil {
			f.Add(string(text))
		}
	}
	f.Fuzz(func(t *testing.T, text string) {
		for name := range parseCounters(text) {
			if !strings.Contains(name, ".") {
				t.Errorf("a counter is named %q", name)
			}
		}
		_ = parseTrackingStat(text)
		if slices.Contains(parseUnboundUDP(text), 0) {
			t.Error("a socket with port 0")
		}
	})
}

func FuzzConfigurationTexts(f *testing.F) {
	for _, seed := range []string{"[Network]\nManageForeignRoutes=no\n", "[Network]\n=\n", savedRuleset, "v1.0.6", "nftables v1.1.3 (x)", "1.99999999999"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		_, _ = parseNetworkd(text)
		if major, minor, ok := parseVersion(text); ok && (major < 0 || minor < 0) {
			t.Errorf("version %d.%d", major, minor)
		}
		host := Host{Files: Files{Saved: map[string]string{"/etc/nftables.conf": text}}}
		if len(Judge(host, Question{})) < len(rows()) {
			t.Error("a row yields nothing")
		}
	})
}
