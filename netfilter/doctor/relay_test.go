package doctor

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/splitd/splitd/traffic"
)

// relayed is half() through a transparent relay.
func relayed() traffic.Split {
	s := half()
	s.Mode, s.Proxy.Transparent = traffic.ModeProxy, true
	return s
}

func aboutRelay() Question {
	q := about(nil, nil)
	q.Relayed = []traffic.Split{relayed()}
	return q
}

// behind is about relayed() behind proxies of those networks.
func behind(networks ...string) Question {
	q := aboutRelay()
	for _, n := range networks {
		q.Relayed[0].Proxy.AcceptProxy = append(q.Relayed[0].Proxy.AcceptProxy, netip.MustParsePrefix(n))
	}
	return q
}

// leg is how a transparent relay connects to the new host: as the client.
func (l *lab) leg() error {
	l.t.Helper()
	return l.router.NS.Do(func() error {
		dialer := net.Dialer{Timeout: brief, LocalAddr: &net.TCPAddr{IP: net.IPv4(192, 0, 2, 100), Port: 12345}, Control: func(_, _ string, c syscall.RawConn) error {
			var err error
			return errors.Join(c.Control(func(fd uintptr) {
				err = errors.Join(unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_TRANSPARENT, 1),
					unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_MARK, int(settings.LegMark())))
			}), err)
		}}
		c, err := dialer.DialContext(context.Background(), "tcp", "10.0.0.12:25")
		if err != nil {
			return err
		}
		_ = c.(*net.TCPConn).SetLinger(0)
		return c.Close()
	})
}

// The setting really keeps the relay from its backends, and its cure helps.
func TestRepliesToATransparentRelayThatTheKernelDropsAreAnError(t *testing.T) {
	l := newLab(t)
	l.serveAll()
	l.apply(relayed())
	for _, setting := range []string{"net/ipv4/conf/all/src_valid_mark", "net/ipv4/conf/eth1/src_valid_mark"} {
		if err := l.leg(); err != nil {
			t.Fatalf("nothing is wrong: %v", err)
		}
		for _, filter := range []string{"0", "1"} { // it is no matter of rp_filter
			l.router.Sysctl("net/ipv4/conf/eth1/rp_filter", filter)
			l.router.Sysctl(setting, "0")
			if found := of(examine(t, l.router, aboutRelay(), nil), "relay-replies"); len(found) != 1 || found[0].Level != LevelOK {
				t.Errorf("rp_filter %s, %s 0: %+v", filter, setting, found)
			}
			if err := l.leg(); err != nil {
				t.Errorf("rp_filter %s, %s 0: %v", filter, setting, err)
			}
			l.router.Sysctl(setting, "1")
			const cure = "sysctl -w net.ipv4.conf.all.src_valid_mark=0 net.ipv4.conf.eth1.src_valid_mark=0"
			if found := of(examine(t, l.router, aboutRelay(), nil), "relay-replies"); len(found) != 1 || found[0].Level != LevelError || found[0].Cure != cure {
				t.Errorf("rp_filter %s, %s 1: %+v, want an error and its cure", filter, setting, found)
			}
			if err := l.leg(); err == nil {
				t.Errorf("rp_filter %s, %s 1: a leg was connected", filter, setting)
			}
		}
		l.router.Run("sysctl", "-qw", "net.ipv4.conf.all.src_valid_mark=0", "net.ipv4.conf.eth1.src_valid_mark=0")
		l.router.Sysctl("net/ipv4/conf/eth1/rp_filter", "0")
	}
	if found := of(examine(t, l.router, about([]traffic.Split{half()}, nil), nil), "relay-replies"); len(found) != 1 || found[0].Level != LevelOK {
		t.Errorf("without a transparent split: %+v", found)
	}
}

// A relay's host need be no router, and no split of mode kernel: the rows about
// what is forwarded have nothing to say. Those about marks, tables and tracking do.
func TestWhatIsForwardedIsNoMatterOfATransparentRelay(t *testing.T) {
	l := newLab(t)
	l.router.Sysctl("net/ipv4/ip_forward", "0")
	l.router.Sysctl("net/ipv6/conf/all/forwarding", "0")
	var bad []string
	for _, f := range examine(t, l.router, aboutRelay(), nil) {
		if f.Level == LevelError || f.Level == LevelWarning {
			bad = append(bad, f.ID+": "+f.Seen)
		}
	}
	if len(bad) > 0 {
		t.Errorf("on a host that does not forward: %q", bad)
	}
	l.router.Sysctl("net/ipv4/conf/eth0/rp_filter", "1")
	if found := of(examine(t, l.router, aboutRelay(), nil), "rp-filter-router"); !slices.ContainsFunc(found, func(f Finding) bool { return f.Level == LevelWarning }) {
		t.Errorf("strict rp_filter on another device than the backend's: %+v, want a warning", found)
	}
	host := goodHost()
	host.Taken = []TakenRoute{{Table: settings.RouteTable + 15, Default: true, Text: "default dev tun9"}}
	if lines := one(t, "route-table-taken", host, aboutRelay()); len(lines) != 1 {
		t.Errorf("another program's default route in the relay's table: %q", lines)
	}
}
