package daemon

import (
	"strings"
	"testing"

	"github.com/splitd/splitd/traffic"
)

// Its checks pass, because they come from this host.
func TestStatusWarnsOfACandidateFromWhichNothingComesBack(t *testing.T) {
	w := newWorld(t, mx(50_000))
	d := w.mustBoot()
	for answered, warns := range map[uint64]bool{0: true, 1: false} {
		w.kernel.evidence = []traffic.Evidence{{Split: "mx", Backend: "new", Generation: 1, Flows: 5, HalfOpen: 5 - answered}}
		list, err := d.Splits(t.Context(), "mx")
		if err != nil {
			t.Fatal(err)
		}
		told := strings.Contains(strings.Join(list.Items[0].Warnings, "\n"), `nothing came back through this host for any of the flows that "new" was given`)
		if told != warns {
			t.Errorf("with %d of 5 flows answered it warns %q", answered, list.Items[0].Warnings)
		}
	}
}
