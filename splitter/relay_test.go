package splitter

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/splitd/splitd/internal/nettest"
	"github.com/splitd/splitd/traffic"
)

func TestBindErrorKeepsTheOldStateAndNamesTheCure(t *testing.T) {
	ip := families()["IPv4"]
	taken := startServer(t, ip, greeter('x'))
	service := netip.AddrPortFrom(ip, freePort())
	old := newSplit("mx", service, startServer(t, ip, greeter('o')), nil)
	r := startRelay(t, Options{}, old)

	free := netip.AddrPortFrom(ip, freePort())
	changed := newSplit("mx", free, startServer(t, ip, greeter('c')), nil)
	local := newSplit("local", taken, netip.AddrPort{}, nil)
	local.Service.Addresses = []netip.Addr{netip.MustParseAddr("127.0.0.5")}
	startServerAt(t, netip.AddrPortFrom(local.Service.Addresses[0], taken.Port()), greeter('x'))
	local.Primary = traffic.Backend{Name: "old", Local: true}
	absent := newSplit("absent", netip.MustParseAddrPort("192.0.2.25:25"), free, nil)

	err := r.Apply(t.Context(), []traffic.Split{changed, newSplit("remote", taken, free, nil), local, absent})
	want := []string{
		fmt.Sprintf("listen %q for split %q: address already in use: another program holds it: give splitd an address of its own, or use mode: kernel", taken, "remote"),
		fmt.Sprintf("listen \"127.0.0.5:%d\" for split %q: address already in use: the local server holds it: give splitd an address of its own, or use mode: kernel", taken.Port(), "local"),
		"listen \"192.0.2.25:25\" for split \"absent\": cannot assign requested address: no interface of this host has it: run `ip address add 192.0.2.25 dev DEVICE`, or use mode: kernel, which binds nothing",
	}
	if err == nil {
		t.Fatal("Apply() = nil, want an error")
	}
	if diff := cmp.Diff(want, strings.Split(err.Error(), "\n")); diff != "" {
		t.Errorf("Apply() (-want +got):\n%s", diff)
	}
	if !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("Apply() does not wrap EADDRINUSE")
	}
	if letter, err := greeting(service); letter != 'o' || err != nil {
		t.Errorf("old state serves %q, %v, want \"o\"", letter, err)
	}
	if _, err := greeting(free); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("new address after the failed apply: %v, want refused", err)
	}
	r.apply(changed)
	if letter, err := greeting(free); letter != 'c' || err != nil {
		t.Errorf("new state serves %q, %v, want \"c\"", letter, err)
	}
}

func TestLowPortWithoutTheCapabilityNamesIt(t *testing.T) {
	split := at("mx", "10.0.0.1:25", "192.0.2.25:25")
	err := explainListen(tcpSpot(netip.MustParseAddrPort("192.0.2.25:25")), split, &net.OpError{Op: "listen", Err: os.NewSyscallError("bind", syscall.EACCES)})
	want := `listen "192.0.2.25:25" for split "mx": permission denied: port 25 needs CAP_NET_BIND_SERVICE: run splitd as root, grant the capability, or use a port of 1024 or above`
	if err.Error() != want {
		t.Errorf("got  %s\nwant %s", err, want)
	}
}

func TestFlowsOfARemovedSplitGoOnAndAreStillCounted(t *testing.T) {
	ip := families()["IPv6"]
	service := netip.AddrPortFrom(ip, freePort())
	split := newSplit("mx", service, startServer(t, ip, echo), nil)
	r := startRelay(t, Options{}, split)
	c := dial(t, service)
	exchange(t, c, "before")
	r.apply()
	wantRefused(t, service)
	exchange(t, c, "after")
	if got := r.numbers("old"); got.Flows != 1 || got.Active != 1 {
		t.Errorf("counts while it drains = %+v, want the flow", got)
	}
	if err := c.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(io.Discard, c); err != nil {
		t.Errorf("end of the flow: %v", err)
	}
	nettest.Eventually(t, "the removed split leaves Counts", func() bool { return len(r.Counts()) == 0 })
	r.apply(split)
	if got := r.numbers("old"); got.Flows != 1 || got.In != uint64(len("beforeafter")) {
		t.Errorf("counts of the split that came back = %+v, want them to go on", got)
	}
}

func TestEstablishedFlowsStayWhereTheyAre(t *testing.T) {
	ip := families()["IPv4"]
	service := netip.AddrPortFrom(ip, freePort())
	split := newSplit("mx", service, startServer(t, ip, echo), map[string]candidate{"new": {startServer(t, ip, greeter('n')), 0}})
	r := startRelay(t, Options{}, split)
	c := dial(t, service)
	exchange(t, c, "before")
	r.setWeights(split, map[string]traffic.Weight{"new": traffic.Whole})
	exchange(t, c, "after the weight")
	if letter, err := greeting(service); letter != 'n' || err != nil {
		t.Errorf("next connection: %q, %v, want the candidate", letter, err)
	}
	split.Primary = remote("other", startServer(t, ip, greeter('p')))
	r.apply(split)
	exchange(t, c, "after another primary")
	if letter, err := greeting(service); letter != 'p' || err != nil {
		t.Errorf("next connection: %q, %v, want the other primary", letter, err)
	}
}

