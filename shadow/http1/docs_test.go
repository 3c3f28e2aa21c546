package http1

import (
	"os"
	"strings"
	"testing"
)

// What is not compared at all is in no list of a report, so the manual has to have it.
func TestTheManualListsEveryHeaderThatIsNotCompared(t *testing.T) {
	t.Parallel()
	manual, err := os.ReadFile("../../docs/shadow.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(manual), "\n## What may differ\n")
	list, _, _ := strings.Cut(section, "\nThe rest is compared,")
	for _, name := range personal() {
		if !strings.Contains(list, "`"+name+"`") {
			t.Errorf("docs/shadow.md does not list %q among what is never compared", name)
		}
	}
}
