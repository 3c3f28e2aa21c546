// Package netns makes network namespaces and the links between them, for the
// demo and for tests. It never touches the namespace that the machine itself
// lives in: Enter puts the calling program, started anew, into a namespace of
// its own first.
//
// Only fds are used, no names below /run/netns, so that nothing is left behind
// when the process ends, however it ends.
package netns

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"strings"
	"sync"
	"syscall"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// insideEnv is set for a program that Enter has already put in its namespaces.
const insideEnv = "SPLITD_IN_NETNS"

// ErrForbidden says that this machine lets us make no namespaces.
var ErrForbidden = errors.New("namespaces are forbidden here")

// Inside says whether this process was started by Enter.
func Inside() bool { return os.Getenv(insideEnv) == "1" }

// Enter starts this program again, with the same arguments, in network and
// mount namespaces of its own (and, for who may not do that, in a user
// namespace where the caller is root), waits for it and returns its exit code.
// Signals are passed on. An error wraps ErrForbidden when no namespace can be
// made; Hint then says what to change.
func Enter() (int, error) {
	cmd, err := startInside()
	if err != nil {
		return 0, err
	}
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, unix.SIGINT, unix.SIGTERM, unix.SIGHUP)
	defer signal.Stop(signals)
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	for {
		select {
		case s := <-signals:
			_ = cmd.Process.Signal(s)
		case err := <-done:
			if exit, ok := errors.AsType[*exec.ExitError](err); ok {
				if status, ok := exit.Sys().(syscall.WaitStatus); ok && status.Signaled() {
					return 128 + int(status.Signal()), nil
				}
				return exit.ExitCode(), nil
			}
			return 0, err
		}
	}
}

// startInside tries plain namespaces first, as root has them, and a user
// namespace after that.
func startInside() (*exec.Cmd, error) {
	var failures []error
	for _, attr := range []*syscall.SysProcAttr{asRoot(), asUser()} {
		cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
		cmd.Args[0] = os.Args[0]
		cmd.Env = append(os.Environ(), insideEnv+"=1")
		cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
		cmd.SysProcAttr = attr
		err := cmd.Start()
		if err == nil {
			return cmd, nil
		}
		failures = append(failures, err)
	}
	return nil, fmt.Errorf("%w: %w", ErrForbidden, errors.Join(failures...))
}

// Own process group: a Ctrl-C at the terminal reaches the child once, through
// Enter, and not a second time by itself. Should the caller be killed, the
// child gets SIGTERM and can still take away what it made.
func asRoot() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET | unix.CLONE_NEWNS, Pdeathsig: unix.SIGTERM, Setpgid: true}
}

func asUser() *syscall.SysProcAttr {
	attr := asRoot()
	attr.Cloneflags |= unix.CLONE_NEWUSER
	attr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}}
	attr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}}
	return attr
}

// Hint says which setting of this machine forbids namespaces, and the cure.
func Hint() string {
	for _, s := range []struct{ file, forbids, cure string }{
		{"/proc/sys/user/max_user_namespaces", "0", "sudo sysctl user.max_user_namespaces=15000"},
		{"/proc/sys/user/max_net_namespaces", "0", "sudo sysctl user.max_net_namespaces=15000"},
		{"/proc/sys/kernel/unprivileged_userns_clone", "0", "sudo sysctl kernel.unprivileged_userns_clone=1"},
		{"/proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1", "sudo sysctl kernel.apparmor_restrict_unprivileged_userns=0"},
	} {
		text, err := os.ReadFile(s.file)
		if err == nil && strings.TrimSpace(string(text)) == s.forbids {
			return fmt.Sprintf("%s is %s: run `%s`, or run this with sudo", s.file, s.forbids, s.cure)
		}
	}
	return "run this with sudo, or allow unprivileged user namespaces (sysctl user.max_user_namespaces, user.max_net_namespaces)"
}

// NS is a network namespace, alive as long as it is not closed or a process
// lives in it. Its methods may be called from many goroutines.
type NS struct {
	Name   string
	handle netns.NsHandle

	home   sync.Mutex // guards starts
	starts chan start // to the thread that starts commands, while there is one
}

