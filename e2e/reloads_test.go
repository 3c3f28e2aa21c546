package e2e

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/splitd/splitd/control/api"
	"github.com/splitd/splitd/control/client"
	"github.com/splitd/splitd/e2e/soak"
	"github.com/splitd/splitd/internal/nettest"
)

const reloads = 1000

// edition is the configuration of a reload: every one differs from the one before
// it, in weights, candidates or splits.
type edition struct {
	weights  [2]int // of "new" and "newer", in percent
	newer    bool   // there is such a candidate
	visiting bool   // there is a second split
}

func editionOf(reload int) edition {
	e := edition{newer: reload%3 != 0, visiting: reload%2 == 1}
	e.weights[0] = []int{0, 100, 50, 25, 75}[reload%5]
	if e.newer {
		e.weights[1] = (100 - e.weights[0]) * (reload % 3) / 2
	}
	return e
}

// text is the configuration, with places for the lab's folder and a port.
func (e edition) text(folder string, metrics int) string {
	text := fmt.Sprintf(`
control: {socket: %[1]s/splitd.sock}
http: {listen: "127.0.0.1:%[2]d"}
state_dir: %[1]s/state
log: {level: warn}
splits:
  - name: mx
    service: {addresses: [10.1.0.1, "fd01::1"], ports: [2525/tcp]}
    mode: proxy
    primary: {name: old, addresses: ["127.0.0.1:25", "[::1]:25"]}
    health: {check: none}
    candidates:
      - {name: new, addresses: ["10.2.0.2:25", "[fd02::2]:25"], weight: %[3]d%%}
`, folder, metrics, e.weights[0])
	if e.newer {
		text += fmt.Sprintf("      - {name: newer, addresses: [\"10.2.0.2:27\", \"[fd02::2]:27\"], weight: %d%%}\n", e.weights[1])
	}
	if e.visiting {
		text += `  - name: visiting
    service: {addresses: [10.1.0.1, "fd01::1"], ports: [2526/tcp]}
    mode: proxy
    primary: {name: old, addresses: ["127.0.0.1:25", "[::1]:25"]}
    candidates:
      - {name: new, addresses: ["10.2.0.2:25", "[fd02::2]:25"], weight: 10%}
    health: {check: none}
`
	}
	return text
}

// state is what status says of it when it is in force.
func (e edition) state() string {
	state := fmt.Sprintf("mx new %d", e.weights[0]*10_000)
	if e.newer {
		state += fmt.Sprintf(" newer %d", e.weights[1]*10_000)
	}
	if e.visiting {
		state += "; visiting new 100000"
	}
	return state
}

// allows says who may serve a flow of it.
func (e edition) allows() []string {
	var names []string
	for i, name := range []string{"new", "newer"} {
		if e.weights[i] > 0 {
			names = append(names, name)
		}
	}
	if e.weights[0]+e.weights[1] < 100 {
		names = append(names, "old")
	}
	return names
}

func stateOf(list api.SplitList) string {
	var splits []string
	for _, s := range list.Items {
		words := []string{s.Name}
		for _, b := range s.Backends[1:] {
			words = append(words, b.Name, strconv.Itoa(b.WeightPPM))
		}
		splits = append(splits, strings.Join(words, " "))
	}
	return strings.Join(splits, "; ")
}

