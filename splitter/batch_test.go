package splitter

import (
	"encoding/binary"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/splitd/splitd/traffic"
)

// bindAnywhere makes the socket of a front.
func bindAnywhere(t *testing.T, ip netip.Addr) (spot, int) {
	t.Helper()
	at := spot{netip.AddrPortFrom(ip, freePort()), traffic.UDP}
	sockets, err := listen(at, 1, false)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeAll(sockets) })
	return at, sockets[0]
}

func awaitReadable(t *testing.T, socket int) {
	t.Helper()
	if n, err := unix.Poll([]unix.PollFd{{Fd: int32(socket), Events: unix.POLLIN}}, int(testPatience.Milliseconds())); n != 1 || err != nil {
		t.Fatalf("poll: %d, %v", n, err)
	}
}

func TestADatagramLargerThanItsPlaceIsKnownToBeCut(t *testing.T) {
	at, socket := bindAnywhere(t, families()["IPv4"])
	c := speak(t, at.AddrPort)
	c.say("larger than its place")
	c.say("small")
	b := newBatch(4, 8)
	b.empty(4, true)
	awaitReadable(t, socket)
	n, errno := system{}.take(socket, b, 0)
	if n != 2 || errno != 0 {
		t.Fatalf("took %d, %v, want 2", n, errno)
	}
	if !b.cut(0) || b.cut(1) || string(b.bytes(1)) != "small" {
		t.Errorf("cut: %t and %t, the second is %q", b.cut(0), b.cut(1), b.bytes(1))
	}
}

func TestABatchIsTakenAndGivenBackWhole(t *testing.T) {
	for family, wildcard := range map[string]netip.Addr{"IPv4": netip.IPv4Unspecified(), "IPv6": netip.IPv6Unspecified()} {
		t.Run(family, func(t *testing.T) {
			at, socket := bindAnywhere(t, wildcard)
			asked := netip.AddrPortFrom(families()[family], at.Port())
			c := speak(t, asked)
			questions := []string{"one", "", "three"}
			for _, q := range questions {
				c.say(q)
			}
			b := newBatch(batchMost, datagramRoom)
			b.empty(batchMost, true)
			n, errno := system{}.take(socket, b, 0)
			if n != len(questions) || errno != 0 {
				t.Fatalf("took %d, %v", n, errno)
			}
			for i := range n {
				from, _ := b.from(i)
				service, ok := b.asked(i)
				if !ok || service != asked.Addr() {
					t.Errorf("datagram %d has asked %s, %t", i, service, ok)
				}
				key := newTalker(from, netip.AddrPortFrom(service, at.Port()), 0)
				if key.clientAddress() != from || key.serviceAddress() != asked {
					t.Errorf("%s asking %s is remembered as %s asking %s", from, asked, key.clientAddress(), key.serviceAddress())
				}
				b.reply(i, &key, true)
			}
			if n, errno := (system{}).give(socket, b, 0, n); n != len(questions) || errno != 0 {
				t.Fatalf("gave %d, %v", n, errno)
			}
			for _, q := range questions {
				if got := c.hear(); got != q {
					t.Errorf("heard %q, want %q", got, q)
				}
			}
		})
	}
}

func TestWhatAsksManyHostsIsNotAnswered(t *testing.T) {
	message := func(level, kind uint32, info ...byte) []byte {
		control := make([]byte, controlRoom)
		binary.NativeEndian.PutUint32(control[unix.SizeofCmsghdr-8:], level)
		binary.NativeEndian.PutUint32(control[unix.SizeofCmsghdr-4:], kind)
		return control[:unix.SizeofCmsghdr+copy(control[unix.SizeofCmsghdr:], info)]
	}
	four := []byte{1, 0, 0, 0, 192, 0, 2, 1, 192, 0, 2, 1}
	broadcast := []byte{1, 0, 0, 0, 192, 0, 2, 1, 192, 0, 2, 255}
	six, many := netip.MustParseAddr("2001:db8::1").As16(), netip.MustParseAddr("ff02::1").As16()
	for name, c := range map[string]struct {
		control []byte
		want    string // "": none
	}{
		"IPv4":              {message(unix.IPPROTO_IP, unix.IP_PKTINFO, four...), "192.0.2.1"},
		"IPv4 to all":       {message(unix.IPPROTO_IP, unix.IP_PKTINFO, broadcast...), ""},
		"IPv6":              {message(unix.IPPROTO_IPV6, unix.IPV6_PKTINFO, append(six[:], 1, 0, 0, 0)...), "2001:db8::1"},
		"IPv6 to all":       {message(unix.IPPROTO_IPV6, unix.IPV6_PKTINFO, append(many[:], 1, 0, 0, 0)...), ""},
		"IPv6 without link": {message(unix.IPPROTO_IPV6, unix.IPV6_PKTINFO, six[:]...), ""},
		"something else":    {message(unix.SOL_SOCKET, unix.SCM_RIGHTS, four...), ""},
		"nothing":           {nil, ""},
	} {
		t.Run(name, func(t *testing.T) {
			got, ok := askedIn(c.control)
			if ok != (c.want != "") || ok && got.String() != c.want {
				t.Errorf("asked %s, %t, want %q", got, ok, c.want)
			}
		})
	}
}

func FuzzAskedIn(f *testing.F) {
	for _, level := range []uint32{unix.IPPROTO_IP, unix.IPPROTO_IPV6} {
		for _, length := range []int{0, 15, 28, 36, 64} {
			control := make([]byte, max(length, 16))
			binary.NativeEndian.PutUint32(control[8:], level)
			binary.NativeEndian.PutUint32(control[12:], unix.IP_PKTINFO)
			f.Add(control[:length])
		}
	}
	f.Fuzz(func(t *testing.T, control []byte) {
		if asked, ok := askedIn(control); ok && (!asked.IsValid() || asked.IsMulticast() && asked.Is6()) {
			t.Errorf("%x has asked %s", control, asked)
		}
	})
}

func TestATalkerHasOneOwnerUntilItIsReleased(t *testing.T) {
	o := newOwners()
	one := newTalker(netip.MustParseAddrPort("203.0.113.7:4000"), netip.MustParseAddrPort("192.0.2.1:53"), 0)
	other := one
	other.scope = 2
	for _, c := range []struct {
		t            talker
		worker, want int
	}{{one, 1, 1}, {one, 0, 1}, {other, 0, 0}, {one, 1, 1}} {
		if got := o.claim(c.t, c.worker); got != c.want {
			t.Errorf("claimed by %d it is %d's, want %d's", c.worker, got, c.want)
		}
	}
	o.release(one)
	if got := o.claim(one, 0); got != 0 {
		t.Errorf("after its release it is %d's", got)
	}
}
