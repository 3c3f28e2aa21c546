package e2e

import (
	"bytes"
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestTheFlowLogTellsWhoServedWhomAndFollowsARotation(t *testing.T) {
	l := newLab(t)
	path := filepath.Join(l.dir, "flows.jsonl")
	l.configure(strings.Replace(kernelConfig, "state_dir:", "flow_log: {to: "+path+"}\nstate_dir:", 1))
	l.router.Sysctl("net/netfilter/nf_conntrack_tcp_timeout_close", "1")
	l.start()
	l.ok("set", "mx", "50%")
	lines := func() map[string]int {
		text, _ := os.ReadFile(path)
		text = text[:bytes.LastIndexByte(text, '\n')+1] // the last line may be under way
		found := map[string]int{}
		for line := range bytes.Lines(text) {
			var r struct{ Event, Backend, Split, End string }
			if err := json.Unmarshal(line, &r); err != nil || r.Split != "mx" {
				t.Errorf("line %q: %v", line, err)
			}
			found[r.Event+" "+r.Backend+" "+r.End]++
		}
		return found
	}
	both := func(what string) {
		t.Helper()
		l.eventually(what, func() bool {
			l.who(service4 + ":25") // ends by a reset
			f := lines()
			return f["new old "] > 0 && f["new new "] > 0 && f["end old reset"] > 0 && f["end new reset"] > 0
		})
	}
	both("both backends are in the flow log, with beginnings and ends")
	if err := os.Rename(path, path+".1"); err != nil {
		t.Fatal(err)
	}
	both("both are in a new file after a rotation")
}

// The flow log is whole when the daemon has ended: flows that drained are in it.
func TestTheFlowLogOfTheRelayTellsWhoEndedAFlowAlsoOfThoseThatDrain(t *testing.T) {
	l := newLab(t)
	path := filepath.Join(l.dir, "flows.jsonl")
	l.configure(strings.Replace(proxyConfig, "state_dir:", "flow_log: {to: "+path+"}\nstate_dir:", 1) + "    proxy: {drain_timeout: 1s}\n")
	l.start()
	l.ok("set", "mx", "100%")
	l.who(proxied[0]) // the client resets
	killed := l.holdAt(proxied[1:], 1, "new")
	l.ok("drain", "mx", "new", "--kill")
	l.wantAlive(killed, false, "after the kill")
	l.holdAt(proxied[:1], 1, "old") // until the daemon ends
	l.stop()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	flows := map[string][]string{} // by client; those of several may mix
	for line := range bytes.Lines(text) {
		var r struct {
			Event, Backend, Why, End, By, Code, Client string
			Seconds, ConnectSeconds                    *float64
		}
		if err := json.Unmarshal(line, &r); err != nil || r.Client == "" || r.Event == "end" && r.Seconds == nil {
			t.Errorf("line %q: %v", line, err)
		}
		flows[r.Client] = append(flows[r.Client], strings.TrimSpace(strings.Join([]string{r.Event, r.Backend, r.Why, r.End, r.By, r.Code}, " ")))
	}
	want := [][]string{
		{"new new draw", "end new draw killed splitd KD"},
		{"new new draw", "end new draw reset client CD"},
		{"new old only", "end old only stopped splitd KD"},
	}
	if diff := cmp.Diff(want, slices.SortedFunc(maps.Values(flows), slices.Compare)); diff != "" {
		t.Errorf("lines (-want +got):\n%s", diff)
	}
}
