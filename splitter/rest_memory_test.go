package splitter

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
)

// A flow that has said something once and rests has no buffer any more: only the
// relay is in the process that is looked at.
func TestAFlowThatRestsTakesLessThanAKibibyte(t *testing.T) {
	const flows, warm = 2000, 200
	ip := families()["IPv4"]
	service := netip.AddrPortFrom(ip, freePort())
	child, log, end := startChild(t, service, startServer(t, ip, echo), filesOfFlow*(flows+warm)+2000)
	var clients []*net.TCPConn
	open := func(many int) {
		for range many {
			c := dial(t, service)
			exchange(t, c, strings.Repeat("hello", 100))
			clients = append(clients, c)
		}
	}
	open(warm)
	before := anonymous(t, child)
	open(flows)
	if each := (anonymous(t, child) - before) / flows; each >= restMost {
		t.Errorf("a flow that rests has %d bytes, want less than %d", each, restMost)
	}
	for _, c := range clients {
		abortConn(c)
	}
	if err := end(); err != nil {
		t.Errorf("the relay ended with %v\n%s", err, log)
	}
}

// anonymous is the anonymous memory that a process has resident, in bytes: RssAnon in
// proc_pid_status(5).
func anonymous(t *testing.T, pid int) int {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(text), "RssAnon:")
	var kibibytes int
	if _, err := fmt.Sscan(rest, &kibibytes); err != nil {
		t.Fatal(err)
	}
	return kibibytes << 10
}