// Most reloads are asked for by the control socket, the others by SIGHUP.
func TestAThousandReloadsUnderLoadFailNoClientAndLeaveNothingBehind(t *testing.T) {
	l := newLab(t)
	for _, family := range []string{"0.0.0.0:27", "[::]:27"} {
		l.serve(l.host, family, "newer")
	}
	port := freePort(t, l)
	write := func(e edition) {
		t.Helper()
		next := l.config + ".new" // the daemon may be reading the other one
		err := os.WriteFile(next, []byte(e.text(l.dir, port)), 0o600)
		if err := errors.Join(err, os.Rename(next, l.config)); err != nil {
			t.Fatal(err)
		}
	}
	write(editionOf(0))
	l.start()
	control := &client.Client{Socket: l.socket, Timeout: time.Minute}
	state := func() string {
		list, err := control.Splits(t.Context(), "")
		if err != nil {
			t.Fatal(err)
		}
		return stateOf(list)
	}
	reload := func(number int) edition {
		t.Helper()
		e := editionOf(number)
		write(e)
		if number%4 == 0 {
			_ = l.daemon.Process.Signal(unix.SIGHUP)
			nettest.Eventually(t, "the reload is in force", func() bool { return state() == e.state() }, func() any { return state() })
			return e
		}
		if applied, err := control.Apply(t.Context(), api.ApplyRequest{}); err != nil || !applied.Changed {
			t.Fatalf("reload %d: %+v, %v, want a change", number, applied, err)
		}
		return e
	}
	for number := range 30 { // everything has been there once
		reload(number + 1)
	}
	held := l.holdAt(proxied, 20, "old") // of which all are at 0%
	base := l.reading(t, port)

	load := l.reloadLoad()
	var readings []soak.Reading
	for number := 31; number <= 30+reloads && !t.Failed(); number++ {
		e := reload(number)
		if diff := cmp.Diff(e.state(), state()); diff != "" {
			t.Fatalf("after reload %d (-want +got):\n%s", number, diff)
		}
		if got := l.who(proxied[number%2]); !slices.Contains(e.allows(), got) {
			t.Fatalf("after reload %d a client is served by %q, want one of %q", number, got, e.allows())
		}
		if number%10 == 0 {
			readings = append(readings, l.reading(t, port))
		}
	}
	served := load.stop()
	l.wantAlive(held, true, "flows from before the reloads")
	const mib = 1 << 20
	rows, err := soak.Judge(readings, []soak.Rule{
		{Measure: "anonymous", Share: 0.15, Amount: 4 * mib},
		{Measure: "heap", Share: 0.20, Amount: 3 * mib},
		{Measure: "goroutines", Share: 0.10, Amount: 10},
		{Measure: "descriptors", Share: 0.10, Amount: 20},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d reloads, served meanwhile: %v\n%s", reloads, served, soak.Table(rows))
	for _, row := range rows {
		if row.Grew() {
			t.Errorf("%s has grown", row.Measure)
		}
	}
	for _, who := range []string{"old", "new", "newer", "visitor", "refused visitor"} {
		if served[who] == 0 {
			t.Errorf("nobody was served by, or as, %q: the load proves less than it says", who)
		}
	}
	reload(30) // as at base
	l.eventually("descriptors and goroutines are back at base", func() bool {
		return soak.Left(base, l.reading(t, port), "descriptors", "goroutines") == nil
	})
}

// reading is what the daemon has.
func (l *lab) reading(t *testing.T, metrics int) soak.Reading {
	t.Helper()
	pid := strconv.Itoa(l.daemon.Process.Pid)
	files, err := os.ReadDir(filepath.Join("/proc", pid, "fd"))
	if err != nil {
		t.Fatal(err)
	}
	status, err := os.ReadFile(filepath.Join("/proc", pid, "status"))
	if err != nil {
		t.Fatal(err)
	}
	text := l.metrics(metrics)
	return soak.Reading{
		"descriptors": float64(len(files)),
		"anonymous":   1024 * valueOf(t, string(status), "RssAnon:"), // in kB: proc_pid_status(5)
		"heap":        valueOf(t, text, "go_memstats_heap_inuse_bytes "),
		"goroutines":  valueOf(t, text, "go_goroutines "),
	}
}

// valueOf is the number on the line that begins so.
func valueOf(t *testing.T, text, begin string) float64 {
	t.Helper()
	for line := range strings.Lines(text) {
		if rest, ok := strings.CutPrefix(line, begin); ok {
			value, err := strconv.ParseFloat(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(rest), " kB")), 64)
			if err != nil {
				t.Fatal(err)
			}
			return value
		}
	}
	t.Fatalf("no line begins with %q", begin)
	return 0
}

// reloadLoad is clients that come and go. None of them may fail, but that visitors
// find nobody there while their split is not.
type reloadLoad struct {
	clients sync.WaitGroup
	over    atomic.Bool
	mu      sync.Mutex
	served  map[string]int
}

func (l *lab) reloadLoad() *reloadLoad {
	load := &reloadLoad{served: map[string]int{}}
	for _, address := range proxied {
		for range 3 {
			load.begin(l, address, false)
		}
	}
	load.begin(l, "10.1.0.1:2526", true)
	load.begin(l, "[fd01::1]:2526", true)
	l.t.Cleanup(func() { load.stop() })
	return load
}

func (a *reloadLoad) begin(l *lab, address string, visits bool) {
	a.clients.Go(func() {
		_ = l.client.NS.Do(func() error { // on a thread of its own
			pace := time.NewTicker(2 * time.Millisecond) // other programs need this machine too
			defer pace.Stop()
			for ; !a.over.Load(); <-pace.C {
				who, err := ask(address)
				switch {
				case visits && errors.Is(err, syscall.ECONNREFUSED):
					who = "refused visitor"
				case err != nil:
					l.t.Errorf("a client of %s failed, served by %q: %v", address, who, err)
					return nil
				case visits:
					who = "visitor"
				}
				a.mu.Lock()
				a.served[who]++
				a.mu.Unlock()
			}
			return nil
		})
	})
}

// ask is one client: it connects, is greeted, and has something to say.
func ask(address string) (who string, err error) {
	c, err := net.DialTimeout("tcp", address, time.Minute)
	if err != nil {
		return "", err
	}
	defer func() { _ = c.Close() }()
	_ = c.(*net.TCPConn).SetLinger(0) // keeps its port free for others
	_ = c.SetDeadline(time.Now().Add(time.Minute))
	r := bufio.NewReader(c)
	if who, err = r.ReadString('\n'); err != nil {
		return "", err
	}
	return strings.TrimSpace(who), talks(c, r)
}

// stop ends the load and says who served how often.
func (a *reloadLoad) stop() map[string]int {
	a.over.Store(true)
	a.clients.Wait()
	return a.served
}
