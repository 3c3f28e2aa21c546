package e2e

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/splitd/splitd/internal/programs"
)

// unprivileged starts the command in a user namespace of its own, whose root
// may do nothing to our network namespace: what a service without
// CAP_NET_ADMIN sees.
func unprivileged(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  unix.CLONE_NEWUSER,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: 0, Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: 0, Size: 1}},
	}
}

func TestKernelModeWithoutTheCapabilityNamesTheCure(t *testing.T) {
	l := newLab(t)
	cmd := exec.Command(programs.Path(t, "splitd"), "run", "--config", l.config)
	unprivileged(cmd)
	var said bytes.Buffer
	cmd.Stderr = &said
	if err := l.router.Start(cmd); err != nil {
		t.Fatal(err)
	}
	err := cmd.Wait()
	const want = "kernel mode needs CAP_NET_ADMIN: run splitd as root, grant the capability, or set mode: proxy"
	if err == nil || !strings.Contains(said.String(), want) {
		t.Errorf("run: %v, %q; want %q", err, said.String(), want)
	}
	if _, err := os.Stat(l.socket); err == nil {
		t.Error("the control socket appeared without a verified apply")
	}
}

// ordinary starts the command as a user who is not root and has no session.
func ordinary(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  unix.CLONE_NEWUSER,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 1000, HostID: os.Geteuid(), Size: 1}},
	}
	cmd.Env = []string{"PATH=" + os.Getenv("PATH")}
}

func TestAnOrdinaryUserPlansAFileWithoutADaemon(t *testing.T) {
	file := filepath.Join(t.TempDir(), "mx.yaml")
	_, splits, _ := strings.Cut(kernelConfig, "\nsplits:")
	if err := os.WriteFile(file, []byte("splits:"+strings.NewReplacer("%%", "%", "return: gateway", "return: policy").Replace(splits)), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{
		{"plan"}, {"plan", "--receiver", "-o", "nft", "--via", "10.2.0.1", "--via", "fd02::1", "--device", "eth0"}, {"where", "203.0.113.7"},
	} {
		cmd := exec.Command(programs.Path(t, "splitctl"), append(args, "--config", file)...)
		ordinary(cmd)
		if said, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("splitctl %v: %v\n%s", args, err, said)
		}
	}
}

func TestModeAutoBecomesProxyWithoutTheCapabilityAndSaysSo(t *testing.T) {
	l := newLab(t)
	l.configure(strings.Replace(proxyConfig, "mode: proxy", "mode: auto", 1))
	l.daemon = exec.Command(programs.Path(t, "splitd"), "run", "--config", l.config)
	unprivileged(l.daemon)
	l.daemon.Stderr = l.log
	if err := l.router.Start(l.daemon); err != nil {
		t.Fatal(err)
	}
	daemon := l.daemon
	go func() { _ = daemon.Wait() }()
	l.eventually("splitd answers", func() bool { return l.ctl("version").code == 0 && l.ctl("status").code == 0 })
	if s := l.status(); s.Mode != "proxy" || s.ModeConfigured != "auto" {
		t.Errorf("mode = %s of %s, want proxy of auto", s.Mode, s.ModeConfigured)
	}
	if got := l.who("10.1.0.1:2525"); got != "old" {
		t.Errorf("served by %q, want old", got)
	}
	if !strings.Contains(l.log.String(), "auto became proxy") {
		t.Errorf("the log is silent about mode auto:\n%s", l.log)
	}
}

func TestForwardingThatIsOffRefusesTheStartWithTheCommand(t *testing.T) {
	for sysctl, want := range map[string]string{
		"net/ipv4/ip_forward":          "sysctl -w net.ipv4.ip_forward=1",
		"net/ipv6/conf/all/forwarding": "sysctl -w net.ipv6.conf.all.forwarding=1",
	} {
		l := newLab(t)
		before := l.snapshot()
		l.router.Sysctl(sysctl, "0")
		r := l.run("splitd", "run", "--config", l.config)
		if r.code != 1 || !strings.Contains(r.stderr, want) {
			t.Errorf("run without %s: exit %d, %q; want %q", sysctl, r.code, r.stderr, want)
		}
		l.router.Sysctl(sysctl, "1")
		if d := before.Differences(l.snapshot()); len(d) > 0 {
			t.Errorf("the refused start left something behind:\n%s", strings.Join(d, "\n"))
		}
	}
}

