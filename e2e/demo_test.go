package e2e

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/splitd/splitd/internal/netns"
	"github.com/splitd/splitd/internal/programs"
)

func TestDemoPlaysTheMigrationOnTheKernel(t *testing.T) {
	t.Parallel()
	began := time.Now()
	d := startDemo(t, func(cmd *exec.Cmd) {
		// What the user has set for a splitd of his own is not the demo's.
		cmd.Env = append(cmd.Env, "SPLITD_CONTROL_SOCKET=/nonexistent/sock", "SPLITD_STATE_DIR=/nonexistent", "SPLITD_LOG_LEVEL=loud")
	})
	if code := d.exit(); code != 0 {
		t.Errorf("exit code = %d, want 0", code)
	}
	if took := time.Since(began); took > 60*time.Second {
		t.Errorf("the demo took %s, over a minute", took)
	}
	text := d.text()
	if got := d.lastLine(); got != "demo: ok plane=kernel lost=0 twice=0 clean=yes" {
		t.Errorf("last line = %q in:\n%s", got, text)
	}
	for _, want := range []string{
		"clients' sessions, all behind STARTTLS,", "$ splitctl shadow mx 100% ", "mx: DIFFERS", "RCPT ", "EHLO ", "$ splitctl report mx --reset", "mx: SAME", "$ splitctl shadow mx 0%",
		"$ splitctl set mx 5% ", "$ splitctl set mx 25% ", "$ splitctl undo mx ", "$ splitctl set mx 50% ",
		"$ splitctl set mx 100% ", "$ splitctl off mx ", "$ splitd cleanup ",
	} {
		before, after, found := strings.Cut(text, want)
		if !found {
			t.Errorf("%q is not there, or not in its place, in:\n%s", want, before)
		}
		text = after
	}
	if lines := strings.Count(d.text(), "\n"); lines > 90 {
		t.Errorf("the demo printed %d lines, over 90", lines)
	}
	if strings.ContainsAny(d.text(), "\x1b\r") {
		t.Error("the demo draws although nobody sees it on a terminal")
	}
	d.nothingLeft()
}

func TestDemoPlaysInProxyModeWhereNamespacesAreForbidden(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name     string
		settings []string
		hint     string
	}{
		{"none at all", []string{"max_user_namespaces=0", "max_net_namespaces=0"}, "sudo sysctl user.max_user_namespaces="},
		{"no network namespace", []string{"max_net_namespaces=0"}, "sudo sysctl user.max_net_namespaces="},
		{"one network namespace, and the network needs more", []string{"max_net_namespaces=1"}, "sudo"},
	}
	// The namespaces of these tests have their loopback down.
	if err := netns.LoopbackUp(); err != nil {
		t.Fatal(err)
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			d := startDemo(t, func(cmd *exec.Cmd) {
				cmd.Args = append([]string{"e2e.test"}, append([]string{cmd.Path}, cmd.Args[1:]...)...)
				cmd.Path = "/proc/self/exe"
				cmd.Env = append(cmd.Env, forbidEnv+"="+strings.Join(tt.settings, string(filepath.ListSeparator)))
				cmd.SysProcAttr = &syscall.SysProcAttr{
					Cloneflags:  syscall.CLONE_NEWUSER,
					UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
					GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
				}
			})
			if code := d.exit(); code != 0 {
				t.Errorf("exit code = %d, want 0", code)
			}
			if got := d.lastLine(); got != "demo: ok plane=proxy lost=0 twice=0 clean=yes" {
				t.Errorf("last line = %q in:\n%s", got, d.text())
			}
			for _, want := range []string{"Left out: ", tt.hint, "$ splitctl undo mx "} {
				if !strings.Contains(d.text(), want) {
					t.Errorf("%q is not in:\n%s", want, d.text())
				}
			}
			d.nothingLeft()
		})
	}
}

func TestDemoEndsEverythingWhenItIsInterrupted(t *testing.T) {
	t.Parallel()
	tests := []struct {
		moment string // the demo has printed this
		signal syscall.Signal
	}{
		{"splitd demo: ", syscall.SIGINT},
		{"$ splitd run ", syscall.SIGTERM},
		{"$ splitctl set mx 5% ", syscall.SIGHUP},
		{"What this proves", syscall.SIGINT},
	}
	for _, tt := range tests {
		t.Run(fmt.Sprintf("%s at %q", tt.signal, tt.moment), func(t *testing.T) {
			t.Parallel()
			d := startDemo(t, nil)
			d.waitFor(tt.moment)
			if err := d.cmd.Process.Signal(tt.signal); err != nil {
				t.Fatal(err)
			}
			if code := d.exit(); code != 130 {
				t.Errorf("exit code = %d, want 130:\n%s", code, d.text())
			}
			d.nothingLeft()
		})
	}
}

