//go:build e2ereal

package real

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/splitd/splitd/internal/nettest"
	"github.com/splitd/splitd/internal/programs"
)

// receiverConfigs are return paths of both kinds and both families.
var receiverConfigs = map[string]string{
	"address": `
return_paths:
  - {name: four, via: 10.0.0.1,     device: eth0, match: address, address: 10.0.0.200}
  - {name: six,  via: "fd00:25::1", device: eth0, match: address, address: "fd00:25::200"}
`,
	"mark": `
return_paths:
  - {name: four, via: 10.0.0.1,     device: eth0, match: mark, ports: [25/tcp]}
  - {name: six,  via: "fd00:25::1", device: eth0, match: mark}
`,
}

const daemonConfig = `
control: {socket: %[1]s/splitd.sock}
http: {listen: ""}
state_dir: %[1]s/state
`

// newReceiver is a new host beside its router, without addresses if networkd
// is to give them.
func newReceiver(t *testing.T, addresses ...string) (l *lab, host *nettest.NS) {
	t.Helper()
	l = &lab{t: t, dir: openDir(t)}
	host = nettest.New(t, "new")
	l.old = nettest.New(t, "old")
	nettest.Link(t, l.old, "eth1", []string{"10.0.0.1/24", "fd00:25::1/64"}, host, "eth0", addresses)
	l.install()
	return l, host
}

var hostAddresses = []string{newV4 + "/24", newV6 + "/64", "10.0.0.200/32", "fd00:25::200/128"}

// receiving is what the tools list of the receiving side: the rules, the
// routes of its tables, its nft table. Who made them is left out.
func receiving(t *testing.T, ns *nettest.NS) string {
	t.Helper()
	var lines []string
	for _, command := range []string{"ip rule", "ip -6 rule", "ip route show table 5300", "ip route show table 5301", "ip -6 route show table 5300", "ip -6 route show table 5301"} {
		words := strings.Fields(command)
		r, err := run(t.Context(), ns, nil, words[0], words[1:]...)
		if err != nil {
			t.Fatal(err)
		}
		var part []string // a table that was never used is an error
		for line := range strings.Lines(r.stdout) {
			line = regexp.MustCompile(` (proto \w+|onlink|pref medium|dev lo)`).ReplaceAllString(strings.TrimRight(line, " \n"), "")
			part = append(part, strings.TrimSpace(line))
		}
		slices.Sort(part)
		lines = append(lines, "$ "+command)
		lines = append(lines, part...)
	}
	return strings.Join(lines, "\n") + "\n" + ours(ns)
}

// byDaemon is what splitd itself makes of the return paths.
func byDaemon(t *testing.T, config string) string {
	t.Helper()
	l, host := newReceiver(t, hostAddresses...)
	d := l.startDaemon(host, daemonConfig+config, nil)
	text := receiving(t, host)
	d.stop()
	return text
}

// printed is what plan --receiver prints of the return paths.
func (l *lab) printed(config, form string) string {
	l.t.Helper()
	file := write(l.t, filepath.Join(l.dir, "receiver.yaml"), config)
	out, err := exec.Command(programs.Path(l.t, "splitctl"), "plan", "--receiver", "-o", form, "--config", file).Output()
	if err != nil {
		l.t.Fatalf("plan --receiver: %v", err)
	}
	return string(out)
}

func TestWhatPlanPrintsForTheNewHostMakesWhatTheDaemonMakes(t *testing.T) {
	for kind, config := range receiverConfigs {
		want := byDaemon(t, config)
		withoutTable, _, _ := strings.Cut(want, "table inet")

		t.Run(kind+"/nft", func(t *testing.T) {
			l, host := newReceiver(t, hostAddresses[:2]...)
			file := write(t, filepath.Join(l.dir, "receiver.nft"), l.printed(config, "nft"))
			for range 2 { // again changes nothing
				host.Run("nft", "-c", "-f", file)
				host.Run("nft", "-f", file)
				host.Run("sh", "-ec", "sed -n 's/^#=> //p' "+file+" | sh -e")
				if diff := cmp.Diff(withWhicheverNeighbour(want), withWhicheverNeighbour(receiving(t, host))); diff != "" {
					t.Errorf("nft and ip (-splitd +printed):\n%s", diff)
				}
			}
		})
		t.Run(kind+"/ifupdown", func(t *testing.T) {
			l, host := newReceiver(t, hostAddresses[:2]...)
			before := receiving(t, host)
			file := write(t, filepath.Join(l.dir, "interfaces"), l.printed(config, "ifupdown"))
			ifupdown := func(verb string) {
				host.Run(verb, "--force", "--no-scripts", "--interfaces", file, "--state-dir", l.dir, "eth0")
			}
			for range 2 {
				ifupdown("ifup")
				if diff := cmp.Diff(withoutTable, receiving(t, host)); diff != "" {
					t.Errorf("ifup (-splitd +ifupdown):\n%s", diff)
				}
			}
			ifupdown("ifdown")
			if diff := cmp.Diff(before, receiving(t, host)); diff != "" {
				t.Errorf("left by ifdown:\n%s", diff)
			}
		})
		t.Run(kind+"/networkd", func(t *testing.T) {
			l, host := newReceiver(t)
			l.networkd(host, l.printed(config, "networkd"), "")
			var got string
			nettest.Eventually(t, "networkd has made what splitd makes", func() bool {
				got = receiving(t, host)
				return got == withoutTable || t.Context().Err() != nil
			})
		})
	}
}