func TestSetWeightsRefusesWhatTheSplitDoesNotHave(t *testing.T) {
	ip := families()["IPv4"]
	service := netip.AddrPortFrom(ip, freePort())
	split := newSplit("mx", service, startServer(t, ip, greeter('o')), map[string]candidate{"new": {startServer(t, ip, greeter('n')), traffic.Whole}})
	r := startRelay(t, Options{}, split)
	for name, test := range map[string]struct {
		split traffic.Split
		want  string
	}{
		"split":     {traffic.Split{Name: "web"}, `set weights of split "web": it is not served in mode proxy`},
		"candidate": {traffic.Split{Name: "mx", Candidates: []traffic.Backend{{Name: "x"}}}, `set weights: split "mx" has no candidate "x": its candidates are "new"`},
		"weight":    {traffic.Split{Name: "mx", Candidates: []traffic.Backend{{Name: "new", Weight: 2 * traffic.Whole}}}, `set weights: weight of "new" is 200%: it must lie between 0% and 100%`},
	} {
		t.Run(name, func(t *testing.T) {
			if err := r.SetWeights(test.split); err == nil || err.Error() != test.want {
				t.Errorf("SetWeights() = %v\nwant %s", err, test.want)
			}
			if letter, err := greeting(service); letter != 'n' || err != nil {
				t.Errorf("split serves %q, %v, want \"n\" as before", letter, err)
			}
		})
	}
}

func TestServiceMovesBetweenWildcardAndAddress(t *testing.T) {
	for family, ip := range families() {
		t.Run(family, func(t *testing.T) {
			wildcard := netip.IPv6Unspecified()
			if ip.Is4() {
				wildcard = netip.IPv4Unspecified()
			}
			service := netip.AddrPortFrom(ip, freePort())
			server := startServer(t, ip, echo)
			single := newSplit("mx", service, server, nil)
			whole := newSplit("mx", netip.AddrPortFrom(wildcard, service.Port()), server, nil)
			r := startRelay(t, Options{}, whole)
			first := dial(t, service)
			for range 20 {
				for _, split := range []traffic.Split{single, whole} {
					r.apply(split)
					exchange(t, dial(t, service), "a new flow")
					exchange(t, first, "the first one")
				}
			}
			// No other program may join us, also after we have stood beside
			// ourselves for the moment of a move.
			if _, err := listen(tcpSpot(service), 1, false); !errors.Is(err, syscall.EADDRINUSE) {
				t.Errorf("second listener: %v, want address already in use", err)
			}
		})
	}
}

func TestFailedMoveBetweenWildcardAndAddressKeepsTheOldListener(t *testing.T) {
	ip := families()["IPv4"]
	service := netip.AddrPortFrom(ip, freePort())
	server := startServer(t, ip, echo)
	r := startRelay(t, Options{}, newSplit("mx", netip.AddrPortFrom(netip.IPv4Unspecified(), service.Port()), server, nil))
	single := newSplit("mx", service, server, nil)
	taken := newSplit("taken", server, service, nil)
	if err := r.Apply(t.Context(), []traffic.Split{single, taken}); !errors.Is(err, syscall.EADDRINUSE) {
		t.Fatalf("Apply() = %v, want address already in use", err)
	}
	exchange(t, dial(t, service), "as before")
	r.apply(single)
	exchange(t, dial(t, service), "moved")
}

func TestBothWildcardsStandSideBySide(t *testing.T) {
	port := freePort()
	v4, v6 := families()["IPv4"], families()["IPv6"]
	startRelay(t, Options{},
		newSplit("four", netip.AddrPortFrom(netip.IPv4Unspecified(), port), startServer(t, v4, greeter('4')), nil),
		newSplit("six", netip.AddrPortFrom(netip.IPv6Unspecified(), port), startServer(t, v6, greeter('6')), nil))
	for ip, want := range map[netip.Addr]byte{v4: '4', v6: '6'} {
		if letter, err := greeting(netip.AddrPortFrom(ip, port)); letter != want || err != nil {
			t.Errorf("%s is served by %q, %v, want %q", ip, letter, err, want)
		}
	}
}

func TestLocalPrimaryIsTheLoopbackOfTheSameFamilyAndPort(t *testing.T) {
	port := freePort()
	startServerAt(t, netip.AddrPortFrom(families()["IPv4"], port), greeter('l'))
	service := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.25"), port)
	split := newSplit("mx", service, netip.AddrPort{}, nil)
	split.Primary = traffic.Backend{Name: "old", Local: true}
	startRelay(t, Options{}, split)
	if letter, err := greeting(service); letter != 'l' || err != nil {
		t.Errorf("served by %q, %v, want the local server", letter, err)
	}
}

func TestListenersSpeakPlainTCP(t *testing.T) {
	ip := families()["IPv4"]
	service := netip.AddrPortFrom(ip, freePort())
	r := startRelay(t, Options{}, newSplit("mx", service, startServer(t, ip, echo), nil))
	for _, socket := range r.fronts[tcpSpot(service)].sockets {
		if protocol, err := unix.GetsockoptInt(socket, unix.SOL_SOCKET, unix.SO_PROTOCOL); protocol != unix.IPPROTO_TCP || err != nil {
			t.Errorf("listener speaks protocol %d, %v, want %d", protocol, err, unix.IPPROTO_TCP)
		}
	}
}
