package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// What docs/shadow.md shows of reports is what the scripts get printed.
func TestTheManualShowsReportsAsTheyArePrinted(t *testing.T) {
	manual, err := os.ReadFile(filepath.Join("..", "..", "docs", "shadow.md"))
	if err != nil {
		t.Fatal(err)
	}
	printed, err := os.ReadFile(filepath.Join("testdata", "script", "report.txtar"))
	if err != nil {
		t.Fatal(err)
	}
	_, section, found := strings.Cut(string(manual), "\n## Reading a report\n")
	if !found {
		t.Fatal("docs/shadow.md has no section on reading reports")
	}
	shown := 0
	for i, block := range strings.Split(section, "```") {
		language, text, _ := strings.Cut(block, "\n")
		if i%2 == 0 || language == "sh" {
			continue
		}
		for line := range strings.Lines(text) {
			if strings.HasPrefix(line, "$ ") || line == "\n" {
				continue
			}
			shown++
			if !strings.Contains(string(printed), "\n"+line) {
				t.Errorf("no report has the line %q", line)
			}
		}
	}
	if shown < 20 {
		t.Errorf("%d lines of reports are shown", shown)
	}
}
