package splitter

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/splitd/splitd/internal/nettest"
	"github.com/splitd/splitd/traffic"
)

// childEnv makes the test binary a relay of its own: "SERVICE BACKEND FILES".
const childEnv = "SPLITTER_TEST_CHILD"

// ofTheRelay are files for its listeners, epolls and whatever else it has for
// itself, and those that flows must leave.
const ofTheRelay = 40

// runChild relays SERVICE to BACKEND with room for FILES more files, until its
// standard input ends.
func runChild() int {
	if err := relayWithFewFiles(os.Getenv(childEnv)); err != nil {
		fmt.Fprintln(os.Stderr, "child:", err)
		return 1
	}
	return 0
}

func relayWithFewFiles(arguments string) error {
	var service, backend string
	var room int
	if _, err := fmt.Sscan(arguments, &service, &backend, &room); err != nil {
		return err
	}
	split := newSplit("mx", netip.MustParseAddrPort(service), netip.MustParseAddrPort(backend), nil)
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	relay := New(Options{Log: slog.New(slog.NewTextHandler(os.Stderr, nil))})
	highest := 0 // the lowest free number is what RLIMIT_NOFILE is compared with
	files, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return err
	}
	for _, file := range files {
		if n, err := strconv.Atoi(file.Name()); err == nil {
			highest = max(highest, n)
		}
	}
	for next := 0; next < highest; { // no gaps, so that the room is exact
		if next, err = syscall.Dup(0); err != nil {
			return err
		}
	}
	limit := uint64(highest + 1 + ofTheRelay + room)
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &syscall.Rlimit{Cur: limit, Max: limit}); err != nil {
		return err
	}
	if err := relay.Apply(ctx, []traffic.Split{split}); err != nil {
		return err
	}
	fmt.Println("ready")
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		stop()
	}()
	err = relay.Run(ctx)
	fmt.Fprintf(os.Stderr, "child: accepts=%d refused=%d\n", relay.Faults().Accepts, relay.Refusals()["mx"][traffic.RefusedNoFiles]+relay.Faults().Dials)
	return err
}

func TestRelayWithoutFilesKeepsItsFlowsRestsAndRecovers(t *testing.T) {
	ip := families()["IPv4"]
	service := netip.AddrPortFrom(ip, freePort())
	var flows atomic.Int64
	accepted := make(chan struct{}, 1000)
	backend := startServer(t, ip, func(c *net.TCPConn) {
		flows.Add(1)
		accepted <- struct{}{}
		echo(c)
	})
	child, log, end := startChild(t, service, backend, 40)

	early := dial(t, service)
	<-accepted // it has its two files, and no pipe
	begin := time.Now()
	var crowd []*net.TCPConn
	for range 500 {
		// Some may be reset at once.
		if c, err := net.DialTCP("tcp", nil, net.TCPAddrFromAddrPort(service)); err == nil {
			crowd = append(crowd, c)
		} else if !isReset(err) {
			t.Fatal(err)
		}
	}
	nettest.Eventually(t, "the relay runs out of files", func() bool {
		return strings.Contains(log.String(), "accept connection") || strings.Contains(log.String(), "short of ports, file descriptors")
	})

	exchange(t, early, strings.Repeat("no pipe is to be had: ", 1000))
	nettest.Eventually(t, "it sleeps while clients wait that it cannot accept", func() bool { return sleeps(t, child) })
	exchange(t, early, "and still here")
	waiting := slices.Clone(crowd)
	nettest.Eventually(t, "who waits for over a second is reset", func() bool {
		waiting = slices.DeleteFunc(waiting, func(c *net.TCPConn) bool { // it is told once
			_ = c.SetReadDeadline(time.Now().Add(time.Millisecond))
			_, err := c.Read(make([]byte, 1))
			return isReset(err)
		})
		return len(waiting) <= (40+ofTheRelay)/2 // have a flow
	}, func() any { return len(waiting) }, func() any { return log.tail(2000) })
	exchange(t, early, "all the time")
	for _, c := range crowd {
		abortConn(c)
	}
	nettest.Eventually(t, "new connections are served", func() bool {
		c, err := net.DialTCP("tcp", nil, net.TCPAddrFromAddrPort(service))
		if err != nil {
			return false
		}
		defer abortConn(c)
		_ = c.SetDeadline(time.Now().Add(3 * time.Second))
		_, _ = c.Write([]byte("x"))
		_, err = io.ReadFull(c, make([]byte, 1))
		return err == nil
	})
	exchange(t, early, "after all")
	lines := strings.Count(log.String(), "accept connection")
	if most := int(time.Since(begin).Seconds()) + 3; lines > most {
		t.Errorf("%d lines about accept errors, want at most one a second (%d)", lines, most)
	}
	if err := end(); err != nil {
		t.Errorf("the relay ended with %v, want exit 0\n%s", err, log)
	}
	var failed int
	_, said, _ := strings.Cut(log.String(), "child: ")
	if _, err := fmt.Sscanf(said, "accepts=%d", &failed); err != nil {
		t.Fatalf("the relay does not say how often it could not accept: %v\n%s", err, log.tail(500))
	}
	// After each it rests, from 5 ms on twice as long up to a second, and anew when a flow begins.
	const untilASecond = 9
	workers, seconds := runtime.NumCPU(), int(time.Since(begin).Seconds())+1
	if most := untilASecond*(int(flows.Load())+workers) + workers*seconds; failed > most || failed == 0 {
		t.Errorf("it has tried to accept in vain %d times, beside %d flows in %d s, want %d at most", failed, flows.Load(), seconds, most)
	}
}

// startChild starts a relay in its own process; end stops it in order.
func startChild(t *testing.T, service, backend netip.AddrPort, files int) (pid int, log *logBuffer, end func() error) {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%s %s %d", childEnv, service, backend, files))
	log = &logBuffer{}
	cmd.Stderr = log
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill() })
	if line, err := bufio.NewReader(stdout).ReadString('\n'); line != "ready\n" {
		t.Fatalf("child said %q, %v\n%s", line, err, log)
	}
	return cmd.Process.Pid, log, func() error { return errors.Join(stdin.Close(), cmd.Wait()) }
}

// sleeps says whether all threads of the process wait for something: the state of
// proc_pid_stat(5), behind the name in parentheses.
func sleeps(t *testing.T, pid int) bool {
	t.Helper()
	threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
	if err != nil || len(threads) == 0 {
		t.Fatalf("the process has %d threads, %v", len(threads), err)
	}
	return !slices.ContainsFunc(threads, func(thread string) bool {
		text, err := os.ReadFile(thread)
		return err == nil && !strings.HasPrefix(string(text[bytes.LastIndexByte(text, ')')+1:]), " S")
	})
}
