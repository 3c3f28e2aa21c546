package configs_test

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/splitd/splitd/configs"
)

// What docs/shadow.md shows can be copied.
func TestFilesInTheDocumentationOfShadowsLoad(t *testing.T) {
	text, err := os.ReadFile("../docs/shadow.md")
	if err != nil {
		t.Fatal(err)
	}
	blocks := strings.Split(string(text), "```")
	loaded := 0
	for i := 1; i < len(blocks); i += 2 {
		block, ok := strings.CutPrefix(blocks[i], "yaml\n")
		if !ok {
			continue
		}
		got, err := configs.ParseDefinition(fmt.Sprintf("block %d", i), []byte(block))
		if err != nil || len(got.Notes) > 0 {
			t.Errorf("errors:\n%v\nnotes:\n%s", err, strings.Join(got.Notes, "\n"))
		}
		loaded++
	}
	if loaded < 2 {
		t.Errorf("%d files in docs/shadow.md", loaded)
	}
}

// The table of keys has every key of the reference's shadow, with what it is by
// default.
func TestTheDocumentationOfShadowsHasEveryKey(t *testing.T) {
	text, err := os.ReadFile("../docs/shadow.md")
	if err != nil {
		t.Fatal(err)
	}
	_, after, _ := strings.Cut(configs.Reference(), "\n    shadow:\n")
	section, _, _ := strings.Cut(after, "\n    # A file of behaviour tests")
	var missing []string
	for line := range strings.Lines(section) {
		key, value, ok := strings.Cut(strings.TrimSpace(line), ":")
		if !ok || strings.HasPrefix(key, "#") {
			continue
		}
		value = strings.Trim(strings.TrimSpace(value), `"`)
		row := rowOf(string(text), key)
		if row == "" || value != "" && key != "to" && !strings.Contains(row, "`"+value+"`") {
			missing = append(missing, key+": "+value)
		}
	}
	if diff := cmp.Diff([]string(nil), missing); diff != "" {
		t.Errorf("keys without a row or with another default (-want +got):\n%s", diff)
	}
}

func rowOf(text, key string) string {
	for line := range strings.Lines(text) {
		if cells := strings.Split(line, "|"); len(cells) > 3 && strings.Contains(cells[1], "`"+key+"`") {
			return line
		}
	}
	return ""
}
