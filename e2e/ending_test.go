package e2e

import (
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/splitd/splitd/internal/programs"
)

// bothConfig has a split in each plane.
const bothConfig = proxyConfig + `  - name: kernel
    service: {addresses: [192.0.2.25, "2001:db8::25"], ports: [25/tcp]}
    primary: {name: old, addresses: [local]}
    candidates:
      - {name: new, addresses: [10.2.0.2, "fd02::2"], weight: 0%%}
    return: gateway
`

// ends has the daemon told to stop, and waits until its socket is gone.
func (l *lab) ends(signal unix.Signal) {
	l.t.Helper()
	_ = l.daemon.Process.Signal(signal)
	l.eventually("the daemon says that it is ending", func() bool { return strings.Contains(l.ctl("version").stderr, "is ending") })
}

func TestWhileFlowsDrainEverybodyIsToldWhatHolds(t *testing.T) {
	l := newLab(t)
	l.configure(proxyConfig)
	l.start()
	c, _, _ := l.dial("10.1.0.1:2525")
	defer func() { _ = c.Close() }()
	l.ends(unix.SIGTERM)
	says := fmt.Sprintf("splitd (pid %d) is ending: it begins no flows, answers nobody and takes no change, and 1 open flow of its relay drains until ", l.daemon.Process.Pid)
	for _, args := range [][]string{{"status"}, {"set", "mx", "5%"}, {"off", "--all"}, {"undo"}} {
		r := l.ctl(args...)
		if r.code != 3 || !strings.Contains(r.stderr, says) || strings.Contains(r.stderr, "--force") || strings.Contains(r.stderr, "no daemon listens") {
			t.Errorf("%v: exit %d, %q, want 3 and %q", args, r.code, r.stderr, says)
		}
	}
}

func TestWhileFlowsDrainAStartSaysWhatIsInItsWay(t *testing.T) {
	l := newLab(t)
	l.configure(bothConfig)
	l.start()
	c, _, _ := l.dial("10.1.0.1:2525")
	defer func() { _ = c.Close() }()
	l.ends(unix.SIGTERM)
	says := fmt.Sprintf("splitd (pid %d) is ending", l.daemon.Process.Pid)
	if r := l.run("splitd", "run", "--config", l.config); r.code != 1 || !strings.Contains(r.stderr, says) || !strings.Contains(r.stderr, "or `kill ") {
		t.Errorf("a start: exit %d, %q, want 1 and %q", r.code, r.stderr, says)
	}
	if r := l.ctl("off", "--all"); r.code != 3 || !strings.Contains(r.stderr, says) || !strings.Contains(r.stderr, "for splits in the kernel: splitctl off --all --force") {
		t.Errorf("off with splits in the kernel: exit %d, %q", r.code, r.stderr)
	}
	_ = c.Close()
	l.eventually("the daemon has ended with its last flow", func() bool { return unix.Kill(l.daemon.Process.Pid, 0) != nil })
	l.start()
}

// It has the store of the one that drains behind it only when that has ended.
func TestWhileFlowsDrainAStartOfTheRelayAloneServes(t *testing.T) {
	l := newLab(t)
	l.configure(proxyConfig)
	l.start()
	c, r, _ := l.dial("10.1.0.1:2525")
	defer func() { _ = c.Close() }()
	first := l.daemon
	l.ends(unix.SIGTERM)
	l.start()
	if who := l.who("10.1.0.1:2525"); who != "old" {
		t.Errorf("the second daemon's client is served by %q", who)
	}
	if err := talks(c, r); err != nil {
		t.Errorf("the first one's flow: %v", err)
	}
	_ = c.Close()
	l.eventually("the first daemon has ended with its last flow", func() bool { return unix.Kill(first.Process.Pid, 0) != nil })
	l.ok("set", "mx", "100%")
}

// Of a shell's background SIGINT is ignored, and of nohup's too where it is run there.
func TestASecondSignalResetsTheFlowsThatDrain(t *testing.T) {
	for name, tt := range map[string]struct {
		ignored string // by whoever starts the daemon
		signals []unix.Signal
	}{
		"SIGTERM twice":                   {"", []unix.Signal{unix.SIGTERM, unix.SIGTERM}},
		"SIGINT twice":                    {"", []unix.Signal{unix.SIGINT, unix.SIGINT}},
		"SIGINT twice though ignored":     {"INT", []unix.Signal{unix.SIGINT, unix.SIGINT}},
		"SIGINT though ignored then TERM": {"INT", []unix.Signal{unix.SIGINT, unix.SIGTERM}},
		"SIGTERM twice with INT ignored":  {"INT HUP", []unix.Signal{unix.SIGTERM, unix.SIGTERM}},
		"SIGTERM then SIGINT under nohup": {"HUP", []unix.Signal{unix.SIGTERM, unix.SIGINT}},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t)
			l.configure(proxyConfig + "    proxy: {drain_timeout: 0s}\n")
			l.startBy(exec.Command("sh", "-c", `[ -z "$1" ] || trap "" $1; shift; exec "$@"`, "sh", tt.ignored, programs.Path(t, "splitd"), "run", "--config", l.config))
			c, r, _ := l.dial("10.1.0.1:2525")
			defer func() { _ = c.Close() }()
			l.ends(tt.signals[0])
			if err := talks(c, r); err != nil {
				t.Errorf("a flow after the first signal: %v", err)
			}
			_ = l.daemon.Process.Signal(tt.signals[1])
			if _, err := r.ReadString('\n'); !errors.Is(err, unix.ECONNRESET) {
				t.Errorf("the client's end: %v, want a reset", err)
			}
			l.eventually("the daemon has ended", func() bool { return unix.Kill(l.daemon.Process.Pid, 0) != nil })
			l.daemon = nil
			if log := l.log.String(); !strings.Contains(log, `level=WARN msg="second signal: open flows of the relay are reset" flows=1`) {
				t.Errorf("the log does not say it:\n%s", log)
			}
		})
	}
}
