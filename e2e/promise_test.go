package e2e

import (
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

func TestOffAndSetWorkAfterSomebodyFlushedTheRuleset(t *testing.T) {
	l := newLab(t)
	l.start()
	l.ok("set", "mx", "50%")
	l.reboot() // nft flush ruleset
	l.ok("off", "mx")
	l.servedBy("old")
	if s := l.status(); s.WeightPPM != 0 || s.Kernel.InSync == nil || !*s.Kernel.InSync {
		t.Errorf("after off: %d ppm, in sync %v", s.WeightPPM, s.Kernel.InSync)
	}
	l.reboot()
	l.ok("set", "mx", "100%")
	l.servedBy("new")
}

func TestASecondDaemonForTheSameKernelIsRefused(t *testing.T) {
	l := newLab(t)
	l.start()
	l.ok("set", "mx", "100%")
	other := filepath.Join(l.dir, "other.yaml")
	text := strings.NewReplacer("%[1]s/", l.dir+"/other/", "%%", "%", "name: mx", "name: web", "25/tcp", "80/tcp").Replace(kernelConfig)
	if err := os.MkdirAll(filepath.Join(l.dir, "other"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(other, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	r := l.run("splitd", "run", "--config", other)
	if r.code != 1 || !strings.Contains(r.stderr, "another splitd") {
		t.Errorf("a second daemon: exit %d, %q; want it refused", r.code, r.stderr)
	}
	l.servedBy("new")
}

func TestWhatIsObservedBeginsAgainWithTheRelaysCounters(t *testing.T) {
	l := newLab(t)
	l.configure(proxyConfig)
	l.start()
	for range 40 {
		l.who("10.1.0.1:2525")
	}
	l.ok("set", "mx", "100%")
	l.who("10.1.0.1:2525")
	l.kill()
	l.start()
	for range 60 {
		l.who("10.1.0.1:2525")
	}
	if s := l.status(); s.ObservedPPM == nil || *s.ObservedPPM != 1_000_000 {
		t.Errorf("observed = %v, want the 1000000 of all flows since the generation began", *s.ObservedPPM)
	}
}

func TestAForcedOffBeginsItsOwnObservation(t *testing.T) {
	l := newLab(t)
	l.start()
	l.ok("set", "mx", "100%")
	l.servedBy("new")
	l.kill()
	l.ok("off", "--all", "--force")
	l.start()
	l.servedBy("old")
	if s := l.status(); s.ObservedPPM == nil || *s.ObservedPPM != 0 {
		t.Errorf("observed after off = %v, want 0", s.ObservedPPM)
	}
}

func TestReturnPathsThatAreNoLongerWrittenGoAtTheNextStart(t *testing.T) {
	l := newLab(t)
	before := l.snapshot()
	head := kernelConfig[:strings.Index(kernelConfig, "splits:")]
	l.configure(head + "return_paths:\n  - {name: back, via: 10.2.0.2, device: eth1, match: address, address: 10.2.0.1}\n")
	l.start()
	if d := before.Differences(l.snapshot()); len(d) == 0 {
		t.Fatal("the return path left no trace in the kernel")
	}
	if s := l.ok("status").stdout; !strings.Contains(s, "back") || !strings.Contains(s, "10.2.0.2") || !strings.Contains(s, "yes") {
		t.Errorf("status of a new host = %q, want its return path in sync", s)
	}
	l.stop()
	l.configure(head)
	l.start()
	l.stop()
	rules := 0
	l.router.Do(func() error {
		all, err := netlink.RuleList(netlink.FAMILY_ALL)
		for _, r := range all {
			if r.Protocol == 83 {
				rules++
			}
		}
		return err
	})
	if rules != 0 {
		t.Errorf("%d rules of a return path that nobody wants any more", rules)
	}
}

// TestASplitMovesBetweenThePlanesWithoutAGap reloads between proxy and kernel
// mode while clients connect without pause, a near and a far one.
func TestASplitMovesBetweenThePlanesWithoutAGap(t *testing.T) {
	l := newLab(t)
	l.serve(l.host, "0.0.0.0:26", "new")
	const format = `
control: {socket: %[1]s/splitd.sock}
http: {listen: ""}
state_dir: %[1]s/state
splits:
  - name: mx
    service: {addresses: [10.1.0.1], ports: [2525/tcp]}
    mode: MODE
    primary: {name: old, addresses: ["10.2.0.2:25"]}
    candidates:
      - {name: new, addresses: ["10.2.0.2:26"], weight: 0%%}
    return: gateway
`
	l.configure(strings.Replace(format, "MODE", "proxy", 1))
	l.start()
	var done atomic.Bool
	var failed, connected atomic.Int64
	var clients sync.WaitGroup
	for _, far := range []bool{false, true} {
		clients.Go(func() {
			for !done.Load() {
				if err := l.connect("10.1.0.1:2525", far); err != nil {
					t.Logf("connect: %v", err)
					failed.Add(1)
				}
				connected.Add(1)
			}
		})
	}
	for i := range 20 {
		mode := []string{"kernel", "proxy"}[i%2]
		l.configure(strings.Replace(format, "MODE", mode, 1))
		l.ok("apply")
		seen := connected.Load()
		l.eventually("the clients have connected again", func() bool { return connected.Load() > seen+10 })
	}
	done.Store(true)
	clients.Wait()
	t.Logf("%d connections", connected.Load())
	if n := failed.Load(); n > 0 {
		t.Errorf("%d of %d connections failed while the split moved", n, connected.Load())
	}
}

// connect opens a connection from the client, reads who serves it and closes it.
// A far client takes 200 ms (TCP_DELACK_MAX) for the last step of the handshake:
// the kernel holds back the ACK of a socket that need not acknowledge at once
// (tcp_rcv_synsent_state_process in net/ipv4/tcp_input.c).
//
// It does not reset: where conntrack was turned on while a flow was open, and
// saw the server's packet first, it calls the SYN of a client invalid that has
// just reset that flow and takes the same port again.
func (l *lab) connect(address string, far bool) error {
	dialer := net.Dialer{Timeout: 3 * time.Second}
	if far {
		dialer.Control = func(_, _ string, raw syscall.RawConn) (err error) {
			_ = raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_QUICKACK, 0) })
			return err
		}
	}
	var c net.Conn
	err := l.client.NS.Do(func() (err error) {
		c, err = dialer.Dial("tcp", address)
		return err
	})
	if err != nil {
		return err
	}
	_ = c.SetDeadline(time.Now().Add(3 * time.Second))
	name := make([]byte, 4)
	_, err = io.ReadFull(c, name)
	return errors.Join(err, c.Close())
}

func TestAReadOnlyStateDirectoryStartsAndOnlyLowers(t *testing.T) {
	l := newLab(t)
	dir := filepath.Join(l.dir, "state")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=4m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.kill(); _ = unix.Unmount(dir, unix.MNT_DETACH) })
	l.start()
	l.ok("set", "mx", "100%")
	l.kill()
	if err := unix.Mount("", dir, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	l.start()
	l.servedBy("new")
	if r := l.ctl("set", "mx", "100%"); r.code != 0 {
		t.Errorf("setting what is set: exit %d, %q", r.code, r.stderr)
	}
	l.ok("set", "mx", "50%")
	if r := l.ctl("set", "mx", "60%"); r.code != 1 || !strings.Contains(r.stderr, "raise refused") {
		t.Errorf("raising: exit %d, %q; want it refused", r.code, r.stderr)
	}
	l.ok("off", "mx")
	l.servedBy("old")
}