func TestReadyIsToldAfterTheFirstVerifiedApply(t *testing.T) {
	l := newLab(t)
	path := filepath.Join(l.dir, "notify")
	notify, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = notify.Close() }()
	t.Setenv("NOTIFY_SOCKET", path)
	l.start()
	_ = notify.SetReadDeadline(time.Now().Add(30 * time.Second))
	said := ""
	for !strings.Contains(said, "READY=1") {
		message := make([]byte, 4096)
		n, err := notify.Read(message)
		if err != nil {
			t.Fatalf("wait for READY: %v, heard %q", err, said)
		}
		said = string(message[:n])
	}
	if !strings.Contains(said, "STATUS=mx 0%") {
		t.Errorf("READY came with %q, want the weights in it", said)
	}
	l.servedBy("old")
	if s := l.status(); !s.Kernel.Synced() {
		t.Error("READY was told before the kernel had the rules")
	}
}

func TestASecondDaemonOnTheSameSocketIsRefused(t *testing.T) {
	l := newLab(t)
	l.start()
	l.ok("set", "mx", "100%")
	r := l.run("splitd", "run", "--config", l.config)
	if r.code != 1 || !strings.Contains(r.stderr, l.socket) {
		t.Errorf("a second run: exit %d, %q; want the socket named", r.code, r.stderr)
	}
	l.servedBy("new")
	if s := l.status(); s.WeightPPM != 1_000_000 || s.Generation != 2 {
		t.Errorf("after the refused start: %d ppm at %d, want 1000000 at 2", s.WeightPPM, s.Generation)
	}
}

func TestASecondDaemonOnTheSameStateDirIsRefused(t *testing.T) {
	l := newLab(t)
	l.configure(proxyConfig)
	l.start()
	l.ok("off", "--all")
	file := filepath.Join(l.dir, "state", "restore.json")
	before, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	other := filepath.Join(l.dir, "other.yaml")
	text := strings.NewReplacer("splitd.sock", "other.sock", "name: mx", "name: web", ":2525", ":2526").Replace(proxyConfig)
	if err := os.WriteFile(other, fmt.Appendf(nil, text, l.dir), 0o600); err != nil {
		t.Fatal(err)
	}
	r := l.run("splitd", "run", "--config", other)
	if want := fmt.Sprintf("another splitd (pid %d) runs on the state_dir", l.daemon.Process.Pid); r.code != 1 || !strings.Contains(r.stderr, want) {
		t.Errorf("a second run: exit %d, %q; want %q", r.code, r.stderr, want)
	}
	if after, err := os.ReadFile(file); err != nil || !bytes.Equal(after, before) {
		t.Errorf("the second run changed restore.json to %s, %v; before %s", after, err, before)
	}
}

func TestCheckJudgesFilesAloneAndPrintsTheirLines(t *testing.T) {
	l := newLab(t)
	if r := l.run("splitd", "check", l.config); r.code != 0 || r.stdout+r.stderr != "" {
		t.Errorf("check of a good file: exit %d, %q", r.code, r.stdout+r.stderr)
	}
	bad := filepath.Join(l.dir, "bad.yaml")
	if err := os.WriteFile(bad, []byte("splits:\n  - name: mx\n    weihgt: 5\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	r := l.run("splitd", "check", l.config, bad)
	if r.code != 1 || !strings.HasPrefix(r.stderr, bad+":") || strings.Contains(r.stderr, l.config) {
		t.Errorf("check of a good and a bad file: exit %d, %q; want lines of the bad one alone", r.code, r.stderr)
	}
	if r := l.run("splitd", "check"); r.code != 2 {
		t.Errorf("check of nothing: exit %d, want 2", r.code)
	}
}
