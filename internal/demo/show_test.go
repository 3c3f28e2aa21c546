package demo

import (
	"bytes"
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestSettingsOfTheUserDoNotReachTheDaemons(t *testing.T) {
	got := withoutSettings([]string{"PATH=/bin", "SPLITD_STATE_DIR=/x", "NOTIFY_SOCKET=/y", "TMPDIR=/tmp"})
	if diff := cmp.Diff([]string{"PATH=/bin", "TMPDIR=/tmp"}, got); diff != "" {
		t.Errorf("environment (-want +got):\n%s", diff)
	}
}

func noEnv(string) (string, bool) { return "", false }

func TestShowIsPlainWithoutATerminal(t *testing.T) {
	var out bytes.Buffer
	s := newShow(&out, noEnv, nil)
	observed := 51_234
	r := row{Set: 5 * percent, Mails: tally{Sent: 400, Failed: 1, Arrived: map[string]int{oldMX: 380, newMX: 19}}}
	s.columns()
	s.command([]string{"splitctl", "set", "mx", "5%", "--reason", "first real mails"}, "mx: 0% -> 5%\n")
	s.progress(r)
	r.Observed = &observed
	s.step(r)
	s.claim(claimf(true, "%d mails", 3))
	s.claim(claim{text: "something is wrong", why: []string{"this", "that"}})
	want := `  share seen: of the mails that arrived; splitd says: its own count since the share was set
   share set   share seen  splitd says     old MX     new MX   failed
$ splitctl set mx 5% --reason "first real mails"
  mx: 0% -> 5%
         5 %       4.76 %       5.12 %        380         19        1
  ok  3 mails
  NO  something is wrong
        this
        that
`
	if diff := cmp.Diff(want, out.String()); diff != "" {
		t.Errorf("show (-want +got):\n%s", diff)
	}
}

func TestShowRefreshesItsLineOnATerminal(t *testing.T) {
	var out bytes.Buffer
	s := newShow(&out, noEnv, nil)
	s.terminal = true
	s.progress(row{})
	s.step(row{})
	line := row{}.String()
	if want := "\r" + line + "\x1b[K\r\x1b[K" + line + "\n"; out.String() != want {
		t.Errorf("show = %q, want %q", &out, want)
	}
}

func TestOfManyDetailsTheFirstAreShown(t *testing.T) {
	var out bytes.Buffer
	newShow(&out, noEnv, nil).claim(claim{text: "much", why: make([]string, 25)})
	if !bytes.Contains(out.Bytes(), []byte("and 15 more")) || bytes.Count(out.Bytes(), []byte("\n")) != 12 {
		t.Errorf("show = %q", &out)
	}
}

func TestTheLastLineSaysItAll(t *testing.T) {
	tests := []struct {
		end  end
		want string
	}{
		{end{Plane: "kernel", Clean: true}, "demo: ok plane=kernel lost=0 twice=0 clean=yes"},
		{end{Plane: "proxy", Clean: true}, "demo: ok plane=proxy lost=0 twice=0 clean=yes"},
		{end{Plane: "kernel", Lost: 2, Twice: 1, Failing: 3}, "demo: FAILED plane=kernel lost=2 twice=1 clean=no claims=3"},
	}
	for _, tt := range tests {
		if got := tt.end.String(); got != tt.want {
			t.Errorf("last line = %q, want %q", got, tt.want)
		}
	}
}

type brokenPipe struct{}

func (brokenPipe) Write([]byte) (int, error) { return 0, errors.New("broken pipe") }

func TestTheShowStopsWhenNobodyReads(t *testing.T) {
	stopped := false
	newShow(brokenPipe{}, noEnv, func() { stopped = true }).line("hello")
	if !stopped {
		t.Error("the show goes on for nobody")
	}
}

func TestEnteringANamespaceTakesTheUserNamespaceWhereTheDemoMadeOne(t *testing.T) {
	tests := []struct{ name, uidMap, sudoUser, want string }{
		{"root", "         0          0 4294967295\n", "", "nsenter -t 7 -n"},
		{"with sudo", "         0          0 4294967295\n", "alice", "sudo nsenter -t 7 -n"},
		{"an ordinary user", "         0       1000          1\n", "", "nsenter -t 7 -U -n --preserve-credentials"},
		{"root without the right to namespaces", "         0          0          1\n", "", "nsenter -t 7 -U -n --preserve-credentials"},
	}
	for _, tt := range tests {
		if got := enterCommand(7, tt.uidMap, tt.sudoUser); got != tt.want {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.want)
		}
	}
}