func TestOffOnAFullDiskOutlivesARestartOfTheRelay(t *testing.T) {
	l := newLab(t)
	l.configure(proxyConfig)
	dir := filepath.Join(l.dir, "state")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=512k"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.kill(); _ = unix.Unmount(dir, unix.MNT_DETACH) })
	l.start()
	l.ok("set", "mx", "100%")
	fillDisk(t, filepath.Join(dir, "fill"))
	l.ok("off", "mx")
	l.kill()
	l.start()
	if got := l.who("10.1.0.1:2525"); got != "old" {
		t.Errorf("after off on a full disk and a restart served by %q, want old", got)
	}
}

func TestARaiseThatAStoppedDaemonFindsInItsQueueDoesNotBeatTheOffAfterIt(t *testing.T) {
	l := newLab(t)
	l.start()
	_ = l.daemon.Process.Signal(unix.SIGSTOP)
	if r := l.ctl("set", "mx", "100%"); r.code != 3 {
		t.Fatalf("set of a stopped daemon: exit %d, %q", r.code, r.stderr)
	}
	if r := l.ctl("off", "mx"); r.code != 3 {
		t.Fatalf("off of a stopped daemon: exit %d, %q", r.code, r.stderr)
	}
	_ = l.daemon.Process.Signal(unix.SIGCONT)
	l.eventually("the daemon has seen both", func() bool {
		return strings.Contains(l.log.String(), "raise refused, its caller has gone") || l.status().WeightPPM > 0
	})
	if s := l.status(); s.WeightPPM != 0 {
		t.Errorf("the stale raise is in force: %d ppm", s.WeightPPM)
	}
	l.servedBy("old")
}
