package health_test

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/splitd/splitd/health"
	"github.com/splitd/splitd/internal/nettest"
	"github.com/splitd/splitd/traffic"
)

func shell(script string, args ...string) health.Target {
	return at(netip.MustParseAddrPort("[2001:db8::1]:25"), traffic.Health{
		Check: traffic.CheckExec, Command: append([]string{"/bin/sh", "-c", script, "sh"}, args...),
	})
}

func TestAnExecCheckPassesWithExitStatus0(t *testing.T) {
	ns := place(t)
	t.Setenv("SPLITD_SECRET", "of the daemon")
	tests := []struct {
		name, script string
		want         health.Outcome
		reason       string
	}{
		{"true", "exit 0", health.Passed, ""},
		{"what it prints does not matter", "echo bad >&2", health.Passed, ""},
		{"false", "exit 3", health.Failed, "/bin/sh: exit status 3"},
		{"the last line tells why", `echo one; echo two >&2; printf 'no \033[1mqueue\n\n'; exit 1`, health.Failed, "exit status 1 (no [1mqueue)"},
		{"much output", "i=0; while [ $i -lt 3000 ]; do echo $i; i=$((i+1)); done; exit 1", health.Failed, "(2999)"},
		{"killed", "kill -9 $$", health.Failed, "signal: killed"},
		{"its environment", `echo "$SPLITD_SPLIT $SPLITD_BACKEND $SPLITD_ADDRESS $SPLITD_PORT [$SPLITD_SECRET] $PWD $#"; exit 1`, health.Failed, "(mx new 2001:db8::1 25 [] / 0)"},
		{"what goes on in the background", "sleep 60 & exit 0", health.Passed, ""},
	}
	for _, tt := range tests {
		expect(t, tt.name, check(ns, shell(tt.script)), tt.want, tt.reason)
	}
	missing := shell("")
	missing.Health.Command = []string{"/nowhere/check-mx"}
	expect(t, "a command that is missing", check(ns, missing), health.Unknown, "/nowhere/check-mx: no such file")
}

func TestACommandThatHangsIsKilledWithItsChildren(t *testing.T) {
	ns := place(t)
	pids := filepath.Join(t.TempDir(), "pids")
	target := shell(`echo $$ > "$1"; (sh -c 'echo $$ >> "$0"; exec sleep 600' "$1") & wait`, pids)
	target.Health.Timeout = time.Second
	var words []string
	nettest.Eventually(t, "both shells start in time", func() bool {
		expect(t, "hanging", check(ns, target), health.Failed, fmt.Sprintf("/bin/sh: still running after %v, killed", target.Health.Timeout))
		text, _ := os.ReadFile(pids)
		words = strings.Fields(string(text))
		target.Health.Timeout *= 2
		return len(words) == 2
	})
	for _, word := range words {
		pid, err := strconv.Atoi(word)
		if err != nil {
			t.Fatal(err)
		}
		nettest.Eventually(t, fmt.Sprintf("process %d has ended", pid), func() bool { return !alive(pid) })
	}
}

// alive says whether a process runs; one that has ended and was not collected
// yet does not.
func alive(pid int) bool {
	stat, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	if err != nil {
		return !errors.Is(unix.Kill(pid, 0), unix.ESRCH)
	}
	_, rest, _ := strings.Cut(string(stat), ") ")
	return !strings.HasPrefix(rest, "Z")
}
