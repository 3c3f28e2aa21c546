package e2e

import (
	"bufio"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"
)

// held are open connections of a client.
type held struct {
	conn   net.Conn
	reader *bufio.Reader
}

// hold opens connections, over both families, that are all served by want.
func (l *lab) hold(n int, want string) []held {
	l.t.Helper()
	return l.holdAt([]string{service4 + ":25", "[" + service6 + "]:25"}, n, want)
}

// holdAt is hold at other addresses.
func (l *lab) holdAt(addresses []string, n int, want string) []held {
	l.t.Helper()
	var open []held
	for i := range n {
		address := addresses[i%len(addresses)]
		c, r, name := l.dial(address)
		if name != want {
			l.t.Fatalf("connection %d went to %q, want %q", i, name, want)
		}
		l.t.Cleanup(func() { _ = c.Close() })
		open = append(open, held{c, r})
	}
	return open
}

// alive says whether a line comes back.
func (h held) alive() bool {
	_ = h.conn.SetDeadline(time.Now().Add(5 * time.Second))
	if _, err := fmt.Fprintln(h.conn, "still there?"); err != nil {
		return false
	}
	line, err := h.reader.ReadString('\n')
	return err == nil && strings.TrimSpace(line) == "still there?"
}

func (l *lab) wantAlive(open []held, want bool, what string) {
	l.t.Helper()
	for i, h := range open {
		if h.alive() != want {
			l.t.Errorf("%s: connection %d is alive: %v, want %v", what, i, !want, want)
		}
	}
}

func TestADrainLeavesOpenConnectionsAloneAndWaitTellsWhenTheyAreGone(t *testing.T) {
	l := newLab(t)
	l.start()
	l.ok("set", "mx", "100%")
	open := l.hold(4, "new")
	l.ok("drain", "mx", "new")
	l.servedBy("old")
	l.wantAlive(open, true, "after the drain")
	if r := l.ctl("wait", "mx", "--for=drained", "--timeout", "500ms"); r.code != 4 || !strings.Contains(r.stderr, "has 4 open flows") {
		t.Errorf("wait = %d %s, want 4 for 4 open flows", r.code, r.stderr)
	}
	for _, h := range open {
		_ = h.conn.Close()
	}
	l.ok("wait", "mx", "--for=drained", "--for=in-sync", "--timeout", "10s")
	l.ok("undo", "mx")
	l.servedBy("new")
}

func TestKillResetsTheCandidatesConnectionsAndNoOthers(t *testing.T) {
	for _, command := range [][]string{{"drain", "mx", "new", "--kill"}, {"set", "mx", "0%", "--kill"}} {
		l := newLab(t)
		l.start()
		old := l.hold(2, "old")
		l.ok("set", "mx", "100%")
		open := l.hold(4, "new")
		if r := l.ok(command...); !strings.Contains(r.stdout, "4 open flows ended") {
			t.Errorf("%v says %q", command, r.stdout)
		}
		l.wantAlive(open, false, strings.Join(command, " "))
		l.wantAlive(old, true, strings.Join(command, " "))
		l.servedBy("old")
		l.stop()
	}
}

func TestAPacedDrainEndsConnectionsBitByBitEvenOverARestart(t *testing.T) {
	l := newLab(t)
	l.start()
	l.ok("set", "mx", "100%")
	l.hold(12, "new")
	l.ok("drain", "mx", "new", "--rate", "4/s")
	l.eventually("some connections are ended and some are not", func() bool {
		active := *l.status().Backends[1].FlowsActive
		return active > 0 && active < 12
	})
	l.kill()
	l.start()
	if b := l.status().Backends[1]; b.Drain == nil || b.Drain.RatePerSecond != 4 || !b.Closed {
		t.Errorf("after a restart the candidate is %+v, want it drained at 4 a second", b)
	}
	l.ok("wait", "mx", "--for=drained", "--timeout", "20s")
	l.servedBy("old")
}

// A client that waits for a dead candidate reaches the primary by its next SYN
// as soon as the candidate gets no more flows.
func TestAnAttemptToADeadCandidateIsFreedByOff(t *testing.T) {
	l := newLab(t)
	l.start()
	l.ok("set", "mx", "100%")
	l.host.Run("ip", "link", "set", "eth0", "down")
	served := make(chan string, 1)
	go func() {
		name := "nobody"
		_ = l.client.NS.Do(func() error {
			c, err := net.DialTimeout("tcp4", service4+":25", 15*time.Second)
			if err == nil {
				_ = c.SetDeadline(time.Now().Add(10 * time.Second))
				name, _ = bufio.NewReader(c).ReadString('\n')
				_ = c.Close()
			}
			return nil
		})
		served <- strings.TrimSpace(name)
	}()
	l.eventually("the attempt waits", func() bool {
		half := l.status().Backends[1].HalfOpen
		return half != nil && *half == 1
	})
	l.ok("off", "mx")
	select {
	case name := <-served:
		if name != "old" {
			t.Errorf("the client was served by %q, want the primary", name)
		}
	case <-time.After(20 * time.Second):
		t.Error("the client waits for the dead candidate")
	}
}

func TestWhereTellsWhoServesAClientNow(t *testing.T) {
	l := newLab(t)
	l.start()
	l.ok("set", "mx", "100%")
	l.hold(1, "new")
	client := "10.1.0.2"
	r := l.ok("where", client)
	for _, want := range []string{"mx     10.1.0.2/32  new at 10.2.0.2  drawn anew for each flow", "10.2.0.2:25"} {
		if !strings.Contains(r.stdout, want) {
			t.Errorf("where says\n%s\nwithout %q", r.stdout, want)
		}
	}
	l.ok("off", "mx")
	if r := l.ok("where", client); !strings.Contains(r.stdout, "  old  ") || !strings.Contains(r.stdout, "10.2.0.2:25") {
		t.Errorf("after off where says\n%s\nwant new flows to go to old, and the open one to be at new", r.stdout)
	}
}
