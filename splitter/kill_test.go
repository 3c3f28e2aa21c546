package splitter

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/splitd/splitd/internal/nettest"
	"github.com/splitd/splitd/traffic"
)

// serverEnv makes the test binary a server of its own, which can be killed, at
// that address. It says 'o' and then does what lines ask for: "deaf" is answered
// and has it read no more, "pour" has it send without end, others it sends back.
const serverEnv = "SPLITTER_TEST_SERVER"

func serveUntilKilled(address string) error {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	fmt.Println("ready")
	for {
		c, err := l.Accept()
		if err != nil {
			return err
		}
		go obeyLines(c)
	}
}

func obeyLines(c net.Conn) {
	_, _ = io.WriteString(c, "o")
	for lines := bufio.NewScanner(c); lines.Scan(); {
		_, err := fmt.Fprintln(c, lines.Text())
		switch lines.Text() {
		case "deaf":
			select {}
		case "pour":
			for chunk := make([]byte, 64<<10); err == nil; {
				_, err = c.Write(chunk)
			}
		}
		if err != nil {
			break
		}
	}
	_ = c.Close()
}

// startKillable starts such a server; kill is what the kernel's lack of memory
// does to it, or an operator's impatience.
func startKillable(t *testing.T, at netip.AddrPort) (kill func()) {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), serverEnv+"="+at.String())
	cmd.Stderr = os.Stderr
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	kill = sync.OnceFunc(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	t.Cleanup(kill)
	if line, err := bufio.NewReader(stdout).ReadString('\n'); line != "ready\n" {
		t.Fatalf("server said %q, %v", line, err)
	}
	return kill
}

// Each row is what a client does with a primary that is killed; one does it with
// the primary itself, another through the relay.
func TestAClientOfAKilledPrimarySeesWhatItWouldSeeWithoutTheRelay(t *testing.T) {
	ip := families()["IPv4"]
	for name, test := range map[string]struct {
		asks     string // and waits for the same
		then     string // and does not
		received bool   // what follows is read while the primary is killed
		want     string
	}{
		"it waits":                           {asks: "hello\n", want: "end"},
		"its words were not read":            {asks: "deaf\n", then: "never read\n", want: "reset"},
		"it is being sent something":         {asks: "pour\n", received: true, want: "end"},
		"it is being sent, and says as much": {asks: "pour\n", then: "enough\n", received: true, want: "reset"},
	} {
		t.Run(name, func(t *testing.T) {
			primary, service := netip.AddrPortFrom(ip, freePort()), netip.AddrPortFrom(ip, freePort())
			kill := startKillable(t, primary)
			r := startRelay(t, Options{}, newSplit("mx", service, primary, nil))
			direct, relayed := dial(t, primary), dial(t, service)
			ends := make(chan string, 2)
			for _, c := range []*net.TCPConn{direct, relayed} {
				readLetter(t, c, 'o')
				exchange(t, c, test.asks)
				if _, err := io.WriteString(c, test.then); err != nil {
					t.Fatal(err)
				}
				if test.received {
					go func() { ends <- howItEnds(c) }()
				}
			}
			nettest.Eventually(t, "the primary has all of it", func() bool { return r.numbers("old").In == uint64(len(test.asks+test.then)) })
			kill()
			if !test.received {
				ends <- howItEnds(direct)
				ends <- howItEnds(relayed)
			}
			if diff := cmp.Diff([]string{test.want, test.want}, []string{<-ends, <-ends}); diff != "" {
				t.Errorf("how the two ended (-want +got):\n%s", diff)
			}
			for who, at := range map[string]netip.AddrPort{"directly": primary, "through the relay": service} {
				if _, err := greeting(at); !errors.Is(err, syscall.ECONNREFUSED) && !isReset(err) {
					t.Errorf("who comes %s after that gets %v, want to be refused or reset", who, err)
				}
			}
		})
	}
}

func howItEnds(c *net.TCPConn) string {
	_, err := io.Copy(io.Discard, c)
	switch {
	case err == nil:
		return "end"
	case isReset(err):
		return "reset"
	}
	return err.Error()
}

// A half of the flows is the candidate's, and none of those notices. Of the
// primary's each fails that it does not greet, and none other.
func TestWhenThePrimaryIsKilledUnderLoadTheCandidateGoesOnAndAllRecovers(t *testing.T) {
	ip := families()["IPv4"]
	primary, service := netip.AddrPortFrom(ip, freePort()), netip.AddrPortFrom(ip, freePort())
	kill := startKillable(t, primary)
	split := newSplit("mx", service, primary, map[string]candidate{"new": {startServer(t, ip, echoAfter('n')), traffic.Whole / 2}})
	r := startRelay(t, Options{Draw: seededDraw(9)}, split)
	var old []*net.TCPConn
	for len(old) < 10 { // flows of the candidate
		c := dial(t, service)
		var letter [1]byte
		if _, err := io.ReadFull(c, letter[:]); err != nil {
			t.Fatal(err)
		}
		if letter[0] == 'n' {
			old = append(old, c)
		} else {
			abortConn(c)
		}
	}
	nettest.Eventually(t, "those of the primary have ended", func() bool { return r.numbers("old").Active == 0 })
	earlier := r.numbers("old").Flows

	var clients sync.WaitGroup
	var stop atomic.Bool
	var greeted [256]atomic.Uint64
	var failed atomic.Uint64
	for range 6 {
		clients.Go(func() {
			for !stop.Load() {
				switch letter, err := greeting(service); {
				case err == nil:
					greeted[letter].Add(1)
				case isReset(err) || errors.Is(err, io.EOF):
					failed.Add(1)
				default:
					t.Errorf("a client got %v", err)
					return
				}
			}
		})
	}
	grows := func(what string, n *atomic.Uint64) {
		t.Helper()
		before := n.Load()
		nettest.Eventually(t, what, func() bool { return n.Load() > before+200 })
	}
	for range 3 {
		grows("the primary serves", &greeted['o'])
		kill()
		grows("clients of the primary fail", &failed)
		grows("the candidate serves", &greeted['n'])
		for _, c := range old {
			exchange(t, c, "a flow of the candidate")
		}
		kill = startKillable(t, primary)
		nettest.Eventually(t, "nobody fails any more", func() bool {
			before, served := failed.Load(), greeted['o'].Load()
			grows("the primary serves again", &greeted['o'])
			return failed.Load() == before && greeted['o'].Load() > served
		})
	}
	stop.Store(true)
	clients.Wait()
	nettest.Eventually(t, "all flows but the candidate's from before have ended", func() bool { return r.openFlows() == len(old) })
	was, candidate := r.numbers("old"), r.numbers("new")
	if want := was.Failed + was.Flows - earlier - greeted['o'].Load(); failed.Load() != want || candidate.Failed != 0 {
		t.Errorf("%d clients failed, of the primary's %d; the candidate: %+v, want none failed", failed.Load(), want, candidate)
	}
	t.Logf("%d greeted by the primary, %d by the candidate, %d failed while the primary was dead", greeted['o'].Load(), greeted['n'].Load(), failed.Load())
}
