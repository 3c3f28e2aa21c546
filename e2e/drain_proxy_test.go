package e2e

import (
	"errors"
	"io"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

var proxied = []string{"10.1.0.1:2525", "[fd01::1]:2525"}

// relayed is a lab whose split is in mode proxy, with all new flows to new.
func relayed(t *testing.T) *lab {
	t.Helper()
	l := newLab(t)
	l.configure(proxyConfig)
	l.start()
	l.ok("set", "mx", "100%")
	return l
}

// isReset says whether the connection has been ended by an RST.
func (h held) isReset() bool {
	_ = h.conn.SetDeadline(time.Now().Add(15 * time.Second))
	_, err := io.Copy(io.Discard, h.conn)
	return errors.Is(err, syscall.ECONNRESET)
}

func TestTheRelaysDrainLeavesOpenFlowsAloneUntilTheyAreKilled(t *testing.T) {
	l := relayed(t)
	open := l.holdAt(proxied, 4, "new")
	if r := l.ok("where", "10.1.0.2"); strings.Count(r.stdout, "10.2.0.2:25") != 2 {
		t.Errorf("where says\n%s\nwant the client's two open flows at the candidate", r.stdout)
	}
	l.ok("drain", "mx", "new")
	stay := l.holdAt(proxied, 2, "old")
	l.wantAlive(open, true, "after the drain")
	if r := l.ctl("wait", "mx", "--for=drained", "--timeout", "300ms"); r.code != 4 || !strings.Contains(r.stderr, "has 4 open flows") {
		t.Errorf("wait = %d %s, want 4 for 4 open flows", r.code, r.stderr)
	}
	if r := l.ok("drain", "mx", "new", "--kill"); !strings.Contains(r.stdout, "4 open flows ended") {
		t.Errorf("drain --kill says %q", r.stdout)
	}
	for i, h := range open {
		if !h.isReset() {
			t.Errorf("connection %d was not reset", i)
		}
	}
	l.wantAlive(stay, true, "those of the primary")
	l.ok("wait", "mx", "--for=drained", "--timeout", "5s")
	if d := l.status().Backends[1].Drain; d == nil || d.Ended != 4 {
		t.Errorf("status tells of the drain %+v, want 4 flows ended", d)
	}
	if r := l.ok("history", "mx"); !strings.Contains(r.stdout, "end of 4 flows") {
		t.Errorf("history says\n%s", r.stdout)
	}
	l.ok("undo", "mx")
	if got := l.who(proxied[0]); got != "new" {
		t.Errorf("after undo served by %q, want new", got)
	}
}

// The kernel carries the flows on that it had when the split moved.
func TestADrainEndsFlowsThatTheKernelHasFromBefore(t *testing.T) {
	l := newLab(t)
	kernel := strings.NewReplacer("    mode: proxy\n", "    return: gateway\n", `["127.0.0.1:25", "[::1]:25"]`, "[local]").Replace(proxyConfig)
	l.configure(kernel)
	l.start()
	l.ok("set", "mx", "100%")
	before := l.holdAt(proxied[:1], 3, "new")
	l.configure(kernel + "    mode: proxy\n")
	l.ok("apply")
	now := l.holdAt(proxied[:1], 1, "new")
	l.wantAlive(before, true, "after the move")
	if got := *l.status().Backends[1].FlowsActive; got != 4 {
		t.Errorf("%d flows of the candidate are open, want 3 from before and 1 of the relay", got)
	}
	if r := l.ok("drain", "mx", "new", "--kill"); !strings.Contains(r.stdout, "4 open flows ended") {
		t.Errorf("drain --kill says %q", r.stdout)
	}
	l.wantAlive(append(before, now...), false, "after drain --kill")
	l.ok("wait", "mx", "--for=drained", "--timeout", "5s")
}

// What was asked for goes on while the relay drains at its end.
func TestADaemonThatStopsEndsFlowsAtTheTimeThatWasSaidYet(t *testing.T) {
	l := newLab(t)
	l.configure(proxyConfig + "    proxy: {drain_timeout: 0s}\n")
	l.start()
	stay := l.holdAt(proxied, 1, "old")
	l.ok("set", "mx", "100%")
	open := l.holdAt(proxied, 2, "new")
	l.ok("drain", "mx", "new", "--kill=6s")
	_ = l.daemon.Process.Signal(unix.SIGTERM)
	l.eventually("the daemon stops", func() bool { return l.ctl("status", "mx").code == 3 })
	l.wantAlive(open, true, "when the daemon has begun to stop") // or this test shows nothing
	for i, h := range open {
		if !h.isReset() {
			t.Errorf("connection %d was not reset", i)
		}
	}
	l.wantAlive(stay, true, "the one of the primary")
	_ = stay[0].conn.Close()
	l.stop()
}

func TestSettingZeroInTheRelayKillsToo(t *testing.T) {
	l := relayed(t)
	open := l.holdAt(proxied, 3, "new")
	if r := l.ok("set", "mx", "0%", "--kill"); !strings.Contains(r.stdout, "3 open flows ended") {
		t.Errorf("set 0%% --kill says %q", r.stdout)
	}
	for i, h := range open {
		if !h.isReset() {
			t.Errorf("connection %d was not reset", i)
		}
	}
}

func TestTheRelaysDrainEndsFlowsBitByBit(t *testing.T) {
	l := relayed(t)
	l.holdAt(proxied, 12, "new")
	l.ok("drain", "mx", "new", "--rate", "4/s")
	l.eventually("some connections are ended and some are not", func() bool {
		b := l.status().Backends[1]
		return *b.FlowsActive > 0 && *b.FlowsActive < 12 && b.Drain.Ended == 12-*b.FlowsActive
	})
	l.ok("wait", "mx", "--for=drained", "--timeout", "20s")
}

// In mode kernel it is the same word and the same answer.
func TestADrainWithATimeEndsWhatIsLeftThen(t *testing.T) {
	for _, mode := range []string{"kernel", "proxy"} {
		t.Run(mode, func(t *testing.T) {
			l, at := (*lab)(nil), proxied
			if mode == "proxy" {
				l = relayed(t)
			} else {
				l, at = newLab(t), []string{service4 + ":25", "[" + service6 + "]:25"}
				l.start()
				l.ok("set", "mx", "100%")
			}
			open := l.holdAt(at, 3, "new")
			l.ok("drain", "mx", "new", "--kill=3s")
			d := l.status().Backends[1].Drain
			if d == nil || d.KillAt == nil || d.KillAt.Sub(d.Since) != 3*time.Second || d.Ended != 0 {
				t.Errorf("status tells of the drain %+v, want that its time comes 3 s after it began", d)
			}
			if time.Now().Before(*d.KillAt) {
				l.wantAlive(open[:1], true, "before its time")
			}
			l.eventually("what is left has been ended", func() bool {
				b := l.status().Backends[1]
				return *b.FlowsActive == 0 && b.Drain.Ended == 3
			})
			if time.Now().Before(*d.KillAt) {
				t.Error("they were ended before the time")
			}
			l.wantAlive(open, false, "after its time")
			l.eventually("the history has it", func() bool {
				return strings.Contains(l.ok("history", "mx").stdout, "end of 3 flows")
			})
		})
	}
}

// The candidate's host is gone: its address answers nothing.
func TestAClientThatWaitsForACandidateInTheRelayIsFreedByOff(t *testing.T) {
	l := newLab(t)
	l.configure(proxyConfig + "    proxy: {connect_timeout: 1m, fallback: none}\n")
	l.start()
	l.ok("set", "mx", "100%")
	l.host.Run("ip", "link", "set", "eth0", "down")
	var c net.Conn
	l.client.Do(func() (err error) { c, err = net.DialTimeout("tcp", proxied[0], 20*time.Second); return err })
	defer func() { _ = c.Close() }()
	l.ok("off", "mx")
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	name := make([]byte, 4)
	if _, err := io.ReadFull(c, name); err != nil || string(name) != "old\n" {
		t.Errorf("the client was served by %q, %v, want the primary", name, err)
	}
}

// A reload in the middle of the end changes nothing, and what is left at the
// drain timeout is reset.
func TestTermDrainsTheRelayUpToItsTimeoutWhateverIsAskedMeanwhile(t *testing.T) {
	l := newLab(t)
	l.configure(proxyConfig + "    proxy: {drain_timeout: 2s}\n")
	l.start()
	open := l.holdAt(proxied, 2, "old")
	daemon := l.daemon.Process
	_ = daemon.Signal(unix.SIGTERM)
	l.eventually("nobody listens any more", func() bool {
		refused := false
		l.client.Do(func() error {
			c, err := net.Dial("tcp", proxied[0])
			if err == nil {
				_ = c.Close()
			}
			refused = errors.Is(err, syscall.ECONNREFUSED)
			return nil
		})
		return refused
	})
	l.configure("nonsense: true\n")
	_ = daemon.Signal(unix.SIGHUP)
	l.wantAlive(open, true, "while draining")
	if r := l.ctl("status", "mx"); r.code != 3 {
		t.Errorf("status while the daemon ends: exit %d, want 3", r.code)
	}
	for i, h := range open {
		if !h.isReset() {
			t.Errorf("connection %d was not reset at the drain timeout", i)
		}
	}
	l.stop()
}
