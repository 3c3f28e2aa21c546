// Command init is the only program of the small system that run.sh boots a
// kernel with. As the first process it mounts what programs expect, runs the
// commands of /jobs one after another on the console and switches the machine
// off. As /sbin/modprobe, which the kernel calls when it lacks something
// (request_module, kernel/module/kmod.c), it loads that module and what it
// needs, as on any Debian.
//
// It is for a guest without disk and network and changes whatever it finds:
// outside of one it refuses to run.
package main

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

func main() {
	switch {
	case filepath.Base(os.Args[0]) == "modprobe" && len(os.Args) > 1:
		if err := modprobe(os.Args[len(os.Args)-1]); err != nil {
			os.Exit(1)
		}
	case os.Getpid() == 1:
		first()
	case os.Getppid() == 1 && len(os.Args) == 2 && os.Args[1] == "jobs":
		jobs()
	default:
		fmt.Fprintln(os.Stderr, "init: run this by e2e/kernel/run.sh: it is the first process of a kernel under test")
		os.Exit(2)
	}
}

// first is the first process: it prepares the system, takes the orphans that
// tests leave behind (wait(2)), and ends the machine when the jobs have ended.
func first() {
	if err := prepare(); err != nil {
		fmt.Println("init:", err)
	} else if child, err := os.StartProcess("/proc/self/exe", []string{"init", "jobs"}, &os.ProcAttr{
		Env:   []string{"PATH=/bin:/sbin", "HOME=/root", "TMPDIR=/tmp", "SPLITD_BIN=/bin"},
		Files: []*os.File{os.Stdin, os.Stdout, os.Stderr},
	}); err != nil {
		fmt.Println("init:", err)
	} else {
		for {
			if pid, err := unix.Wait4(-1, nil, 0, nil); pid == child.Pid || errors.Is(err, unix.ECHILD) {
				break
			}
		}
	}
	unix.Sync()
	fmt.Println("init:", unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF))
}

// files is how many a service may open, as systemd gives it (systemd.exec(5),
// LimitNOFILE).
const files = 524288

// prepare mounts file systems and makes what has no module to make it.
func prepare() error {
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: files, Max: files}); err != nil {
		return fmt.Errorf("allow %d files: %w", files, err)
	}
	for _, m := range []struct{ kind, on string }{
		{"proc", "/proc"}, {"sysfs", "/sys"}, {"devtmpfs", "/dev"}, {"tmpfs", "/tmp"}, {"tmpfs", "/run"},
	} {
		if err := os.MkdirAll(m.on, 0o755); err != nil {
			return err
		}
		if err := unix.Mount(m.kind, m.on, m.kind, 0, ""); err != nil {
			return fmt.Errorf("mount %s: %w", m.on, err)
		}
	}
	if err := os.Chmod("/tmp", 0o1777); err != nil {
		return err
	}
	// Opening it loads the module (char-major-10-200).
	if err := os.MkdirAll("/dev/net", 0o755); err != nil {
		return err
	}
	err := unix.Mknod("/dev/net/tun", unix.S_IFCHR|0o666, int(unix.Mkdev(10, 200)))
	if err != nil && !errors.Is(err, os.ErrExist) {
		return fmt.Errorf("make /dev/net/tun: %w", err)
	}
	return os.WriteFile("/proc/sys/kernel/printk", []byte("3 3 1 3"), 0)
}

// jobs runs the lines of /jobs: a name, the directory, the command.
func jobs() {
	list, err := os.Open("/jobs")
	if err != nil {
		fmt.Println("init:", err)
		return
	}
	defer func() { _ = list.Close() }()
	var kernel unix.Utsname
	_ = unix.Uname(&kernel)
	fmt.Printf("== kernel %s\n", unix.ByteSliceToString(kernel.Release[:]))
	for lines := bufio.NewScanner(list); lines.Scan(); {
		words := strings.Fields(lines.Text())
		if len(words) < 3 {
			continue
		}
		fmt.Printf("== begin %s\n", words[0])
		began := time.Now()
		cmd := exec.Command(words[2], words[3:]...)
		cmd.Dir, cmd.Stdout, cmd.Stderr = words[1], os.Stdout, os.Stdout
		code := 0
		if err := cmd.Run(); err != nil {
			code = 1
			fmt.Println("init:", err)
		}
		fmt.Printf("== end %s exit %d after %.0f s\n", words[0], code, time.Since(began).Seconds())
	}
	fmt.Println("== all jobs ended")
}
