package configs_test

import (
	"encoding/json"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/splitd/splitd/configs"
	"github.com/splitd/splitd/traffic"
)

// What a version without shadows has stored means what the same file means today,
// and one that this version has stored is left as it is.
func TestWhatWasStoredBeforeThereWereShadowsIsCompleted(t *testing.T) {
	for _, file := range goodFiles(t) {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		definition, err := configs.ParseDefinition(file, text)
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range definition.Splits {
			if diff := cmp.Diff(s, configs.Complete(stored(t, s)), equateAddrs()); diff != "" {
				t.Errorf("%s: split %q as this version stores it (-file +completed):\n%s", file, s.Name, diff)
			}
			if strings.Contains(file, "/shadow") { // which say more than the defaults
				continue
			}
			older := s
			older.Shadow = traffic.Shadow{}
			if diff := cmp.Diff(s, configs.Complete(stored(t, older)), equateAddrs()); diff != "" {
				t.Errorf("%s: split %q as an older version stored it (-file +completed):\n%s", file, s.Name, diff)
			}
		}
	}
}

// stored is a split as the store gives it back.
func stored(t *testing.T, s traffic.Split) traffic.Split {
	t.Helper()
	text, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	var back traffic.Split
	if err := json.Unmarshal(text, &back); err != nil {
		t.Fatal(err)
	}
	return back
}
