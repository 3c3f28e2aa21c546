package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestTheDaemonsOwnStateDirIsFound reads processes as proc(5) shows them.
func TestTheDaemonsOwnStateDirIsFound(t *testing.T) {
	const user = "Name:\tsplitd\nUid:\t1000\t1000\t1000\t1000\n"
	const root = "Name:\tsplitd\nUid:\t1000\t0\t0\t0\n"
	here := t.TempDir()
	for name, text := range map[string]string{
		"none.yaml":   "splits: []\n",
		"good.yaml":   "state_dir: /file\nsplits: []\n",
		"broken.yaml": "state_dir: /file\nsplits: [{name: mx, weight: 105%}]\n",
		"noyaml.yaml": "state_dir: [",
	} {
		if err := os.WriteFile(filepath.Join(here, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for name, test := range map[string]struct {
		args   []string
		env    []string
		status string
		want   string
	}{
		"flag":                   {[]string{"run", "--config", "good.yaml", "--state-dir", "/flag"}, []string{"SPLITD_STATE_DIR=/env"}, root, "/flag"},
		"flag with =":            {[]string{"run", "--state-dir=/flag", "--config=good.yaml"}, nil, root, "/flag"},
		"the last flag":          {[]string{"run", "--state-dir=/no", "--state-dir=/flag", "--config=good.yaml"}, nil, root, "/flag"},
		"environment":            {[]string{"run", "--config", "good.yaml"}, []string{"A=", "SPLITD_STATE_DIR=/env"}, root, "/env"},
		"file":                   {[]string{"run", "--config", "none.yaml", "--config", "good.yaml"}, nil, root, "/file"},
		"file with mistakes":     {[]string{"run", "--config", "broken.yaml"}, nil, root, "/file"},
		"flag despite mistakes":  {[]string{"run", "--config", "broken.yaml", "--state-dir", "/flag"}, []string{"SPLITD_STATE_DIR=/env"}, root, "/flag"},
		"environment despite":    {[]string{"run", "--config", "broken.yaml"}, []string{"SPLITD_STATE_DIR=/env"}, root, "/env"},
		"one file is unreadable": {[]string{"run", "--config", "good.yaml", "--config", "noyaml.yaml", "--config", "missing.yaml"}, nil, root, "/file"},
		"default of root":        {[]string{"run", "--config", "none.yaml"}, []string{"HOME=/home/u"}, root, "/var/lib/splitd"},
		"default of a user":      {[]string{"run", "--config", "none.yaml"}, []string{"HOME=/home/u"}, user, "/home/u/.local/state/splitd"},
		"user with XDG":          {[]string{"run", "--config", "none.yaml"}, []string{"HOME=/home/u", "XDG_STATE_HOME=/xdg"}, user, "/xdg/splitd"},
		"user without a home":    {[]string{"run", "--config", "none.yaml"}, nil, user, ""},
		"no file at all":         {[]string{"run", "--listen", "127.0.0.1:2525", "--state-dir=/flag"}, nil, root, "/flag"},
		"no file, environment":   {[]string{"run", "--listen=127.0.0.1:2525"}, []string{"SPLITD_STATE_DIR=/env"}, root, "/env"},
		"relative":               {[]string{"run", "--config", "good.yaml", "--state-dir", "state"}, nil, root, filepath.Join(here, "state")},
		"a flag without value":   {[]string{"run", "--config", "good.yaml", "--state-dir"}, nil, root, "/file"},
	} {
		t.Run(name, func(t *testing.T) {
			proc := procOf(t, here, append([]string{"splitd"}, test.args...), test.env, test.status)
			if got := stateDirOfProcess(proc); got != test.want {
				t.Errorf("state_dir of %q with %q = %q, want %q", test.args, test.env, got, test.want)
			}
		})
	}
	if got := stateDirOfProcess(filepath.Join(here, "gone")); got != "" {
		t.Errorf("state_dir of no process = %q", got)
	}
}

// procOf makes a directory like /proc/PID.
func procOf(t *testing.T, here string, args, env []string, status string) string {
	t.Helper()
	proc := t.TempDir()
	for name, text := range map[string]string{"cmdline": nul(args), "environ": nul(env), "status": status} {
		if err := os.WriteFile(filepath.Join(proc, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(here, filepath.Join(proc, "cwd")); err != nil {
		t.Fatal(err)
	}
	return proc
}

func nul(texts []string) string {
	if len(texts) == 0 {
		return ""
	}
	return strings.Join(texts, "\x00") + "\x00"
}
