package e2e

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

const proxyConfig = `
control: {socket: %[1]s/splitd.sock}
http: {listen: ""}
state_dir: %[1]s/state
splits:
  - name: mx
    service: {addresses: [10.1.0.1, "fd01::1"], ports: [2525/tcp]}
    mode: proxy
    primary: {name: old, addresses: ["127.0.0.1:25", "[::1]:25"]}
    candidates:
      - {name: new, addresses: ["10.2.0.2:25", "[fd02::2]:25"], weight: 0%%}
`

func (l *lab) metrics(port int) string {
	l.t.Helper()
	var text []byte
	l.router.Do(func() error {
		// A client of its own dials on this thread, inside the namespace.
		c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err != nil {
			return err
		}
		client := http.Client{Transport: &http.Transport{Dial: func(string, string) (net.Conn, error) { return c, nil }, DisableKeepAlives: true}}
		answer, err := client.Get(fmt.Sprintf("http://127.0.0.1:%d/metrics", port))
		if err != nil {
			return err
		}
		defer func() { _ = answer.Body.Close() }()
		text, err = io.ReadAll(answer.Body)
		return err
	})
	return string(text)
}

func TestProxyModeSplitsFallsBackAndTakesWeightsFromTheSameCommands(t *testing.T) {
	l := newLab(t)
	l.configure(proxyConfig)
	l.start()
	for _, address := range []string{"10.1.0.1:2525", "[fd01::1]:2525"} {
		if got := l.who(address); got != "old" {
			t.Errorf("at 0%% %s is served by %q, want old", address, got)
		}
	}
	l.ok("set", "mx", "100%")
	for _, address := range []string{"10.1.0.1:2525", "[fd01::1]:2525"} {
		if got := l.who(address); got != "new" {
			t.Errorf("at 100%% %s is served by %q, want new", address, got)
		}
	}
	s := l.status()
	if s.Kernel != nil || s.Mode != "proxy" || s.Flows.Total == nil || *s.Flows.Total != 4 {
		t.Errorf("status: kernel %v, mode %s, flows in %+v; want none, proxy, 4", s.Kernel, s.Mode, s.Flows)
	}
	if s.ObservedPPM == nil || *s.ObservedPPM != 1_000_000 {
		t.Errorf("observed = %v, want 1000000 since this generation began", s.ObservedPPM)
	}
	l.kill()
	l.start()
	if got := l.who("10.1.0.1:2525"); got != "new" {
		t.Errorf("after a restart served by %q, want new", got)
	}
}

func TestACandidateThatRefusesCostsTheClientNothing(t *testing.T) {
	l := newLab(t)
	l.configure(strings.NewReplacer("10.2.0.2:25", "10.2.0.2:26", "[fd02::2]:25", "[fd02::2]:26").Replace(proxyConfig) + "    health: {check: none}\n")
	l.start()
	l.ok("set", "mx", "100%")
	if got := l.who("10.1.0.1:2525"); got != "old" {
		t.Errorf("served by %q, want the primary", got)
	}
	if f := l.status().Backends[1].ConnectFailed; f == nil || *f != 1 {
		t.Errorf("connect_failed of the candidate = %v, want 1", f)
	}
}

func TestOneLineWithoutAFileIsASplitInProxyMode(t *testing.T) {
	l := newLab(t)
	l.start("--listen", "10.1.0.1:2525", "--primary", "127.0.0.1:25", "--candidate", "10.2.0.2:25", "--weight", "100%",
		"--control-socket", l.socket, "--state-dir", l.dir+"/state")
	if got := l.who("10.1.0.1:2525"); got != "new" {
		t.Errorf("served by %q, want new", got)
	}
	l.ok("set", "0%")
	if got := l.who("10.1.0.1:2525"); got != "old" {
		t.Errorf("after `set 0%%` served by %q, want old", got)
	}
}

