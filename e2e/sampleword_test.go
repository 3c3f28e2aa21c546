package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/splitd/splitd/control/api"
)

// What is said of a sample is state as a weight is: it outlives the daemon's death
// and the loss of its store, is undone, and `off` ends it.
func TestASampleInModeProxyIsStateAsWeightsAre(t *testing.T) {
	l := newLab(t)
	l.configure(strings.Replace(proxyConfig, "mode: proxy", "mode: proxy\n    protocol: smtp", 1))
	l.start()
	has := func(when string, want api.Shadow) {
		t.Helper()
		got := l.status()
		layer := ""
		if got.Shadow.Origin != nil {
			layer = got.Shadow.Origin.Layer
		}
		if got.Shadow.SamplePPM != want.SamplePPM || got.Shadow.To != want.To || layer != want.Origin.Layer {
			t.Errorf("%s: the sample is %d ppm to %q by %q, want %d to %q by %q",
				when, got.Shadow.SamplePPM, got.Shadow.To, layer, want.SamplePPM, want.To, want.Origin.Layer)
		}
		if got.WeightPPM != 0 || l.who("10.1.0.1:2525") != "old" {
			t.Errorf("%s: clients go elsewhere than to the primary, at %d ppm", when, got.WeightPPM)
		}
	}
	file, operator := &api.Origin{}, &api.Origin{Layer: "operator"}
	has("at first", api.Shadow{Origin: file})
	before := l.status().Generation
	if r := l.ok("shadow", "mx", "100%", "--reason", "CHG-2"); r.stdout != "mx: sample 0% -> 100%, weight still 0%, generation 2\n" || before != 1 {
		t.Errorf("shadow says %q at generation %d", r.stdout, before)
	}
	has("after shadow 100%", api.Shadow{SamplePPM: 1_000_000, To: "new", Origin: operator})
	if text, err := os.ReadFile(filepath.Join(l.dir, "state", "restore.json")); err != nil || !strings.Contains(string(text), `"sample_ppm":1000000`) {
		t.Errorf("restore.json, %v: %s", err, text)
	}
	l.kill()
	l.start()
	has("after a crash", api.Shadow{SamplePPM: 1_000_000, To: "new", Origin: operator})
	if g := l.status().Generation; g != 2 {
		t.Errorf("a restart made generation %d of 2", g)
	}
	if r := l.ctl("shadow", "mx", "5%", "--expect-generation", "1"); r.code != 7 {
		t.Errorf("a stale change exits %d: %s", r.code, r.stderr)
	}
	l.ok("off", "mx")
	has("after off", api.Shadow{Origin: operator})
	l.ok("undo", "mx")
	has("after undo", api.Shadow{SamplePPM: 1_000_000, To: "new", Origin: operator})
	l.kill()
	if err := os.Remove(filepath.Join(l.dir, "state", "state.db")); err != nil {
		t.Fatal(err)
	}
	l.start()
	has("without the store", api.Shadow{SamplePPM: 1_000_000, To: "new", Origin: operator})
	l.ok("shadow", "mx", "default")
	has("after shadow default", api.Shadow{Origin: file})
	if e := l.newest(); e.Action != "shadow" || e.PreviousSamplePPM != 1_000_000 || e.SamplePPM != 0 {
		t.Errorf("the history's newest is %+v", e)
	}
}
