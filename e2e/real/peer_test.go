//go:build e2ereal

package real

import (
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/splitd/splitd/control/api"
	"github.com/splitd/splitd/internal/nettest"
)

// as is a process of the user nobody, or of another one.
func as(uid, gid uint32, groups ...uint32) *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: gid, Groups: groups}}
}

const nobody = 65534

// TestOtherUsersReadAndOnlyTheGroupChanges lets real other users call splitctl
// while the control group is `mail`.
func TestOtherUsersReadAndOnlyTheGroupChanges(t *testing.T) {
	l := newLab(t)
	l.start()
	mail, nogroup, other := gidOf(t, "mail"), gidOf(t, "nogroup"), gidOf(t, "www-data")
	for _, tt := range []struct {
		name string
		who  *syscall.SysProcAttr
		may  bool
	}{
		{"nobody", as(nobody, nogroup), false},
		{"nobody in other groups", as(nobody, other, other, nogroup), false},
		{"the group as primary one", as(nobody, mail), true},
		{"the group as supplementary one", as(nobody, nogroup, other, mail), true},
		{"root in no group", as(0, nogroup), true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for _, command := range []string{"status", "show mx", "history", "plan", "version"} {
				if r, err := l.ctl(t.Context(), tt.who, strings.Fields(command)...); err != nil || r.code != 0 || r.stdout == "" {
					t.Errorf("splitctl %s: %v, exit %d, %s", command, err, r.code, r.stderr)
				}
			}
			l.ok("set", "mx", "1%")
			l.ok("set", "mx", "2%")
			for _, command := range []string{"set mx 5%", "undo mx", "set mx default", "set mx 3%", "off mx", "off --all", "apply"} {
				before, entry := l.status("mx"), l.newest()
				r, err := l.ctl(t.Context(), tt.who, strings.Fields(command)...)
				switch {
				case err != nil:
					t.Fatal(err)
				case tt.may && r.code != 0:
					t.Errorf("splitctl %s: exit %d, %s; want it done", command, r.code, r.stderr)
				case !tt.may && (r.code != 1 || !strings.Contains(r.stderr, "mail")):
					t.Errorf("splitctl %s: exit %d, %q; want exit 1 and the group named", command, r.code, r.stderr)
				}
				if tt.may {
					continue
				}
				if diff := cmp.Diff(entry, l.newest()); diff != "" || l.status("mx").Generation != before.Generation {
					t.Errorf("splitctl %s was refused and changed something (-before +after):\n%s", command, diff)
				}
			}
		})
	}
	l.leave()
}

// newest is the newest entry of the history.
func (l *lab) newest() api.Entry {
	l.t.Helper()
	history := ask[api.History](l, "history", "mx", "-n", "1")
	if len(history.Items) != 1 {
		l.t.Fatalf("history has %d entries, want 1", len(history.Items))
	}
	return history.Items[0]
}

func TestTheHistoryHasTheRealUserAndWhatHeClaims(t *testing.T) {
	l := newLab(t)
	l.start()
	// setpriv makes another process of another user than we do.
	command := exec.Command("setpriv", "--reuid", "nobody", "--regid", "nogroup", "--groups", "mail",
		"env", "SUDO_USER=root", l.program("splitctl"), "--socket", l.splitting.socket, "set", "mx", "5%", "--reason", "CHG-1")
	if output, err := command.CombinedOutput(); err != nil {
		t.Fatalf("%q: %v\n%s", command.Args, err, output)
	}
	got := l.newest()
	if got.UID != nobody || got.User != "nobody" || got.SudoUser != "root" || got.PID != command.Process.Pid || got.Reason != "CHG-1" || got.WeightPPM != 50_000 {
		t.Errorf("history: %+v, want uid %d, user nobody, who claims to be root, pid %d, CHG-1, 50000 ppm", got, nobody, command.Process.Pid)
	}
	l.leave()
}

// TestForceIsRoots lets others try to go past a daemon that hangs. What a
// member of the group asked for may be done when the daemon goes on; what
// nobody did, never.
func TestForceIsRoots(t *testing.T) {
	l := newLab(t)
	l.start()
	l.ok("set", "mx", "5%")
	for _, group := range []string{"nogroup", "mail"} {
		l.splitting.freeze() // or it changes the kernel for reasons of its own meanwhile
		before := kernelText(l.old)
		r, err := l.ctl(t.Context(), as(nobody, gidOf(t, group)), "off", "--all", "--force")
		if err != nil || r.code != 1 || !strings.Contains(r.stderr, "sudo") {
			t.Errorf("off --force by group %s: %v, exit %d, %q; want exit 1 and sudo named", group, err, r.code, r.stderr)
		}
		if diff := cmp.Diff(before, kernelText(l.old)); diff != "" {
			t.Errorf("off --force by group %s has changed the kernel (-before +after):\n%s", group, diff)
		}
		if err := l.splitting.cmd.Process.Signal(syscall.SIGCONT); err != nil {
			t.Fatal(err)
		}
		if s := l.status("mx"); group == "nogroup" && s.WeightPPM != 50_000 {
			t.Errorf("off --force by group %s made %d ppm of 50000", group, s.WeightPPM)
		}
	}
	l.leave()
}

const ownUserConfig = `
control: {socket: %[1]s/splitd.sock, group: www-data}
http: {listen: ""}
state_dir: %[1]s/state
splits:
  - name: mx
    service: {addresses: [127.0.0.1], ports: [2525/tcp]}
    mode: proxy
    primary: {name: old, addresses: ["127.0.0.1:25"]}
    candidates: [{name: new, addresses: ["127.0.0.1:26"], weight: 0%%}]
`

// TestTheDaemonsOwnUserMayChange runs splitd without any privilege.
func TestTheDaemonsOwnUserMayChange(t *testing.T) {
	l := &lab{t: t, dir: openDir(t), old: nettest.New(t, "own")}
	l.install()
	own, group := uidOf(t, "www-data"), gidOf(t, "www-data")
	l.splitting = l.startDaemon(l.old, ownUserConfig, as(own, group).Credential)
	for _, tt := range []struct {
		name string
		who  *syscall.SysProcAttr
		may  bool
	}{
		{"the daemon's own user", as(own, gidOf(t, "nogroup")), true},
		{"root", as(0, 0), true},
		{"a member of the group", as(nobody, group), true},
		{"nobody", as(nobody, gidOf(t, "nogroup")), false},
	} {
		for _, weight := range []string{"7%", "0%"} {
			code := 1
			if tt.may {
				code = 0
			}
			if r, err := l.ctl(t.Context(), tt.who, "set", "mx", weight); err != nil || r.code != code {
				t.Errorf("set mx %s as %s: %v, exit %d, %s; want exit %d", weight, tt.name, err, r.code, r.stderr, code)
			}
		}
	}
	l.splitting.stop()
}
