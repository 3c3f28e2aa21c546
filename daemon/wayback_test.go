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
	for _, test := range []struct {
		answered, overdue uint64
		warns             bool
	}{
		{answered: 0, overdue: 5, warns: true},
		{answered: 0, overdue: 0}, // all are on their way
		{answered: 1, overdue: 4},
	} {
		w.kernel.evidence = []traffic.Evidence{{Split: "mx", Backend: "new", Generation: 1, Flows: 5, HalfOpen: 5 - test.answered, Overdue: test.overdue}}
		list, err := d.Splits(t.Context(), "mx")
		if err != nil {
			t.Fatal(err)
		}
		told := strings.Contains(strings.Join(list.Items[0].Warnings, "\n"), `nothing came back through this host for any of the flows that "new" was given`)
		if told != test.warns {
			t.Errorf("with %d of 5 flows answered and %d overdue it warns %q", test.answered, test.overdue, list.Items[0].Warnings)
		}
	}
}
