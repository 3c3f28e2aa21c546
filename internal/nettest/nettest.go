// Package nettest gives tests network namespaces on a real kernel, and the
// patience to wait for what happens there. A test package that uses it begins
// with
//
//	func TestMain(m *testing.M) { nettest.Main(m) }
//
// which runs the whole package inside fresh network and mount namespaces (and
// a user namespace where the caller is not root), so that no test can touch
// the machine's own rules, routes or ruleset. Where that is forbidden the
// package fails and names the sysctl: a kernel test is never skipped.
package nettest

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/google/nftables"

	"github.com/splitd/splitd/internal/netns"
)

// Main runs the tests of a package inside namespaces and ends the process.
func Main(m *testing.M) { os.Exit(Run(m)) }

// Run is Main for who has something to do afterwards: it returns the exit
// code. Outside of the namespaces it returns when the tests inside have ended.
func Run(m *testing.M) int {
	if netns.Inside() {
		return m.Run()
	}
	code, err := netns.Enter()
	if err != nil {
		fmt.Fprintf(os.Stderr, "FAIL: the kernel tests of this package cannot run: %v\n%s\n", err, netns.Hint())
		return 1
	}
	return code
}

// NS is a namespace of a test. Its methods fail the test instead of returning
// errors.
type NS struct {
	*netns.NS
	t testing.TB
}

// New makes a namespace that is given up when the test ends.
func New(t testing.TB, name string) *NS {
	t.Helper()
	ns, err := netns.New(name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ns.Close() })
	return &NS{NS: ns, t: t}
}

// Do runs fn inside the namespace; see netns.NS.Do.
func (ns *NS) Do(fn func() error) {
	ns.t.Helper()
	if err := ns.NS.Do(fn); err != nil {
		ns.t.Fatal(err)
	}
}

// Sysctl writes a setting such as "net/ipv4/ip_forward".
func (ns *NS) Sysctl(name, value string) {
	ns.t.Helper()
	if err := ns.NS.Sysctl(name, value); err != nil {
		ns.t.Fatal(err)
	}
}

// Route sends destination to the gateway.
func (ns *NS) Route(destination, gateway string) {
	ns.t.Helper()
	if err := ns.AddRoute(destination, gateway); err != nil {
		ns.t.Fatal(err)
	}
}

// Run runs a command inside the namespace and returns what it printed.
func (ns *NS) Run(name string, args ...string) string {
	ns.t.Helper()
	var out []byte
	cmd := exec.Command(name, args...)
	err := ns.NS.Do(func() error {
		var err error
		out, err = cmd.CombinedOutput()
		return err
	})
	if err != nil {
		ns.t.Fatalf("%v in %q: %v\n%s", cmd.Args, ns.Name, err, out)
	}
	return string(out)
}

// ChangeRuleset makes a transaction of change on the namespace's nftables.
func (ns *NS) ChangeRuleset(change func(*nftables.Conn)) {
	ns.t.Helper()
	ns.Do(func() error {
		conn, err := nftables.New()
		if err != nil {
			return err
		}
		change(conn)
		return conn.Flush()
	})
}

// Serve listens inside the namespace until the test ends, and returns where. Each
// connection is handle's, in a goroutine of its own, and is closed when handle
// returns.
func (ns *NS) Serve(network, address string, handle func(net.Conn)) net.Addr {
	ns.t.Helper()
	var l net.Listener
	config := net.ListenConfig{KeepAlive: -1} // saves four system calls a connection
	ns.Do(func() (err error) { l, err = config.Listen(ns.t.Context(), network, address); return err })
	ns.t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer func() { _ = c.Close() }()
				handle(c)
			}()
		}
	}()
	return l.Addr()
}

// patience is how long Eventually waits: what no machine needs, not even one
// that is emulated and busy; and less than the minute that is a test's word for a time
// which does not come.
const patience = 50 * time.Second

// Eventually waits until a condition holds, and fails the test when it does not
// within patience: with what is waited for ("the daemon has ended") and with
// what was seen in its stead. The condition is asked in the calling goroutine.
func Eventually(t testing.TB, what string, condition func() bool, seen ...func() any) {
	t.Helper()
	for deadline := time.Now().Add(patience); !condition(); time.Sleep(2 * time.Millisecond) {
		if time.Now().Before(deadline) {
			continue
		}
		for _, see := range seen {
			t.Logf("seen: %v", see())
		}
		t.Fatalf("after %v it is still not so that %s", patience, what)
	}
}

// Link joins two namespaces by a veth pair; the addresses are written with
// prefix length.
func Link(t testing.TB, a *NS, deviceA string, addressesA []string, b *NS, deviceB string, addressesB []string) {
	t.Helper()
	err := netns.Link(
		netns.End{NS: a.NS, Device: deviceA, Addresses: addressesA},
		netns.End{NS: b.NS, Device: deviceB, Addresses: addressesB})
	if err != nil {
		t.Fatal(errors.Join(errors.New("link namespaces"), err))
	}
}
