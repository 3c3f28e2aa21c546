package e2e

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
)

// What times are found is not judged: whatever a candidate does, and does to the handshake,
// no client sees an error or another's byte, memory has its bound, and splitd has stood
// in for the primary meanwhile.
func TestTheSelfTestClimbsTheLadderOverTLSAndNoClientSeesAnError(t *testing.T) {
	s := startSelfTest(t, "--tls", "--for", "24s", "--rate", "200", "-o", "json")
	_ = s.exit()
	var answer struct {
		Tested string `json:"tested"`
		Rungs  []struct {
			Candidate   string `json:"candidate"`
			Requests    int    `json:"requests"`
			Failed      int    `json:"failed"`
			Strays      int    `json:"strays"`
			Why         string `json:"first_failure"`
			Shadowed    int64  `json:"shadowed_exchanges"`
			SeenInto    int    `json:"seen_into_flows"`
			Connections int    `json:"candidate_connections"`
			Memory      struct {
				Before int64   `json:"before_bytes"`
				Peaks  []int64 `json:"peak_bytes"`
				Bound  int64   `json:"bound_bytes"`
			} `json:"memory"`
			Broken []string `json:"broken"`
		} `json:"rungs"`
	}
	if err := json.Unmarshal([]byte(s.stdout.String()), &answer); err != nil {
		t.Fatalf("%v\n%s%s", err, s.stdout.String(), s.stderr.String())
	}
	if !strings.HasPrefix(answer.Tested, "HTTP inside TLS") {
		t.Errorf("tested is %q", answer.Tested)
	}
	var rungs []string
	for _, r := range answer.Rungs {
		rungs = append(rungs, r.Candidate)
		if r.Requests == 0 || r.Failed != 0 || r.Strays != 0 {
			t.Errorf("%s: %d requests, %d failed, %d strays: %s", r.Candidate, r.Requests, r.Failed, r.Strays, r.Why)
		}
		if r.Memory.Before <= 0 || len(r.Memory.Peaks) == 0 || slices.Max(r.Memory.Peaks) > r.Memory.Bound {
			t.Errorf("%s: memory %+v", r.Candidate, r.Memory)
		}
		if r.Shadowed == 0 || r.SeenInto == 0 {
			t.Errorf("%s: %d exchanges are shadowed, %d flows seen into", r.Candidate, r.Shadowed, r.SeenInto)
		}
		if listens := r.Candidate != "dead" && r.Candidate != "blackholed"; listens != (r.Connections > 0) {
			t.Errorf("%s: the candidate has seen %d connections", r.Candidate, r.Connections)
		}
		for _, why := range r.Broken {
			if !strings.HasPrefix(why, "p50 ") && !strings.HasPrefix(why, "p99 ") {
				t.Errorf("%s: %s", r.Candidate, why)
			}
		}
	}
	all := []string{"healthy", "dead", "refusing", "blackholed", "hanging", "dripping", "flooding", "resetting", "differing", "garbling", "trickling", "expired"}
	if !slices.Equal(rungs, all) {
		t.Errorf("rungs %q, want %q", rungs, all)
	}
	s.nothingLeft()
}
