package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/splitd/splitd/internal/nettest"
)

// udpConfig is a name server's service: wildcards, UDP beside TCP.
const udpConfig = `
control: {socket: %[1]s/splitd.sock}
http: {listen: ""}
state_dir: %[1]s/state
flow_log: {to: %[1]s/flows.jsonl}
splits:
  - name: mx
    service: {addresses: [0.0.0.0, "::"], ports: [2553/udp, 2525/tcp]}
    mode: proxy
    primary: {name: old, addresses: ["127.0.0.1:25", "[::1]:25"]}
    candidates:
      - {name: new, addresses: ["10.2.0.2:25", "[fd02::2]:25"], weight: 0%%}
    health: {check: none}
    udp_timeout: 30s
    proxy: {drain_timeout: 1s}
`

// Two addresses of the router in each family.
var asked = []string{"10.1.0.1:2553", service4 + ":2553", "[fd01::1]:2553", "[" + service6 + "]:2553"}

// newUDPLab is a lab whose servers answer questions as name servers do: with the
// question's two bytes of identification first (RFC 1035, section 4.1.1), then
// their name.
func newUDPLab(t *testing.T) *lab {
	t.Helper()
	l := newLab(t)
	for _, server := range []struct {
		name string
		on   *nettest.NS
		at   []string
	}{{"old", l.router, []string{"127.0.0.1:25", "[::1]:25"}}, {"new", l.host, []string{host4 + ":25", "[" + host6 + "]:25"}}} {
		for _, at := range server.at {
			l.answer(server.on, at, server.name)
		}
	}
	l.configure(udpConfig)
	return l
}

// answer has such a server answer there.
func (l *lab) answer(on *nettest.NS, at, name string) {
	l.t.Helper()
	var c net.PacketConn
	on.Do(func() (err error) { c, err = net.ListenPacket("udp", at); return err })
	done := make(chan struct{})
	go func() {
		defer close(done)
		for question := make([]byte, 1500); ; {
			n, from, err := c.ReadFrom(question)
			if err != nil {
				return
			}
			if n > 2 {
				_, _ = c.WriteTo(append(question[:2:2], name...), from)
			}
		}
	}()
	l.t.Cleanup(func() {
		_ = c.Close()
		<-done
	})
}

// resolver is a client of UDP, whose socket hears only whom it asks.
type resolver struct {
	t    *testing.T
	conn net.Conn
	id   byte
}

func (l *lab) resolver(at string) *resolver {
	l.t.Helper()
	var c net.Conn
	l.client.Do(func() (err error) { c, err = net.Dial("udp", at); return err })
	l.t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(time.Minute))
	return &resolver{t: l.t, conn: c}
}

// who says which backend answers its next question.
func (r *resolver) who() string {
	r.t.Helper()
	r.id++
	if _, err := r.conn.Write([]byte{0, r.id, '?'}); err != nil {
		r.t.Fatal(err)
	}
	answer := make([]byte, 100)
	n, err := r.conn.Read(answer)
	if err != nil || n < 2 || answer[1] != r.id {
		r.t.Fatalf("%s: the answer is %q, %v", r.conn.RemoteAddr(), answer[:n], err)
	}
	return string(answer[2:n])
}

func TestTheRelaySplitsDrainsAndKillsUDPLikeTCP(t *testing.T) {
	l := newUDPLab(t)
	l.start()
	want := func(r *resolver, name string) {
		t.Helper()
		if got := r.who(); got != name {
			t.Errorf("%s is answered by %q, want %q", r.conn.RemoteAddr(), got, name)
		}
	}
	var early, late []*resolver
	for _, at := range asked {
		early = append(early, l.resolver(at))
		want(early[len(early)-1], "old")
	}
	l.ok("set", "mx", "100%")
	for i, at := range asked {
		late = append(late, l.resolver(at))
		want(late[i], "new")
		want(early[i], "old") // its flow stays
	}
	if got := l.who("10.1.0.1:2525"); got != "new" {
		t.Errorf("TCP of the same split is served by %q, want new", got)
	}
	if r := l.ok("where", "10.1.0.2"); strings.Count(r.stdout, "udp") < 4 || strings.Count(r.stdout, "10.2.0.2:25") != 2 || !strings.Contains(r.stdout, service4+":2553") {
		t.Errorf("where says\n%s\nwant the client's open flows, by the addresses that it asked", r.stdout)
	}
	s := l.status()
	if b := s.Backends[1]; *b.FlowsTotal != 5 || *b.BytesIn < 4*3 || *b.BytesOut < 4*5 {
		t.Errorf("status tells of the candidate %+v", b)
	}
	if r := l.ok("drain", "mx", "new", "--kill"); !strings.Contains(r.stdout, "4 open flows ended") && !strings.Contains(r.stdout, "5 open flows ended") {
		t.Errorf("drain --kill says %q", r.stdout)
	}
	l.ok("wait", "mx", "--for=drained", "--timeout", "5s")
	for i := range asked {
		want(late[i], "old")
		want(early[i], "old")
	}
	if r := l.ok("history", "mx"); !strings.Contains(r.stdout, "end of ") {
		t.Errorf("history says\n%s", r.stdout)
	}
	l.stop()
	l.wantLines(map[string]int{
		"new old udp only": 8, "end old udp only stopped KD": 8, "new new udp draw": 4, "end new udp draw killed KD": 4,
	})
}

// wantLines compares the lines of the flow log of UDP, counted by what they say.
func (l *lab) wantLines(want map[string]int) {
	l.t.Helper()
	text, err := os.ReadFile(filepath.Join(l.dir, "flows.jsonl"))
	if err != nil {
		l.t.Fatal(err)
	}
	got := map[string]int{}
	for line := range bytes.Lines(text) {
		var r struct {
			Event, Backend, Transport, Why, End, Code, Service string
			PacketsIn                                          *uint64 `json:"packets_in"`
		}
		if err := json.Unmarshal(line, &r); err != nil {
			l.t.Fatal(err)
		}
		if r.Transport != "udp" {
			continue
		}
		if !slices.Contains(asked, r.Service) || r.Event == "end" && (r.PacketsIn == nil || *r.PacketsIn == 0) {
			l.t.Errorf("line %s", line)
		}
		got[strings.Join(strings.Fields(fmt.Sprint(r.Event, " ", r.Backend, " ", r.Transport, " ", r.Why, " ", r.End, " ", r.Code)), " ")]++
	}
	if diff := cmp.Diff(want, got); diff != "" {
		l.t.Errorf("lines of the flow log (-want +got):\n%s", diff)
	}
}

func TestACandidateThatRefusesDatagramsCostsAClientNothing(t *testing.T) {
	l := newUDPLab(t)
	l.configure(strings.NewReplacer("10.2.0.2:25", "10.2.0.2:26", "[fd02::2]:25", "[fd02::2]:26").Replace(udpConfig))
	l.start()
	l.ok("set", "mx", "100%")
	for _, at := range asked[:3:3] {
		if got := l.resolver(at).who(); got != "old" {
			t.Errorf("%s is answered by %q, want the primary", at, got)
		}
	}
	if f := l.status().Backends[1].ConnectFailed; f == nil || *f != 3 {
		t.Errorf("connect_failed of the candidate = %v, want 3", f)
	}
}