// A trial by hand on a host that splits already must not take its place.
func TestOneLineRefusesTheStateOfAConfiguration(t *testing.T) {
	l := newLab(t)
	l.start()
	l.ok("set", "mx", "100%")
	l.ok("off", "mx")
	l.stop()
	before := l.snapshot()
	line := []string{"run", "--listen", "10.1.0.1:2525", "--primary", "127.0.0.1:25", "--candidate", "10.2.0.2:25"}
	r := l.run("splitd", append(line, "--control-socket", l.socket, "--state-dir", l.dir+"/state")...)
	for _, want := range []string{`state directory "` + l.dir + `/state" has split "mx"`, "with the weights that operators have set", "--state-dir"} {
		if r.code != 1 || !strings.Contains(r.stderr, want) {
			t.Errorf("exit %d, %q; want 1 and %q", r.code, r.stderr, want)
		}
	}
	if d := before.Differences(l.snapshot()); len(d) > 0 {
		t.Errorf("the kernel was changed: %v", d)
	}
	l.start()
	if s := l.status(); s.WeightPPM != 0 || s.Generation != 3 || s.Origin.Layer != "operator" {
		t.Errorf("afterwards: %d ppm at generation %d by %s, want 0 at 3 by the operator", s.WeightPPM, s.Generation, s.Origin.Layer)
	}

	own := *l
	own.daemon, own.socket = nil, l.dir+"/own.sock"
	own.start(append(line[1:], "--weight", "100%", "--control-socket", own.socket, "--state-dir", l.dir+"/own")...)
	t.Cleanup(own.kill)
	if got := l.who("10.1.0.1:2525"); got != "new" {
		t.Errorf("beside the other the trial is served by %q, want new", got)
	}
	own.kill()
	own.start(append(line[1:], "--weight", "0%", "--control-socket", own.socket, "--state-dir", l.dir+"/own")...)
	if s := l.status(); s.Name != "mx" || !s.Kernel.Synced() {
		t.Errorf("beside the trial: %+v", s)
	}
}

func TestTermDrainsTheRelay(t *testing.T) {
	l := newLab(t)
	l.configure(proxyConfig)
	l.start()
	c, r, _ := l.dial("10.1.0.1:2525")
	_ = l.daemon.Process.Signal(unix.SIGTERM)
	l.eventually("nobody accepts any more", func() bool {
		refused := false
		l.client.Do(func() error {
			other, err := net.Dial("tcp", "10.1.0.1:2525")
			if err != nil {
				refused = true
				return nil
			}
			return other.Close()
		})
		return refused
	})
	if err := talks(c, r); err != nil {
		t.Errorf("a flow while draining: %v", err)
	}
	_ = c.Close()
	l.stop()
}

func TestAServiceAddressThatTheLocalServerHoldsIsAnErrorWithItsCure(t *testing.T) {
	l := newLab(t)
	l.configure(strings.Replace(proxyConfig, "2525/tcp", "25/tcp", 1))
	r := l.run("splitd", "run", "--config", l.config)
	if r.code != 1 || !strings.Contains(r.stderr, "10.1.0.1:25") || !strings.Contains(r.stderr, "in use") {
		t.Errorf("run: exit %d, %q; want the address named", r.code, r.stderr)
	}
}

// The relay is no memory, as the kernel is.
func TestAnOffOfTheRelayOutlivesItsStore(t *testing.T) {
	for name, lose := range map[string]func(state string) error{
		"removed":   func(state string) error { return os.Remove(filepath.Join(state, "state.db")) },
		"truncated": func(state string) error { return os.Truncate(filepath.Join(state, "state.db"), 5000) },
		"with what was saved": func(state string) error {
			return errors.Join(os.Remove(filepath.Join(state, "state.db")), os.Remove(filepath.Join(state, "restore.json")))
		},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t)
			l.configure(strings.Replace(proxyConfig, "weight: 0%%", "weight: 100%%", 1))
			l.start()
			if got := l.who("10.1.0.1:2525"); got != "new" {
				t.Fatalf("a first start is served by %q, want new, as the file says", got)
			}
			l.ok("off", "--all")
			l.kill()
			if err := lose(filepath.Join(l.dir, "state")); err != nil {
				t.Fatal(err)
			}
			l.start()
			if got := l.who("10.1.0.1:2525"); got != "old" || l.status().WeightPPM != 0 {
				t.Errorf("without the store served by %q at %d ppm, want old at 0", got, l.status().WeightPPM)
			}
		})
	}
}

func TestAStoreThatIsRemovedUnderTheDaemonIsMissedAndMadeAnew(t *testing.T) {
	l := newLab(t)
	l.configure(proxyConfig)
	l.start()
	l.ok("set", "mx", "20%")
	before := l.newest().Sequence
	if err := os.Remove(filepath.Join(l.dir, "state", "state.db")); err != nil {
		t.Fatal(err)
	}
	if r := l.ok("set", "mx", "10%"); !strings.Contains(r.stderr, "not recorded") {
		t.Errorf("lowering says %q, want that it is not recorded", r.stderr)
	}
	if r := l.ok("status"); !strings.Contains(r.stderr, "removed or replaced by another program") {
		t.Errorf("status warns %q", r.stderr)
	}
	l.ok("set", "mx", "30%")
	if after := l.newest().Sequence; after <= before {
		t.Errorf("the newest number is %d, before it was %d", after, before)
	}
	if r := l.ok("status"); strings.Contains(r.stderr, "program") {
		t.Errorf("status warns yet: %q", r.stderr)
	}
}
