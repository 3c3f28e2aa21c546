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
		var l net.Listener
		b.Do(func() (err error) { l, err = net.Listen("tcp", address); return err })
		go func() {
			c, err := l.Accept()
			if err == nil {
				_, _ = c.Write([]byte("hello"))
				_ = c.Close()
			}
		}()
		var c net.Conn
		a.Do(func() (err error) { c, err = net.Dial("tcp", address); return err })
		if got, err := io.ReadAll(c); string(got) != "hello" || err != nil {
			t.Errorf("read from %s = %q, %v", address, got, err)
		}
		_ = l.Close()
	}
}

func TestEventuallyWaitsForTheConditionAndNoLonger(t *testing.T) {
	asked := 0
	nettest.Eventually(t, "it was asked three times", func() bool { asked++; return asked == 3 })
	if asked != 3 {
		t.Errorf("asked %d times, want 3", asked)
	}
}