// withWhicheverNeighbour leaves out which link-layer address an element is, and the
// comment by which the daemon notes whose it is.
func withWhicheverNeighbour(text string) string {
	return regexp.MustCompile(`elements = { [0-9a-f:]{17}( comment "[^"]*")? }`).ReplaceAllString(text, "elements = { one }")
}

// networkd runs systemd-networkd on the host with a drop-in for eth0, in a
// mount namespace of its own: it reads no file of the machine's, and with a
// read-only /sys it waits for no udev, as in a container.
func (l *lab) networkd(host *nettest.NS, dropIn, settings string) *server {
	l.t.Helper()
	dir := filepath.Join(l.dir, "networkd")
	for _, name := range []string{"network/10-eth0.network.d", "networkd.conf.d"} {
		if err := os.MkdirAll(filepath.Join(dir, name), 0o755); err != nil {
			l.t.Fatal(err)
		}
	}
	write(l.t, filepath.Join(dir, "network/10-eth0.network"), fmt.Sprintf("[Match]\nName=eth0\n[Network]\nAddress=%s/24\nAddress=%s/64\nIPv6AcceptRA=no\nLinkLocalAddressing=ipv6\n", newV4, newV6))
	write(l.t, filepath.Join(dir, "network/10-eth0.network.d/splitd.conf"), dropIn)
	write(l.t, filepath.Join(dir, "networkd.conf.d/test.conf"), settings)
	cmd := exec.Command("unshare", "--mount", "--propagation", "private", "sh", "-ec", `
		mount -t tmpfs none /run
		mkdir -p /run/systemd
		cp -r `+dir+`/network `+dir+`/networkd.conf.d /run/systemd/
		install -d -o systemd-network -g systemd-network /run/systemd/netif
		mount -t tmpfs none /etc/systemd
		mount -t sysfs -o ro none /sys
		SYSTEMD_LOG_TARGET=console exec /lib/systemd/systemd-networkd`)
	return serve(l.t, host, "systemd-networkd", nil, false, cmd)
}

// TestBesideNetworkdReturnPathsStayAsTheyAreWanted lets networkd configure the
// device, twice, because the device goes down meanwhile, and lets it go. What of
// other programs' rules and routes networkd removes depends on its version.
func TestBesideNetworkdReturnPathsStayAsTheyAreWanted(t *testing.T) {
	for name, settings := range map[string]string{
		"by default":             "",
		"told to leave us alone": "[Network]\nManageForeignRoutingPolicyRules=no\nManageForeignRoutes=no\n",
	} {
		t.Run(name, func(t *testing.T) {
			l, host := newReceiver(t, hostAddresses...)
			d := l.startDaemon(host, daemonConfig+receiverConfigs["address"], nil)
			want := receiving(t, host)
			asWanted := func() bool { return receiving(t, host) == want }
			networkd := l.networkd(host, "[Address]\nAddress=10.0.0.200/32\n[Address]\nAddress=fd00:25::200/128\n", settings)
			configured := func(times int) func() bool {
				return func() bool { return strings.Count(networkd.said.String(), "eth0: Gained carrier") == times }
			}
			networkd.until("has configured eth0", configured(1))
			nettest.Eventually(t, "all is as splitd wants it", asWanted)
			host.Run("ip", "link", "set", "eth0", "down")
			nettest.Eventually(t, "the ways back are gone", func() bool { return !asWanted() })
			host.Run("ip", "link", "set", "eth0", "up")
			networkd.until("has configured eth0 again", configured(2))
			nettest.Eventually(t, "all is as splitd wants it", asWanted)
			_ = networkd.cmd.Process.Signal(syscall.SIGTERM)
			<-networkd.ended
			nettest.Eventually(t, "all is as splitd wants it", asWanted)
			d.stop()
		})
	}
}
