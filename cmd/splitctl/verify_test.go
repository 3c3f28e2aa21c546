package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// program puts a shell script of that name alone into PATH, beside the shell.
func program(t *testing.T, name, script string) {
	t.Helper()
	dir := t.TempDir()
	if name != "" {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\n"+script), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, tool := range []string{"sh", "cat"} {
		if err := os.Symlink("/bin/"+tool, filepath.Join(dir, tool)); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", dir)
}

// What the real nft says of real plans is tested in e2e/real.
func TestVerifySaysWhatNftHasAgainstThePlan(t *testing.T) {
	const loads = `[ "$1" = -f ] && { cat >/dev/null; exit 0; }; `
	for name, tc := range map[string]struct{ tool, script, want string }{
		"there is no nft":        {"", "", "apt-get install nftables"},
		"it refuses the text":    {"nft", "echo 'line 7: no such thing' >&2; exit 1", "nft refuses it:\nline 7: no such thing"},
		"it lists another line":  {"nft", loads + "printf 'one\\nthree\\n'", `"three" instead of "two"`},
		"it lists less":          {"nft", loads + "printf 'one\\n'", `"" instead of "two"`},
		"it lists the same text": {"nft", loads + "printf 'one\\ntwo\\n'", ""},
	} {
		t.Run(name, func(t *testing.T) {
			program(t, tc.tool, tc.script)
			err := verifyText(t.Context(), "one\ntwo\n")
			if tc.want == "" && err != nil || tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)) {
				t.Errorf("verifyText says %v, want %q in it", err, tc.want)
			}
		})
	}
}
