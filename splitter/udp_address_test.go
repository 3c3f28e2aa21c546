package splitter

import (
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/splitd/splitd/internal/nettest"
	"github.com/splitd/splitd/traffic"
)

// Their sockets hear only whom they asked.
func TestAServiceOnTheWildcardAnswersFromTheAddressThatWasAsked(t *testing.T) {
	six := netip.MustParseAddr("fd00::25")
	addLoopback(t, six)
	for family, c := range map[string]struct{ wildcard, backend, asked netip.Addr }{
		"IPv4": {netip.IPv4Unspecified(), families()["IPv4"], netip.MustParseAddr("127.0.0.77")},
		"IPv6": {netip.IPv6Unspecified(), families()["IPv6"], six},
	} {
		t.Run(family, func(t *testing.T) {
			old := answersAnywhere(t, c.backend, "old")
			service := netip.AddrPortFrom(c.wildcard, freePort())
			startRelay(t, Options{Workers: 2}, ofUDP(newSplit("mx", service, old.at, nil)))
			for _, asked := range []netip.Addr{c.asked, c.backend} {
				for range 20 { // of both workers
					speakFrom(t, c.backend, netip.AddrPortFrom(asked, service.Port())).wantFrom("old")
				}
			}
		})
	}
}

func TestOneClientThatAsksTwoAddressesHasTwoFlows(t *testing.T) {
	ip := families()["IPv4"]
	old := answersAnywhere(t, ip, "old")
	service := netip.AddrPortFrom(netip.IPv4Unspecified(), freePort())
	r := startRelay(t, Options{Workers: 2}, ofUDP(newSplit("mx", service, old.at, nil)))
	c, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(ip, 0)))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	_ = c.SetDeadline(time.Now().Add(testPatience))
	for _, asked := range []string{"127.0.0.3", "127.0.0.4", "127.0.0.3"} {
		to := netip.AddrPortFrom(netip.MustParseAddr(asked), service.Port())
		if _, err := c.WriteToUDPAddrPort([]byte("hello"), to); err != nil {
			t.Fatal(err)
		}
		if _, from, err := c.ReadFromUDPAddrPort(make([]byte, 100)); err != nil || from != to {
			t.Errorf("asked %s, answered from %s, %v", to, from, err)
		}
	}
	nettest.Eventually(t, "two flows are open", func() bool { return r.numbers("old").Active == 2 })
}

// Two clients on two links have the same address: the link tells them apart.
func TestClientsWithLinkLocalAddressesAreAnsweredOverTheirLinks(t *testing.T) {
	router := nettest.New(t, "router")
	old := answersAnywhere(t, families()["IPv6"], "old") // where the workers are
	service := netip.AddrPortFrom(netip.IPv6Unspecified(), freePort())
	r := startRelay(t, Options{Workers: 2})
	router.Do(func() error {
		return r.Apply(t.Context(), []traffic.Split{ofUDP(newSplit("mx", service, old.at, nil))})
	})
	for i := range 2 {
		client, device := nettest.New(t, fmt.Sprint("client", i)), fmt.Sprint("eth", i)
		nettest.Link(t, client, "eth0", []string{"fe80::c/64"}, router, device, []string{"fe80::5/64"})
		var c *net.UDPConn
		client.Do(func() (err error) {
			from := &net.UDPAddr{IP: net.ParseIP("fe80::c"), Port: 4000, Zone: "eth0"}
			c, err = net.DialUDP("udp", from, &net.UDPAddr{IP: net.ParseIP("fe80::5"), Port: int(service.Port()), Zone: "eth0"})
			return err
		})
		defer func() { _ = c.Close() }()
		_ = c.SetDeadline(time.Now().Add(testPatience))
		speaker{t, c}.wantFrom("old")
	}
	if got := r.numbers("old").Flows; got != 2 {
		t.Errorf("%d flows, want one for each", got)
	}
}
