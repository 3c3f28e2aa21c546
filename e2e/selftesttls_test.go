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
		Rungs  []rung `json:"rungs"`
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
		r.harmsNobody(t)
		if r.SeenInto == 0 {
			t.Errorf("%s: no flow was seen into", r.Candidate)
		}
	}
	all := []string{"healthy", "dead", "refusing", "blackholed", "hanging", "dripping", "flooding", "resetting", "differing", "garbling", "trickling", "expired"}
	if !slices.Equal(rungs, all) {
		t.Errorf("rungs %q, want %q", rungs, all)
	}
	s.nothingLeft()
}
