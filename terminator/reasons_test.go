package terminator

import (
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// The table of reasons in the documentation is all of them; what a reason proposes is not part
// of its name there.
func TestTheDocumentationHasEveryReason(t *testing.T) {
	text, err := os.ReadFile("../docs/shadow.md")
	check(t, err)
	_, table, _ := strings.Cut(string(text), "\n| reason | |\n|---|---|\n")
	table, _, _ = strings.Cut(table, "\n\n")
	var told, want []string
	for line := range strings.Lines(table) {
		told = append(told, strings.Split(strings.TrimSpace(strings.Split(line, "|")[1]), "; ")...)
	}
	for _, reason := range reasons {
		name, _, _ := strings.Cut(reason, ": ")
		want = append(want, name)
	}
	slices.Sort(told)
	slices.Sort(want)
	if diff := cmp.Diff(want, told); diff != "" {
		t.Errorf("reasons without a row, or rows without a reason (-want +got):\n%s", diff)
	}
}