func TestNothingOfTheDemoOutlivesItWhenItIsKilled(t *testing.T) {
	t.Parallel()
	d := startDemo(t, nil)
	d.waitFor("$ splitctl set mx 5% ")
	if err := d.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	<-d.ended
	d.nothingLeft()
}

func TestDemoEndsWhenNobodyReadsIt(t *testing.T) {
	t.Parallel()
	reader, writer, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	d := startDemo(t, func(cmd *exec.Cmd) { cmd.Stdout = writer })
	if err := writer.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(reader, make([]byte, 20)); err != nil {
		t.Fatal(err)
	}
	if err := reader.Close(); err != nil {
		t.Fatal(err)
	}
	if code := d.exit(); code == 0 {
		t.Errorf("exit code = 0, although nobody saw the end")
	}
	d.nothingLeft()
}

func TestDemoKeepsRunningAndSaysHowToLookAround(t *testing.T) {
	t.Parallel()
	d := startDemo(t, nil, "--keep")
	d.waitFor("Ctrl-C ends and removes it all.")
	_, after, _ := strings.Cut(d.text(), " --socket ")
	socket, _, _ := strings.Cut(after, " ")
	splitctl := func(args ...string) string {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		cmd := exec.CommandContext(ctx, programs.Path(t, "splitctl"), append([]string{"--socket", socket}, args...)...)
		output, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("splitctl %v: %v\n%s", args, err, output)
		}
		return string(output)
	}
	if got := splitctl("status"); !strings.Contains(got, "50%") {
		t.Errorf("status of what is kept:\n%s", got)
	}
	splitctl("set", "mx", "10%")
	for _, want := range []string{"nsenter -t " + strconv.Itoa(d.process("demo-host faulty-mx new")) + " ", "http://127.0.0.1:9480/metrics"} {
		if !strings.Contains(d.text(), want) {
			t.Errorf("%q is not in:\n%s", want, d.text())
		}
	}
	if err := d.cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	if code := d.exit(); code != 130 {
		t.Errorf("exit code = %d, want 130", code)
	}
	d.nothingLeft()
}

func TestDemoReportsWhatDoesNotHold(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name  string
		fault func(t *testing.T, d *demoRun)
		want  []string // begin lines
		last  string
	}{
		{"the new MX dies", func(t *testing.T, d *demoRun) {
			kill(t, d.process("demo-host faulty-mx new"))
		}, []string{"  NO  the story was not played to its end: the new MX ended in the middle of the story: signal: killed"}, "clean=yes"},
		{"the splitd that splits dies", func(t *testing.T, d *demoRun) {
			kill(t, d.process("old.yaml"))
		}, []string{
			"  NO  the story was not played to its end: splitd on the old MX ended in the middle of the story: signal: killed",
			"  NO  a daemon did not end cleanly on SIGTERM",
		}, "clean=no"},
		{"the new MX gets another way to the clients", func(t *testing.T, d *demoRun) {
			in(t, d.process("demo-host faulty-mx new"), func(h *netlink.Handle) error {
				return h.RouteAdd(&netlink.Route{Gw: net.ParseIP("10.0.0.1"), Dst: &net.IPNet{IP: net.IP{198, 51, 100, 0}, Mask: net.CIDRMask(24, 32)}})
			})
		}, []string{
			"  NO  the new MX has other ways to clients than the one through the old MX",
			"  NO  the old and the new MX are not as before",
			"        new MX: + route: ipv4 to/24",
		}, "clean=no"},
		{"the old MX keeps a rule", func(t *testing.T, d *demoRun) {
			in(t, d.process("demo-host mx old"), func(h *netlink.Handle) error {
				rule := netlink.NewRule()
				rule.Family, rule.Priority, rule.Table, rule.Mark = netlink.FAMILY_V6, 5201, 5300, 0x100000
				return h.RuleAdd(rule)
			})
		}, []string{"  NO  the old and the new MX are not as before", "        old MX: + rule: ipv6 to/0"}, "clean=no"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			d := startDemo(t, nil)
			d.waitFor("$ splitctl set mx 25% ")
			tt.fault(t, d)
			if code := d.exit(); code != 1 {
				t.Errorf("exit code = %d, want 1", code)
			}
			for _, want := range tt.want {
				if !strings.Contains("\n"+d.text(), "\n"+want) {
					t.Errorf("no line begins with %q in:\n%s", want, d.text())
				}
			}
			if got := d.lastLine(); !strings.HasPrefix(got, "demo: FAILED plane=kernel lost=0 twice=0 "+tt.last) {
				t.Errorf("last line = %q, want FAILED with %s", got, tt.last)
			}
			d.nothingLeft()
		})
	}
}