// start asks for a command to be started.
type start struct {
	cmd  *exec.Cmd
	done chan error
}

// New makes an empty network namespace with its loopback up. The name is for
// people only.
func New(name string) (*NS, error) {
	ns := &NS{Name: name}
	err := onOwnThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("make namespace %q: %w", name, err)
		}
		handle, err := netns.Get()
		if err != nil {
			return fmt.Errorf("open namespace %q: %w", name, err)
		}
		ns.handle = handle
		return nil
	})
	if err != nil {
		return nil, err
	}
	if err := ns.prepare(); err != nil {
		return nil, errors.Join(err, ns.Close())
	}
	return ns, nil
}

// prepare sets the loopback up and turns duplicate address detection off
// (RFC 4862 section 5.4), so that addresses are usable at once and stay as
// they are. A kernel without IPv6 has no such setting.
func (ns *NS) prepare() error {
	for _, conf := range []string{"all", "default"} {
		err := ns.Sysctl("net/ipv6/conf/"+conf+"/accept_dad", "0")
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("prepare namespace %q: %w", ns.Name, err)
		}
	}
	return ns.up("lo")
}

// FD is the namespace's descriptor, owned by the NS.
func (ns *NS) FD() int { return int(ns.handle) }

// Close gives the namespace up. Commands started with Pdeathsig get their
// signal.
func (ns *NS) Close() error {
	ns.home.Lock()
	if ns.starts != nil {
		close(ns.starts)
		ns.starts = nil
	}
	ns.home.Unlock()
	return ns.handle.Close()
}

// Do runs fn on a thread inside the namespace. What fn starts with `go` does
// not run there; sockets that fn opens stay there. /proc/net must be read as
// /proc/thread-self/net.
func (ns *NS) Do(fn func() error) error {
	return onOwnThread(func() error {
		if err := netns.Set(ns.handle); err != nil {
			return fmt.Errorf("enter namespace %q: %w", ns.Name, err)
		}
		return fn()
	})
}

// Start starts the command inside the namespace; the caller ends it. All
// commands of a namespace are started by one thread that lives until Close, so
// Pdeathsig in their SysProcAttr means: when this process ends, however it
// ends, or closes the NS (PR_SET_PDEATHSIG, prctl(2)).
func (ns *NS) Start(cmd *exec.Cmd) error {
	ns.home.Lock()
	defer ns.home.Unlock()
	if ns.starts == nil {
		starts, ready := make(chan start), make(chan error)
		go ns.startCommands(starts, ready)
		if err := <-ready; err != nil {
			return err
		}
		ns.starts = starts
	}
	request := start{cmd: cmd, done: make(chan error)}
	ns.starts <- request
	return <-request.done
}

// startCommands is the thread that starts commands. It stays locked, so that
// it ends with this goroutine and no other ever runs on it.
func (ns *NS) startCommands(starts <-chan start, ready chan<- error) {
	runtime.LockOSThread()
	if err := netns.Set(ns.handle); err != nil {
		ready <- fmt.Errorf("enter namespace %q: %w", ns.Name, err)
		return
	}
	ready <- nil
	for request := range starts {
		request.done <- request.cmd.Start()
	}
}

// Sysctl writes a setting of the namespace, named with slashes:
// "net/ipv4/ip_forward".
func (ns *NS) Sysctl(name, value string) error {
	return ns.Do(func() error {
		return os.WriteFile("/proc/sys/"+name, []byte(value), 0o644)
	})
}

// LoopbackUp sets the loopback of this process's own namespace up; Enter
// leaves it down. It needs CAP_NET_ADMIN there.
func LoopbackUp() error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("find device %q: %w", "lo", err)
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		return fmt.Errorf("set device %q up: %w", "lo", err)
	}
	return nil
}

// onOwnThread runs fn on a fresh OS thread that dies afterwards, so that no
// other goroutine ever runs in the namespace that fn switched to: the runtime
// ends a thread whose goroutine returns while locked to it.
func onOwnThread(fn func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		var err error
		defer func() { done <- err }()
		err = errors.New("the function ended its goroutine")
		err = fn()
	}()
	return <-done
}
