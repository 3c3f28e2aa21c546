package configs_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/splitd/splitd/configs"
)

func shippedFiles(t *testing.T) map[string]string {
	t.Helper()
	files := map[string]string{"reference.yaml": configs.Reference()}
	examples, err := configs.Examples()
	if err != nil {
		t.Fatal(err)
	}
	names, err := fs.Glob(examples, "*.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		text, err := fs.ReadFile(examples, name)
		if err != nil {
			t.Fatal(err)
		}
		files["examples/"+name] = string(text)
	}
	onDisk, err := filepath.Glob("examples/*")
	if err != nil {
		t.Fatal(err)
	}
	if len(files) != len(onDisk)+1 || len(onDisk) < 6 {
		t.Fatalf("shipped are %d files, but examples holds %d", len(files)-1, len(onDisk))
	}
	return files
}

func TestEveryShippedFileLoads(t *testing.T) {
	for name := range shippedFiles(t) {
		config, err := configs.Load(configs.Options{Files: []string{name}})
		if err != nil {
			t.Errorf("%s:\n%v", name, err)
		}
		if len(config.Splits)+len(config.ReturnPaths) == 0 {
			t.Errorf("%s: defines nothing", name)
		}
		for _, note := range config.Notes {
			if !strings.Contains(note, "unused in mode kernel") || name != "reference.yaml" {
				t.Errorf("%s: teaches a key that has no effect: %s", name, note)
			}
		}
	}
}

// What the reference shows as the default is what an empty file gives.
func TestReferenceShowsTheDefaults(t *testing.T) {
	empty := filepath.Join(t.TempDir(), "empty.yaml")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	want, err := configs.Load(configs.Options{Files: []string{empty}})
	if err != nil {
		t.Fatal(err)
	}
	got, err := configs.Load(configs.Options{Files: []string{"reference.yaml"}})
	if err != nil {
		t.Fatal(err)
	}
	want.Control.GroupExplicit = true
	if diff := cmp.Diff(want, got, cmpopts.IgnoreFields(configs.Config{}, "Definition")); diff != "" {
		t.Errorf("scalars (-empty file +reference):\n%s", diff)
	}

	shortest, err := configs.ParseDefinition("shortest.yaml", []byte(`splits: [{name: mx,
  service: {addresses: [192.0.2.25, "2001:db8::25"], ports: [25/tcp]},
  primary: {name: old, addresses: [local]},
  candidates: [{name: new, addresses: [10.0.0.12, "2001:db8:1::12"]}]}]`))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(shortest.Splits, got.Splits, equateAddrs()); diff != "" {
		t.Errorf("split (-shortest +reference):\n%s", diff)
	}
}

// In the reference a comment line says of every key what it is.
func TestReferenceExplainsEveryKey(t *testing.T) {
	lines := strings.Split(configs.Reference(), "\n")
	explained := map[string]bool{}
	for i, line := range lines {
		key, _, ok := strings.Cut(strings.TrimPrefix(strings.TrimSpace(line), "- "), ":")
		if !ok || strings.HasPrefix(key, "#") {
			continue
		}
		above := strings.HasPrefix(strings.TrimSpace(lines[max(i-1, 0)]), "#")
		section := !strings.HasPrefix(line, " ") && strings.HasSuffix(line, ":")
		if above || section {
			explained[key] = true
		}
		if !explained[key] {
			t.Errorf("reference.yaml:%d: %s has no comment", i+1, key)
		}
	}
}
