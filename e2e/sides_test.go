package e2e

import (
	"bufio"
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

	"github.com/splitd/splitd/control/api"
)

// sidesConfig is a split whose layout is state: three candidates, which are
// ports of the new host.
const sidesConfig = `
control: {socket: %[1]s/splitd.sock}
http: {listen: ""}
state_dir: %[1]s/state
splits:
  - name: mx
    service: {addresses: [192.0.2.25], ports: [25/tcp]}
    affinity: source
    primary: {name: old, addresses: [local]}
    candidates:
      - {name: a, addresses: [10.2.0.2:26], weight: 0%%}
      - {name: b, addresses: [10.2.0.2:27], weight: 0%%}
      - {name: c, addresses: [10.2.0.2:28], weight: 0%%, clients: {always: [10.1.0.10], never: [10.1.0.11]}}
    return: gateway
`

const sidesClients = 60

func newSidesLab(t *testing.T) *lab {
	t.Helper()
	l := newLab(t)
	for port, name := range map[int]string{26: "a", 27: "b", 28: "c"} {
		l.serve(l.host, fmt.Sprintf("0.0.0.0:%d", port), name)
	}
	for i := range sidesClients {
		if err := l.client.AddAddresses("eth0", clientAddress(i)+"/24"); err != nil {
			t.Fatal(err)
		}
	}
	l.configure(sidesConfig)
	return l
}

func clientAddress(i int) string { return fmt.Sprintf("10.1.0.%d", 10+i) }

// sides says which backend serves each client.
func (l *lab) sides() map[string]string { return l.sidesAt(service4 + ":25") }

func (l *lab) sidesAt(service string) map[string]string {
	l.t.Helper()
	sides := map[string]string{}
	for i := range sidesClients {
		dialer := net.Dialer{Timeout: 20 * time.Second, LocalAddr: &net.TCPAddr{IP: net.ParseIP(clientAddress(i))}}
		var c net.Conn
		l.client.Do(func() (err error) { c, err = dialer.Dial("tcp4", service); return err })
		_ = c.SetDeadline(time.Now().Add(20 * time.Second))
		name, err := bufio.NewReader(c).ReadString('\n')
		if err != nil {
			l.t.Fatalf("client %s: %v", clientAddress(i), err)
		}
		_ = c.(*net.TCPConn).SetLinger(0)
		_ = c.Close()
		sides[clientAddress(i)] = strings.TrimSpace(name)
	}
	return sides
}

func (l *lab) slots() []api.Slot {
	l.t.Helper()
	var list api.SplitList
	if err := json.Unmarshal([]byte(l.ok("show", "mx", "-o", "json").stdout), &list); err != nil {
		l.t.Fatal(err)
	}
	return list.Items[0].Slots
}

// A client keeps its side through changes of other candidates' weights, death,
// a lost store and a reboot, and a group is above the draw.
func TestAClientKeepsItsSide(t *testing.T) {
	l := newSidesLab(t)
	l.start()
	for _, step := range []string{"a=20%", "b=20%", "c=20%", "a=5%", "c=25%", "b=10%", "a=25%"} {
		before := l.sides()
		l.ok("set", "mx", step)
		for client, to := range l.sides() {
			from, moved := before[client], []string{step[:1], "old"}
			if from != to && (!slices.Contains(moved, from) || !slices.Contains(moved, to)) {
				t.Errorf("%s moves client %s from %q to %q", step, client, from, to)
			}
		}
	}
	want, slots := l.sides(), l.slots()
	if want[clientAddress(0)] != "c" || want[clientAddress(1)] == "c" || len(slots) < 4 {
		t.Fatalf("the clients of the groups are at %q and %q, slots %v", want[clientAddress(0)], want[clientAddress(1)], slots)
	}
	same := func(when string) {
		t.Helper()
		if diff := cmp.Diff(want, l.sides()); diff != "" {
			t.Errorf("sides %s (-want +got):\n%s", when, diff)
		}
		if diff := cmp.Diff(slots, l.slots()); diff != "" {
			t.Errorf("slots %s (-want +got):\n%s", when, diff)
		}
		if r := l.ctl("plan", "--exit-code"); r.code != 0 {
			t.Errorf("%s the kernel differs: %s", when, r.stdout)
		}
	}
	l.kill()
	l.start()
	same("after the daemon died")

	l.kill()
	remove(t, filepath.Join(l.dir, "state", "state.db"))
	l.start()
	same("after the store was lost")

	l.kill()
	l.reboot()
	l.succeeds("restore")
	if diff := cmp.Diff(want, l.sides()); diff != "" {
		t.Errorf("sides as restored at boot (-want +got):\n%s", diff)
	}
	l.start()
	same("after a reboot")
}

