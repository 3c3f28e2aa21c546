package nettest_test

import (
	"io"
	"net"
	"testing"

	"github.com/splitd/splitd/internal/nettest"
)

func TestMain(m *testing.M) { nettest.Main(m) }

func TestLinkedNamespacesReachEachOtherOverBothFamilies(t *testing.T) {
	a, b := nettest.New(t, "a"), nettest.New(t, "b")
	nettest.Link(t, a, "eth0", []string{"10.9.0.1/24", "fd09::1/64"}, b, "eth0", []string{"10.9.0.2/24", "fd09::2/64"})
	for _, address := range []string{"10.9.0.2:25", "[fd09::2]:25"} {
		b.Serve("tcp", address, func(c net.Conn) { _, _ = io.WriteString(c, "hello") })
		var c net.Conn
		a.Do(func() (err error) { c, err = net.Dial("tcp", address); return err })
		if got, err := io.ReadAll(c); string(got) != "hello" || err != nil {
			t.Errorf("read from %s = %q, %v", address, got, err)
		}
	}
}

func TestEventuallyWaitsForTheConditionAndNoLonger(t *testing.T) {
	asked := 0
	nettest.Eventually(t, "it was asked three times", func() bool { asked++; return asked == 3 })
	if asked != 3 {
		t.Errorf("asked %d times, want 3", asked)
	}
}
