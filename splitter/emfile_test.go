package splitter

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/splitd/splitd/internal/nettest"
)

// leaveFiles lets a process open so many files more, whatever it has counted on, until
// the returned function is called.
func leaveFiles(t *testing.T, pid, more int) (restore func()) {
	t.Helper()
	files, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		t.Fatal(err)
	}
	highest := 0
	for _, file := range files {
		n, err := strconv.Atoi(file.Name())
		if err != nil {
			t.Fatal(err)
		}
		highest = max(highest, n)
	}
	var before unix.Rlimit
	if err := unix.Prlimit(pid, unix.RLIMIT_NOFILE, nil, &before); err != nil {
		t.Fatal(err)
	}
	set := func(to unix.Rlimit) {
		t.Helper()
		if err := unix.Prlimit(pid, unix.RLIMIT_NOFILE, &to, nil); err != nil {
			t.Fatal(err)
		}
	}
	set(unix.Rlimit{Cur: uint64(highest + 1 + more), Max: before.Max})
	return func() {
		t.Helper()
		set(before)
	}
}

// The rest of the process has taken files that flows may have: a limit that is
// lowered under a relay that counts on more is the same to accept(2).
func TestARelayWhoseAcceptFindsNoFileResetsWhoWaitsAndServesAgain(t *testing.T) {
	ip := families()["IPv4"]
	service := netip.AddrPortFrom(ip, freePort())
	child, log, end := startChild(t, service, startServer(t, ip, echo), 40)
	early := dial(t, service)
	exchange(t, early, "before")
	begin := time.Now()
	restore := leaveFiles(t, child, filesOfFlow)
	var waiting []*net.TCPConn
	resets := 0
	for range 20 {
		c, err := net.DialTCP("tcp", nil, net.TCPAddrFromAddrPort(service))
		switch {
		case err == nil:
			waiting = append(waiting, c)
		case isReset(err): // before connect(2) has come back
			resets++
		default:
			t.Fatal(err)
		}
	}
	nettest.Eventually(t, "all are reset but the one for whom there was a file", func() bool {
		waiting = slices.DeleteFunc(waiting, func(c *net.TCPConn) bool { // it is told once
			_ = c.SetReadDeadline(time.Now().Add(time.Millisecond))
			_, err := c.Read(make([]byte, 1))
			if isReset(err) {
				resets++
			}
			return isReset(err)
		})
		return len(waiting) == 1
	}, func() any { return len(waiting) }, func() any { return log.tail(2000) })
	_ = waiting[0].SetReadDeadline(time.Now().Add(testPatience))
	exchange(t, waiting[0], "the one")
	exchange(t, early, "meanwhile")
	restore()
	exchange(t, dial(t, service), "afterwards")
	lines := strings.Count(log.String(), `msg="accept connection"`)
	if most := int(time.Since(begin).Seconds()) + 2; lines == 0 || lines > most {
		t.Errorf("%d lines about accept errors, want one a second at most (%d)", lines, most)
	}
	if !strings.Contains(log.String(), "too many open files") {
		t.Errorf("accept has not met EMFILE:\n%s", log)
	}
	if err := end(); err != nil {
		t.Errorf("the relay ended with %v", err)
	}
	// Two workers may take the two files for a client each, and have none for its backend.
	if want := fmt.Sprintf("refused=%d\n", resets); !strings.Contains(log.String(), want) {
		t.Errorf("%d clients were reset, and the relay says\n%s", resets, log.tail(500))
	}
}
