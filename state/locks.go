package state

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// lockedBy asks the kernel who has the lock of a file, proc_locks(5). Some file
// systems have another device number there than in stat(2), so the inode's must do.
func lockedBy(file *os.File) *Locked {
	info, err := file.Stat()
	if err != nil {
		return &Locked{}
	}
	text, err := os.ReadFile("/proc/locks")
	if err != nil {
		return &Locked{}
	}
	stat := info.Sys().(*syscall.Stat_t)
	pid := holder(string(text), deviceName(uint64(stat.Dev)), stat.Ino) //nolint:unconvert // of another width elsewhere
	if pid == 0 {
		return &Locked{}
	}
	name, _ := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "comm")) // it may have ended
	return &Locked{PID: pid, Program: strings.TrimSpace(string(name))}
}

// deviceName is a device of stat(2) as /proc/locks has it; makedev(3) says where its
// numbers are.
func deviceName(device uint64) string {
	major, minor := device>>8&0xfff|device>>32&^uint64(0xfff), device&0xff|device>>12&0xffffff00
	return fmt.Sprintf("%02x:%02x", major, minor)
}

// holder is who has the lock of an inode, by the text of /proc/locks: on the device, else
// the only one on any; 0 is nobody, or nobody knows.
func holder(locks, device string, inode uint64) int {
	elsewhere := map[int]bool{}
	for row := range strings.Lines(locks) {
		// 1: FLOCK  ADVISORY  WRITE 857 fe:01:131 0 EOF; who waits has "->" in front
		f := strings.Fields(row)
		if len(f) < 6 || f[1] != "FLOCK" {
			continue
		}
		at, ofInode := strings.CutSuffix(f[5], ":"+strconv.FormatUint(inode, 10))
		pid, err := strconv.Atoi(f[4])
		switch {
		case !ofInode || err != nil || pid <= 0:
		case at == device:
			return pid
		default:
			elsewhere[pid] = true
		}
	}
	if len(elsewhere) == 1 {
		for pid := range elsewhere {
			return pid
		}
	}
	return 0
}
