package e2e

import (
	"fmt"
	"net"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func remove(t *testing.T, path string) {
	t.Helper()
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
}

// edited is the lab's configuration with one text replaced by another.
func (l *lab) edited(from, to string) {
	l.t.Helper()
	if !strings.Contains(kernelConfig, from) {
		l.t.Fatalf("the configuration has no %q", from)
	}
	l.configure(strings.Replace(kernelConfig, from, to, 1))
}

func TestApplyTakesAnEditedFileAndAnOperatorsWordOutlivesIt(t *testing.T) {
	l := newLab(t)
	l.start()
	if r := l.ok("apply", "-o", "json"); !strings.Contains(r.stdout, `"changed": false`) && !strings.Contains(r.stdout, `"changed":false`) {
		t.Errorf("apply of an unchanged file = %s, want changed false", r.stdout)
	}
	l.edited("weight: 0%%", "weight: 100%%")
	l.ok("apply")
	l.servedBy("new")
	l.ok("set", "mx", "0%")
	l.edited("weight: 0%%", "weight: 50%%")
	l.ok("apply")
	l.servedBy("old")
	l.ok("set", "mx", "default")
	if s := l.status(); s.WeightPPM != 500_000 || s.Origin.Layer != "file" {
		t.Errorf("after `set default`: %d ppm by %s, want 500000 by file", s.WeightPPM, s.Origin.Layer)
	}
}

func TestABadFileNeverReplacesARunningConfiguration(t *testing.T) {
	l := newLab(t)
	l.start()
	l.ok("set", "mx", "100%")
	l.edited("weight: 0%%", "weight: 105%%")
	r := l.ctl("apply")
	if r.code != 1 || !strings.Contains(r.stderr, l.config+":10:") || !strings.Contains(r.stderr, "splits[0].candidates[0].weight: 105% is over 100%") {
		t.Errorf("apply of a bad file: exit %d, %q; want its place and what is wrong", r.code, r.stderr)
	}
	l.servedBy("new")
}

func TestHangupReloadsAndItsErrorGoesToLogAndMetric(t *testing.T) {
	l := newLab(t)
	port := freePort(t, l)
	l.configure(strings.Replace(kernelConfig, `listen: ""`, fmt.Sprintf(`listen: "127.0.0.1:%d"`, port), 1))
	l.start()
	l.configure(strings.NewReplacer(`listen: ""`, fmt.Sprintf(`listen: "127.0.0.1:%d"`, port), "weight: 0%%", "weight: 100%%").Replace(kernelConfig))
	_ = l.daemon.Process.Signal(unix.SIGHUP)
	l.eventually("the edited weight is in force", func() bool { return l.status().WeightPPM == 1_000_000 })
	l.servedBy("new")
	if m := l.metrics(port); !strings.Contains(m, "splitd_config_last_reload_successful 1") {
		t.Errorf("metrics after a good reload:\n%s", m)
	}
	l.configure("splits: nonsense\n# %s")
	_ = l.daemon.Process.Signal(unix.SIGHUP)
	l.eventually("the metric says that the reload failed", func() bool {
		return strings.Contains(l.metrics(port), "splitd_config_last_reload_successful 0")
	})
	if r := l.ok("status"); !strings.Contains(r.stderr, "reload was refused") {
		t.Errorf("status after a refused reload says %q, want it named", r.stderr)
	}
	l.eventually("the log names the file", func() bool { return strings.Contains(l.log.String(), "splitd.yaml:1:") })
	l.servedBy("new")
}

// freePort finds a port of the router's loopback that nobody listens on.
func freePort(t *testing.T, l *lab) int {
	t.Helper()
	var listener net.Listener
	l.router.Do(func() (err error) { listener, err = net.Listen("tcp", "127.0.0.1:0"); return err })
	defer func() { _ = listener.Close() }()
	return listener.Addr().(*net.TCPAddr).Port
}

func TestApplyOfATextIsShownAsDifferingUntilThePlainApply(t *testing.T) {
	l := newLab(t)
	l.start()
	text := l.dir + "/sent.yaml"
	if err := os.WriteFile(text, fmt.Appendf(nil, strings.Replace(kernelConfig, "weight: 0%%", "weight: 100%%", 1), l.dir), 0o600); err != nil {
		t.Fatal(err)
	}
	l.ok("apply", "-f", text)
	l.servedBy("new")
	if s := l.status(); !strings.Contains(s.DiffersFrom, l.config) {
		t.Errorf("differsFrom = %q, want %q", s.DiffersFrom, l.config)
	}
	l.kill()
	l.start()
	if s := l.status(); s.WeightPPM != 1_000_000 || s.DiffersFrom == "" {
		t.Errorf("after a restart: %d ppm, differs from %q; want the text that was sent", s.WeightPPM, s.DiffersFrom)
	}
	l.ok("apply")
	l.servedBy("old")
	if s := l.status(); s.DiffersFrom != "" {
		t.Errorf("differsFrom after the plain apply = %q, want none", s.DiffersFrom)
	}
}

func TestSetUndoAndHistoryTellOneStory(t *testing.T) {
	l := newLab(t)
	l.start()
	l.ok("set", "mx", "5%", "--reason", "CHG-1")
	generation := l.status().Generation
	if r := l.ok("set", "mx", "5%", "-o", "json"); !strings.Contains(r.stdout, `"changed": false`) && !strings.Contains(r.stdout, `"changed":false`) {
		t.Errorf("setting what is set = %s, want changed false", r.stdout)
	}
	if g := l.status().Generation; g != generation {
		t.Errorf("setting what is set made generation %d of %d", g, generation)
	}
	l.ok("set", "mx", "25%")
	l.ok("undo", "mx")
	if s := l.status(); s.WeightPPM != 50_000 || s.Generation != generation+2 {
		t.Errorf("after undo: %d ppm at %d, want 50000 at %d", s.WeightPPM, s.Generation, generation+2)
	}
	l.ok("undo", "mx")
	if s := l.status(); s.WeightPPM != 0 {
		t.Errorf("after the second undo: %d ppm, want 0", s.WeightPPM)
	}
	if r := l.ctl("undo", "mx"); r.code != 1 || !strings.Contains(r.stderr, "no change left") {
		t.Errorf("undo of nothing: exit %d, %q; want exit 1", r.code, r.stderr)
	}
	if r := l.ctl("set", "mx", "5%", "--expect-generation", "1"); r.code != 7 {
		t.Errorf("set at a stale generation: exit %d, want 7", r.code)
	}
	if h := l.ok("history", "mx").stdout; !strings.Contains(h, "CHG-1") || !strings.Contains(h, "undo") {
		t.Errorf("history = %s, want the reason and the undo", h)
	}
}

func TestAnOverrideEndsWithItsTTL(t *testing.T) {
	l := newLab(t)
	l.start()
	l.ok("set", "mx", "100%", "--ttl", "1500ms")
	l.servedBy("new")
	l.eventually("the file's weight is back", func() bool { return l.status().WeightPPM == 0 })
	l.servedBy("old")
}

func TestARemovedSplitIsNoLongerSplitAndItsGenerationGoesOn(t *testing.T) {
	l := newLab(t)
	l.start()
	l.ok("set", "mx", "100%")
	c, r, _ := l.dial(service4 + ":25")
	defer func() { _ = c.Close() }()
	whole := kernelConfig
	l.configure(whole[:strings.Index(whole, "splits:")])
	if r := l.ok("apply"); !strings.Contains(r.stdout, "mx: removed (was 100%)") {
		t.Errorf("apply said %q, want that mx was removed", r.stdout)
	}
	l.servedBy("old")
	if err := talks(c, r); err != nil {
		t.Errorf("a flow of the removed split: %v", err)
	}
	l.configure(whole)
	l.ok("apply")
	if g := l.status().Generation; g <= 3 {
		t.Errorf("generation of the split that came back = %d, want over 3", g)
	}
}
