package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// players are the processes that the daemon has started: proc_pid_children(5).
func (l *lab) players() (pids []int) {
	l.t.Helper()
	lists, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", l.daemon.Process.Pid))
	if err != nil {
		l.t.Fatal(err)
	}
	for _, list := range lists {
		text, err := os.ReadFile(list)
		if err != nil {
			continue // the thread has ended
		}
		for field := range strings.FieldsSeq(string(text)) {
			pid, err := strconv.Atoi(field)
			if err != nil {
				l.t.Fatalf("%s has %q", list, text)
			}
			pids = append(pids, pid)
		}
	}
	return pids
}

// signalPlayers sends all of them a signal, and says whether there was one.
func (l *lab) signalPlayers(s unix.Signal) (found bool) {
	for _, pid := range l.players() {
		found = unix.Kill(pid, s) == nil || found
	}
	return found
}

// warns says whether status warns of the split mx in such words.
func (l *lab) warns(words string) bool {
	return strings.Contains(strings.Join(l.status().Warnings, "\n"), words)
}

// shadowCounters are those of shadows that a scrape has, by series.
func (l *lab) shadowCounters(port int) map[string]float64 {
	l.t.Helper()
	counters := map[string]float64{}
	for line := range strings.Lines(l.metrics(port)) {
		series, value, _ := strings.Cut(strings.TrimSpace(line), "} ")
		name, _, _ := strings.Cut(series, "{")
		if !strings.HasPrefix(name, "splitd_shadow_") || !strings.HasSuffix(name, "_total") {
			continue
		}
		n, err := strconv.ParseFloat(value, 64)
		if err != nil {
			l.t.Fatalf("scraped %q", line)
		}
		counters[series] = n
	}
	return counters
}

func TestTheDeathOfTheProcessThatPlaysShadowsHurtsNobodyAndIsTold(t *testing.T) {
	l := newLab(t)
	port := freePort(t, l)
	l.router.Serve("tcp4", "127.0.0.1:2526", (&mailer{name: "old.example"}).serve)
	l.router.Serve("tcp4", "127.0.0.1:8081", shop(""))
	l.host.Serve("tcp4", "10.2.0.2:8081", shop(""))
	l.configure(strings.Replace(shadowConfig, `listen: ""`, fmt.Sprintf(`listen: "127.0.0.1:%d"`, port), 1))
	l.start()
	last, gets := map[string]float64{}, int64(0)
	// visit has a client served as ever, while no counter goes back.
	visit := func() {
		gets++
		if body := l.get("/a"); body != `{"price":100}` {
			t.Fatalf("a client was told %s", body)
		}
		now := l.shadowCounters(port)
		for series, was := range last {
			if now[series] < was {
				t.Errorf("%s goes back from %v to %v", series, was, now[series])
			}
		}
		last = now
	}
	for range 5 {
		visit()
	}
	l.eventually("they are compared", func() bool { return l.shadowed("web").Coverage["compared"] == 5 })
	if last = l.shadowCounters(port); len(last) == 0 {
		t.Fatal("nothing is scraped")
	}
	if l.warns("of some time ago") {
		t.Errorf("status warns of a process that is there: %q", l.status().Warnings)
	}

	if !l.signalPlayers(unix.SIGSTOP) {
		t.Fatal("no process plays shadows")
	}
	visit()
	l.eventually("status says that it is late", func() bool { return l.warns("of some time ago") && l.warns("no processor") })

	// The pauses before another one takes over grow.
	l.eventually("status says that it is gone", func() bool {
		l.signalPlayers(unix.SIGKILL)
		visit()
		return l.warns("of some time ago") && l.warns("not there at this moment")
	})
	if !strings.Contains(l.log.String(), "another takes over") {
		t.Error("the log does not say that it died")
	}
	l.eventually("another one goes on, and each flow is counted", func() bool {
		visit()
		c := l.shadowed("web").Coverage
		return c["compared"] > 0 && c["eligible"] >= gets && c["dropped"] > 0
	})
	l.eventually("status warns no more", func() bool { return !l.warns("of some time ago") })
}
