package main

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestCommandLinesEndAsTheyShould(t *testing.T) {
	dir := t.TempDir()
	bad := filepath.Join(dir, "bad.yaml")
	if err := os.WriteFile(bad, []byte("splits:\n  - {name: mx, weihgt: 5}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	unused := filepath.Join(dir, "unused.yaml")
	text := `splits:
  - name: mx
    service: {addresses: [192.0.2.25], ports: [25/tcp]}
    primary: {name: old, addresses: [local]}
    candidates: [{name: new, addresses: [10.0.0.12]}]
    health: {check: tcp, path: /x}
`
	if err := os.WriteFile(unused, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name           string
		args           []string
		code           int
		stdout, stderr string // must be in it
	}{
		{"version", []string{"version"}, exitOK, "splitd ", ""},
		{"help", []string{"--help"}, exitOK, "cleanup", ""},
		{"no such command", []string{"frob"}, exitUsage, "", `unknown command "frob"`},
		{"a command of splitctl", []string{"status"}, exitUsage, "", `unknown command "status" for "splitd": that is ` + "`splitctl status`"},
		{"no such flag", []string{"run", "--frob"}, exitUsage, "", "unknown flag: --frob"},
		{"too many words", []string{"restore", "now"}, exitUsage, "", "run `splitd --help`"},
		{"check without a file", []string{"check"}, exitUsage, "", "name a file: usage: splitd check FILE"},
		{"check of a key without effect", []string{"check", unused}, exitOK, "", unused + ":6:32: splits[0].health.path: unused with check: tcp (note)"},
		{"run with a directory", []string{"run", "--config", dir}, exitError, "", dir + ": read file: is a directory: name its files, one by one"},
		{"check of a bad file", []string{"check", bad}, exitError, "", bad + ":2:16: splits[0].weihgt: unknown key"},
		{"run with a bad file", []string{"run", "--config", bad}, exitError, "", bad + ":2:16:"},
		{"run without the file", []string{"run", "--config", filepath.Join(dir, "none.yaml")}, exitError, "", "none.yaml"},
		{"run with a file and a line", []string{"run", "--config", bad, "--listen", "127.0.0.1:1"}, exitUsage, "", "exclude one another"},
		{"run with half a line", []string{"run", "--listen", "127.0.0.1:2525"}, exitError, "", "--primary"},
		{"restore of nothing", []string{"restore", "--config", bad, "--state-dir", dir}, exitOK, "", "nothing to restore"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var stdout, stderr bytes.Buffer
			code := run(t.Context(), env{
				args: tt.args, stdin: strings.NewReader(""), stdout: &stdout, stderr: &stderr,
				lookupEnv: func(string) (string, bool) { return "", false },
			})
			if code != tt.code {
				t.Errorf("exit %d, want %d", code, tt.code)
			}
			if !strings.Contains(stdout.String(), tt.stdout) {
				t.Errorf("stdout = %q, want %q in it", stdout.String(), tt.stdout)
			}
			if !strings.Contains(stderr.String(), tt.stderr) {
				t.Errorf("stderr = %q, want %q in it", stderr.String(), tt.stderr)
			}
		})
	}
}

func TestCleanupOfAnOrdinaryUserNamesEachFaultOnce(t *testing.T) {
	var stderr bytes.Buffer
	code := run(t.Context(), env{
		args: []string{"cleanup", "--config", filepath.Join(t.TempDir(), "none.yaml")}, stdin: strings.NewReader(""), stdout: io.Discard, stderr: &stderr,
		lookupEnv: func(string) (string, bool) { return "", false }, uid: 1000,
	})
	if code != exitError || strings.Count(stderr.String(), "control.socket: run as root") != 1 || strings.Contains(stderr.String(), "going on") {
		t.Errorf("exit %d, it says %q, want the fault once", code, stderr.String())
	}
}
