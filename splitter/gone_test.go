package splitter

import (
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/splitd/splitd/internal/nettest"
	"github.com/splitd/splitd/traffic"
)

// Each row is a flow of which one peer vanishes: nothing of it comes any more, and
// nothing reaches it. What was under way then, and how the flow log has it.
func TestAPeerThatVanishesIsGivenUpAndTheLogSaysWhoWasGone(t *testing.T) {
	gone := func(p pair) *net.TCPConn { return p.client }
	lost := func(p pair) *net.TCPConn { return p.server }
	for name, test := range map[string]struct {
		vanishes, stays func(pair) *net.TCPConn
		before, after   func(t *testing.T, stays *net.TCPConn)
		want            string
	}{
		"the client, in silence":              {vanishes: gone, stays: lost, want: "gone client cD"},
		"the backend, in silence":             {vanishes: lost, stays: gone, want: "gone backend sD"},
		"the client, and is sent something":   {vanishes: gone, stays: lost, after: say, want: "gone client cD"},
		"the backend, and is sent something":  {vanishes: lost, stays: gone, after: say, want: "gone backend sD"},
		"the client, amid a download":         {vanishes: gone, stays: lost, before: fill, want: "gone client cD"},
		"the backend, amid an upload":         {vanishes: lost, stays: gone, before: fill, want: "gone backend sD"},
		"the client, after the backend's FIN": {vanishes: gone, stays: lost, before: finish, want: "gone client cL"},
		"the backend, after its own FIN":      {vanishes: lost, stays: gone, after: say, want: "gone backend sL"},
	} {
		t.Run(name, func(t *testing.T) {
			log := &notebook{}
			r, connect := startPairsOf(t, families()["IPv4"], Options{FlowLog: log}, func(s *traffic.Split) { s.Proxy.PeerTimeout = time.Second })
			bystander := connect(t)
			if err := talk(bystander.client, bystander.server); err != nil {
				t.Fatal(err)
			}
			sockets := countFiles(t, "socket:")
			p := connect(t)
			if err := talk(p.client, p.server); err != nil {
				t.Fatal(err)
			}
			stays := test.stays(p)
			if strings.HasSuffix(name, "own FIN") {
				finish(t, test.vanishes(p))
				if n, err := stays.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
					t.Fatalf("read %d bytes, %v, want the FIN", n, err)
				}
			}
			if test.before != nil {
				test.before(t, stays)
			}
			vanish(t, test.vanishes(p))
			if test.after != nil {
				test.after(t, stays)
			}
			awaitReset(t, stays)
			told := endOf(t, log, p.client)
			if diff := cmp.Diff(test.want, told.End+" "+told.By+" "+told.Code); diff != "" {
				t.Errorf("the log's end (-want +got):\n%s", diff)
			}
			nettest.Eventually(t, "the bystander's flow alone is left", func() bool { return r.openFlows() == 1 })
			if err := talk(bystander.client, bystander.server); err != nil {
				t.Errorf("another flow: %v", err)
			}
			for _, c := range []*net.TCPConn{p.client, p.server} {
				abortConn(c)
			}
			nettest.Eventually(t, "sockets are back at base", func() bool { return countFiles(t, "socket:") <= sockets })
		})
	}
}

// vanish parts the end of a connection from the relay.
func vanish(t *testing.T, c *net.TCPConn) {
	t.Helper()
	at := c.LocalAddr().(*net.TCPAddr).AddrPort()
	other := c.RemoteAddr().(*net.TCPAddr).AddrPort()
	if at.Port() < other.Port() { // a server's, which others use as well
		at = other
	}
	newFirewall(t).part(at)
}

func say(t *testing.T, c *net.TCPConn) {
	t.Helper()
	if _, err := c.Write([]byte("are you there?")); err != nil {
		t.Fatal(err)
	}
}

func finish(t *testing.T, c *net.TCPConn) {
	t.Helper()
	if err := c.CloseWrite(); err != nil {
		t.Fatal(err)
	}
}

// fill sends until nothing is taken any more, so that everything between the two
// ends is full.
func fill(t *testing.T, c *net.TCPConn) {
	t.Helper()
	chunk := make([]byte, 256<<10)
	for {
		_ = c.SetWriteDeadline(time.Now().Add(100 * time.Millisecond))
		if n, err := c.Write(chunk); n == 0 {
			if !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Fatal(err)
			}
			return
		}
	}
}

// endOf waits for what the log says of the end of a client's flow.
func endOf(t *testing.T, log *notebook, c *net.TCPConn) (end FlowNews) {
	t.Helper()
	client := c.LocalAddr().(*net.TCPAddr).AddrPort()
	nettest.Eventually(t, "the log has the end of the flow", func() bool {
		for _, n := range log.told() {
			if n.Ends && n.Client == client {
				end = n
				return true
			}
		}
		return false
	})
	return end
}
