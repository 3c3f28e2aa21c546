//go:build e2ereal

package real

import (
	"io"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/splitd/splitd/internal/nettest"
)

// tunnel joins two namespaces by tun devices, which have no neighbours, as
// those of wireguard, gre and ipip have none; this process carries the packets.
func tunnel(t *testing.T, a, b *nettest.NS) {
	t.Helper()
	ends := [2]*os.File{openTun(t, a), openTun(t, b)}
	for i := range ends {
		go func() {
			packet := make([]byte, 65536)
			for {
				n, err := ends[i].Read(packet)
				if err != nil {
					return
				}
				_, _ = ends[1-i].Write(packet[:n]) // a device that is down loses it
			}
		}()
	}
}

// openTun makes the device tun0, up and with addresses still to come.
func openTun(t *testing.T, ns *nettest.NS) *os.File {
	t.Helper()
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "tun0"
	device := &netlink.Tuntap{LinkAttrs: attrs, Mode: netlink.TUNTAP_MODE_TUN, Flags: netlink.TUNTAP_NO_PI, Queues: 1, NonPersist: true}
	ns.Do(func() error {
		if err := netlink.LinkAdd(device); err != nil {
			return err
		}
		return netlink.LinkSetUp(device)
	})
	t.Cleanup(func() { _ = device.Fds[0].Close() })
	return device.Fds[0]
}

// TestRepliesGoBackThroughATunnelWithoutNeighbours leaves out via: the device
// alone says where replies go.
func TestRepliesGoBackThroughATunnelWithoutNeighbours(t *testing.T) {
	for match, paths := range map[string]string{
		"mark": `
return_paths:
  - {name: tun, device: tun0, match: mark, ports: [25/tcp]}
`,
		"address": `
return_paths:
  - {name: tun4, device: tun0, match: address, address: 10.9.0.2}
  - {name: tun6, device: tun0, match: address, address: "fd09::2"}
`,
	} {
		t.Run(match, func(t *testing.T) {
			l := &lab{t: t, dir: openDir(t)}
			l.old = nettest.New(t, "router")
			client, host, wrong := nettest.New(t, "client"), nettest.New(t, "new"), nettest.New(t, "wrong")
			nettest.Link(t, client, "eth0", []string{"198.51.100.9/24", "2001:db8:c::9/64"}, l.old, "eth0", []string{"198.51.100.1/24", "2001:db8:c::1/64", serviceV4 + "/32", serviceV6 + "/128"})
			nettest.Link(t, host, "eth0", []string{"10.7.0.2/24", "fd07::2/64"}, wrong, "eth0", []string{"10.7.0.1/24", "fd07::1/64"})
			tunnel(t, l.old, host)
			for ns, addresses := range map[*nettest.NS][]string{l.old: {"10.9.0.1/30", "fd09::1/126"}, host: {"10.9.0.2/30", "fd09::2/126"}} {
				if err := ns.AddAddresses("tun0", addresses...); err != nil {
					t.Fatal(err)
				}
			}
			client.Route("0.0.0.0/0", "198.51.100.1")
			client.Route("::/0", "2001:db8:c::1")
			host.Route("0.0.0.0/0", "10.7.0.1")
			host.Route("::/0", "fd07::1")
			l.old.Sysctl("net/ipv4/ip_forward", "1")
			l.old.Sysctl("net/ipv6/conf/all/forwarding", "1")
			l.old.Run("nft", "-f", write(t, filepath.Join(l.dir, "dnat.nft"), `
table inet byhand {
	chain pre {
		type nat hook prerouting priority dstnat;
		ip daddr `+serviceV4+` tcp dport 25 dnat ip to 10.9.0.2
		ip6 daddr `+serviceV6+` tcp dport 25 dnat ip6 to fd09::2
	}
}
`))
			l.install()
			sayWhoAsks(t, host)
			services := map[string]string{net.JoinHostPort(serviceV4, "25"): "198.51.100.9", net.JoinHostPort(serviceV6, "25"): "2001:db8:c::9"}
			for service := range services {
				if seen, err := whoAsks(client, service, time.Second); err == nil {
					t.Fatalf("without a return path %s is answered: %q", service, seen)
				}
			}
			d := l.startDaemon(host, daemonConfig+paths, nil)
			for service, want := range services {
				if seen, err := whoAsks(client, service, 10*time.Second); seen != want || err != nil {
					t.Errorf("%s: the server saw %q, %v; want %q", service, seen, err, want)
				}
			}
			d.stop()
		})
	}
}

// sayWhoAsks answers each connection to port 25 with the client's address.
func sayWhoAsks(t *testing.T, ns *nettest.NS) {
	t.Helper()
	ns.Serve("tcp", ":25", func(c net.Conn) {
		host, _, _ := net.SplitHostPort(c.RemoteAddr().String())
		_, _ = io.WriteString(c, host)
	})
}

func whoAsks(from *nettest.NS, service string, within time.Duration) (string, error) {
	var seen []byte
	err := from.NS.Do(func() error {
		c, err := net.DialTimeout("tcp", service, within)
		if err != nil {
			return err
		}
		defer func() { _ = c.Close() }()
		seen, err = io.ReadAll(c)
		return err
	})
	return string(seen), err
}
