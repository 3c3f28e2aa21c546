package splitter

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"testing"

	"github.com/splitd/splitd/traffic"
)

func TestAnAddressThatAnotherProgramHoldsIsFoundWithoutListening(t *testing.T) {
	for family, ip := range families() {
		for _, transport := range []traffic.Transport{traffic.TCP, traffic.UDP} {
			t.Run(fmt.Sprintf("%s/%s", family, transport), func(t *testing.T) {
				service := netip.AddrPortFrom(ip, freePort())
				split := newSplit("mx", service, closedPort(ip), nil)
				split.Service.Ports[0].Transport = transport
				r := New(Options{})
				if err := r.MayListen([]traffic.Split{split}); err != nil {
					t.Fatalf("on a free address: %v", err)
				}
				if len(r.workers) > 0 || len(r.fronts) > 0 {
					t.Error("the relay has begun to serve")
				}
				var other interface{ Close() error }
				var err error
				if transport == traffic.TCP {
					other, err = net.Listen("tcp", service.String()) // it is free again
				} else {
					other, err = net.ListenPacket("udp", service.String())
				}
				if err != nil {
					t.Fatal(err)
				}
				defer func() { _ = other.Close() }()
				if err := r.MayListen([]traffic.Split{split}); !errors.Is(err, syscall.EADDRINUSE) || !strings.Contains(err.Error(), "another program holds it") {
					t.Errorf("on one that is taken: %v, want it named", err)
				}
			})
		}
	}
}
