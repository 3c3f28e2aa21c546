package configs_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/splitd/splitd/configs"
)

func badFiles(t testing.TB) []string {
	t.Helper()
	files, err := filepath.Glob("testdata/bad/*.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if len(files) < 40 {
		t.Fatalf("testdata/bad holds %d files", len(files))
	}
	return files
}

// Each file NAME.yaml gives exactly the lines of NAME.err, whoever reads it.
func TestBadFilesGiveExactlyTheExpectedLines(t *testing.T) {
	for _, file := range badFiles(t) {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".yaml"), func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			_, err = configs.ParseDefinition(filepath.Base(file), text)
			if err == nil {
				t.Fatal("accepted")
			}
			got := err.Error() + "\n"
			golden := strings.TrimSuffix(file, ".yaml") + ".err"
			if *update {
				if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), got); diff != "" {
				t.Errorf("errors (-want +got):\n%s", diff)
			}
			placed := strings.ReplaceAll("\n"+string(want), "\n"+filepath.Base(file), "\n"+file)[1:]
			placed = strings.ReplaceAll(placed, " "+filepath.Base(file)+":", " "+file+":")
			placed = strings.ReplaceAll(placed, "("+filepath.Base(file)+":", "("+file+":")
			_, err = configs.Check([]string{file})
			if diff := cmp.Diff(placed, err.Error()+"\n"); diff != "" {
				t.Errorf("errors of check (-want +got):\n%s", diff)
			}
			config, err := configs.Load(configs.Options{Files: []string{file}})
			if diff := cmp.Diff(placed, err.Error()+"\n"); diff != "" {
				t.Errorf("errors of load (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(configs.Config{}, config, equateAddrs()); diff != "" {
				t.Errorf("a bad file gave a configuration (-want +got):\n%s", diff)
			}
			found, ok := errors.AsType[configs.Errors](err)
			if !ok || len(found) == 0 {
				t.Errorf("error is a %T", err)
			}
		})
	}
}

func TestEveryExpectationHasItsFile(t *testing.T) {
	expectations, err := filepath.Glob("testdata/bad/*.err")
	if err != nil {
		t.Fatal(err)
	}
	if len(expectations) != len(badFiles(t)) {
		t.Errorf("%d .err files for %d .yaml files", len(expectations), len(badFiles(t)))
	}
}
