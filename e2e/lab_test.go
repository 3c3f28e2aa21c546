package e2e

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/splitd/splitd/control/api"
	"github.com/splitd/splitd/internal/nettest"
	"github.com/splitd/splitd/internal/programs"
)

// lab is a client, a router that runs splitd, and a new host, each in a
// namespace of its own, with a service whose backends say their names.
type lab struct {
	t                    *testing.T
	client, router, host *nettest.NS
	dir, config, socket  string
	daemon               *exec.Cmd
	log                  *programs.Output
}

// The service is on the router itself; the candidate is on the new host, whose
// default route leads back through the router.
const (
	service4 = "192.0.2.25"
	service6 = "2001:db8::25"
	host4    = "10.2.0.2"
	host6    = "fd02::2"
)

const kernelConfig = `
control: {socket: %[1]s/splitd.sock}
http: {listen: ""}
state_dir: %[1]s/state
splits:
  - name: mx
    service: {addresses: [192.0.2.25, "2001:db8::25"], ports: [25/tcp]}
    primary: {name: old, addresses: [local]}
    candidates:
      - {name: new, addresses: [10.2.0.2, "fd02::2"], weight: 0%%}
    return: gateway
`

func newLab(t *testing.T) *lab {
	t.Helper()
	l := &lab{t: t, dir: t.TempDir(), log: &programs.Output{}}
	l.client, l.router, l.host = nettest.New(t, "client"), nettest.New(t, "router"), nettest.New(t, "host")
	nettest.Link(t, l.client, "eth0", []string{"10.1.0.2/24", "fd01::2/64"}, l.router, "eth0", []string{"10.1.0.1/24", "fd01::1/64"})
	nettest.Link(t, l.host, "eth0", []string{host4 + "/24", host6 + "/64"}, l.router, "eth1", []string{"10.2.0.1/24", "fd02::1/64"})
	for _, ns := range []*nettest.NS{l.client, l.host} {
		gateway := map[*nettest.NS]string{l.client: "1", l.host: "2"}[ns]
		ns.Route("0.0.0.0/0", "10."+gateway+".0.1")
		ns.Route("::/0", "fd0"+gateway+"::1")
	}
	l.router.Sysctl("net/ipv4/ip_forward", "1")
	l.router.Sysctl("net/ipv6/conf/all/forwarding", "1")
	if err := l.router.AddAddresses("lo", service4+"/32", service6+"/128"); err != nil {
		t.Fatal(err)
	}
	for _, family := range []string{"0.0.0.0:25", "[::]:25"} {
		l.serve(l.router, family, "old")
		l.serve(l.host, family, "new")
	}
	l.socket = filepath.Join(l.dir, "splitd.sock")
	l.config = filepath.Join(l.dir, "splitd.yaml")
	l.configure(kernelConfig)
	t.Cleanup(func() {
		l.kill()
		if t.Failed() {
			t.Logf("splitd said:\n%s", l.log)
		}
	})
	return l
}

// configure writes the configuration, with the lab's folder put in.
func (l *lab) configure(format string) {
	l.t.Helper()
	if err := os.WriteFile(l.config, fmt.Appendf(nil, format, l.dir), 0o600); err != nil {
		l.t.Fatal(err)
	}
}

// serve answers every connection with the name and then echoes lines.
func (l *lab) serve(ns *nettest.NS, address, name string) {
	l.t.Helper()
	network := "tcp4"
	if strings.HasPrefix(address, "[") {
		network = "tcp6"
	}
	ns.Serve(network, address, func(c net.Conn) { echo(c, name) })
}

func echo(c net.Conn, name string) {
	defer func() { _ = c.Close() }()
	if _, err := fmt.Fprintln(c, name); err != nil {
		return
	}
	lines := bufio.NewScanner(c)
	for lines.Scan() {
		if _, err := fmt.Fprintln(c, lines.Text()); err != nil {
			return
		}
	}
}

// start runs splitd in the router and waits until it answers.
func (l *lab) start(args ...string) {
	l.t.Helper()
	if len(args) == 0 {
		args = []string{"--config", l.config}
	}
	l.startBy(exec.Command(programs.Path(l.t, "splitd"), append([]string{"run"}, args...)...))
}