// The relay draws as the kernel does, and for groups too: a split that moves
// between them moves no client.
func TestAClientKeepsItsSideWhenItsSplitMovesBetweenTheKernelAndTheRelay(t *testing.T) {
	l := newSidesLab(t)
	l.serve(l.host, "0.0.0.0:24", "old")
	kernel := strings.NewReplacer("ports: [25/tcp]", "ports: [2525/tcp]", "addresses: [local]", "addresses: [10.2.0.2:24]").Replace(sidesConfig)
	l.configure(kernel)
	l.start()
	for _, step := range []string{"a=20%", "b=20%", "a=5%", "c=25%", "b=10%", "a=25%"} {
		l.ok("set", "mx", step)
	}
	const service = service4 + ":2525"
	want, slots := l.sidesAt(service), l.slots()
	for _, text := range []string{kernel + "    mode: proxy\n", kernel} {
		l.configure(text)
		l.ok("apply")
		mode := l.status().Mode
		if diff := cmp.Diff(want, l.sidesAt(service)); diff != "" {
			t.Errorf("sides in mode %s (-want +got):\n%s", mode, diff)
		}
		if diff := cmp.Diff(slots, l.slots()); diff != "" {
			t.Errorf("slots in mode %s (-want +got):\n%s", mode, diff)
		}
		for client, side := range want {
			if r := l.ok("where", client, "mx"); !strings.Contains(r.stdout, " "+side+" at 10.2.0.2") {
				t.Errorf("in mode %s where says of %s, which is served by %s:\n%s", mode, client, side, r.stdout)
			}
		}
	}
}

// A second router draws as the first one does, once it has its weights and
// slots.
func TestASecondRouterTakesOverWhoDrawsWhat(t *testing.T) {
	l := newSidesLab(t)
	l.start()
	for _, step := range []string{"a=20%", "b=20%", "a=5%", "c=25%", "b=10%", "a=25%"} {
		l.ok("set", "mx", step)
	}
	want := l.sides()
	var exported strings.Builder
	exported.WriteString("    slots:\n")
	for _, s := range l.slots() {
		fmt.Fprintf(&exported, "      - {first: %d, last: %d, candidate: %s}\n", s.First, s.Last, s.Candidate)
	}
	l.stop()
	l.reboot()
	if err := os.RemoveAll(filepath.Join(l.dir, "state")); err != nil { // another router
		t.Fatal(err)
	}
	text := sidesConfig
	for port, weight := range map[string]string{"26": "25", "27": "10", "28": "25"} {
		text = strings.Replace(text, port+"], weight: 0", port+"], weight: "+weight, 1)
	}
	l.configure(text)
	l.start()
	if cmp.Equal(want, l.sides()) {
		t.Error("the weights alone give these sides: the test shows nothing")
	}
	l.configure(text + exported.String())
	l.ok("apply")
	if diff := cmp.Diff(want, l.sides()); diff != "" {
		t.Errorf("sides at the second router (-want +got):\n%s", diff)
	}
}

// A forced off stays off, for groups too, when `splitd restore` runs before the
// daemon does.
func TestRestoreOpensNothingThatAForcedOffHasClosed(t *testing.T) {
	l := newSidesLab(t)
	l.start()
	l.ok("set", "mx", "a=100%")
	if sides := l.sides(); sides[clientAddress(0)] != "c" || sides[clientAddress(1)] != "a" {
		t.Fatalf("clients are at %v", sides)
	}
	l.kill()
	l.ok("off", "--all", "--force")
	l.succeeds("restore")
	for client, to := range l.sides() {
		if to != "old" {
			t.Errorf("after off, restore: client %s is at %q", client, to)
		}
	}
}