// startBy does so by a command of the test's.
func (l *lab) startBy(command *exec.Cmd) {
	l.t.Helper()
	l.daemon = command
	l.daemon.Stderr = l.log
	if err := l.router.Start(l.daemon); err != nil {
		l.t.Fatal(err)
	}
	died := make(chan error, 1)
	daemon := l.daemon
	go func() { died <- daemon.Wait() }()
	deadline := time.After(30 * time.Second)
	for {
		if _, err := os.Stat(l.socket); err == nil {
			if c, err := net.Dial("unix", l.socket); err == nil {
				_ = c.Close()
				return
			}
		}
		select {
		case err := <-died:
			l.daemon = nil
			l.t.Fatalf("splitd ended at its start: %v\n%s", err, l.log)
		case <-deadline:
			l.t.Fatalf("splitd does not answer after 30 s\n%s", l.log)
		case <-time.After(2 * time.Millisecond):
		}
	}
}

// kill ends the daemon as a crash does.
func (l *lab) kill() { l.end(unix.SIGKILL) }

// stop ends it as systemd does.
func (l *lab) stop() { l.end(unix.SIGTERM) }

func (l *lab) end(signal unix.Signal) {
	if l.daemon == nil {
		return
	}
	_ = l.daemon.Process.Signal(signal)
	l.eventually("the daemon has ended", func() bool { return unix.Kill(l.daemon.Process.Pid, 0) != nil })
	l.daemon = nil
}

// result is what a command printed and how it ended.
type result struct {
	stdout, stderr string
	code           int
}

// ctl runs splitctl in the router's namespace.
func (l *lab) ctl(args ...string) result {
	l.t.Helper()
	return l.run("splitctl", append([]string{"--socket", l.socket}, args...)...)
}

// run runs one of our binaries in the router's namespace.
func (l *lab) run(name string, args ...string) result {
	l.t.Helper()
	cmd := exec.Command(programs.Path(l.t, name), args...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	cmd.Env = append(os.Environ(), "SPLITD_STATE_DIR="+filepath.Join(l.dir, "state"))
	if err := l.router.Start(cmd); err != nil {
		l.t.Fatal(err)
	}
	// A `run` that should have been refused would never end by itself.
	overdue := time.AfterFunc(30*time.Second, func() { _ = cmd.Process.Kill() })
	defer overdue.Stop()
	err := cmd.Wait()
	if exit, ok := errors.AsType[*exec.ExitError](err); err != nil && !ok {
		l.t.Fatalf("%s %v: %v", name, args, err)
	} else if ok && exit.ExitCode() < 0 {
		l.t.Fatalf("%s %v: %v\n%s", name, args, err, stderr.String())
	}
	return result{stdout.String(), stderr.String(), cmd.ProcessState.ExitCode()}
}

// ok runs splitctl and fails the test unless it exits 0.
func (l *lab) ok(args ...string) result {
	l.t.Helper()
	r := l.ctl(args...)
	if r.code != 0 {
		l.t.Fatalf("splitctl %v: exit %d\n%s%s", args, r.code, r.stdout, r.stderr)
	}
	return r
}

// status is the state of the split mx.
func (l *lab) status() api.Split {
	l.t.Helper()
	var list api.SplitList
	if err := json.Unmarshal([]byte(l.ok("status", "mx", "-o", "json").stdout), &list); err != nil {
		l.t.Fatal(err)
	}
	if len(list.Items) != 1 {
		l.t.Fatalf("status lists %d splits, want 1", len(list.Items))
	}
	return list.Items[0]
}

// dial opens a connection from the client and returns who answered.
func (l *lab) dial(address string) (net.Conn, *bufio.Reader, string) {
	l.t.Helper()
	var c net.Conn
	l.client.Do(func() (err error) { c, err = net.DialTimeout("tcp", address, 20*time.Second); return err })
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	r := bufio.NewReader(c)
	name, err := r.ReadString('\n')
	if err != nil {
		l.t.Fatalf("read the name of who serves %s: %v", address, err)
	}
	return c, r, strings.TrimSpace(name)
}

// who says which backend serves a new connection.
func (l *lab) who(address string) string {
	l.t.Helper()
	c, _, name := l.dial(address)
	_ = c.(*net.TCPConn).SetLinger(0)
	_ = c.Close()
	return name
}

// servedBy fails unless every one of some new connections, over both families,
// goes to that backend.
func (l *lab) servedBy(want string) {
	l.t.Helper()
	for _, address := range []string{service4 + ":25", "[" + service6 + "]:25"} {
		for range 10 {
			if got := l.who(address); got != want {
				l.t.Fatalf("a connection to %s went to %q, want %q", address, got, want)
			}
		}
	}
}

// eventually waits for a condition.
func (l *lab) eventually(what string, condition func() bool) {
	l.t.Helper()
	nettest.Eventually(l.t, what, condition)
}
