package control

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// pathMax is the longest path of a socket: sun_path with its closing zero,
// unix(7).
const pathMax = 107

// The rights of the socket: connecting needs write permission on it, and who
// may change is decided by who is at the other end.
const (
	modeEveryone fs.FileMode = 0o666
	modeOwner    fs.FileMode = 0o600
)

// socket is the control socket's file and its listener.
type socket struct {
	listener *net.UnixListener
	path     string
	file     fs.FileInfo
}

// listenUnix puts a listening socket at path with its final rights. It is
// made under another name and renamed, so nobody can ever connect to it by
// wrong rights; a lock next to it keeps two daemons that start together from
// each taking the other's for stale.
func listenUnix(path string, gid int, mode fs.FileMode) (*socket, error) {
	if len(path) > pathMax {
		return nil, fmt.Errorf("listen on %q: the path has %d bytes, over %d: set control.socket to a shorter one", path, len(path), pathMax)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, fmt.Errorf("listen on %q: %w", path, err)
	}
	unlock, err := lockPath(path)
	if err != nil {
		return nil, fmt.Errorf("listen on %q: %w", path, err)
	}
	defer unlock()
	if err := checkFree(path); err != nil {
		return nil, err
	}
	s, err := bindAside(path, gid, mode)
	if err != nil {
		return nil, fmt.Errorf("listen on %q: %w", path, err)
	}
	return s, nil
}

// bindAside listens under a temporary name and renames it to path.
func bindAside(path string, gid int, mode fs.FileMode) (_ *socket, err error) {
	aside := filepath.Join(filepath.Dir(path), ".s"+strconv.Itoa(os.Getpid()))
	if err := os.Remove(aside); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	// A socket's own mode becomes that of the file that bind(2) makes of it
	// (unix_bind in net/unix/af_unix.c), so this one is ours alone from the start.
	closed := net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) error {
		var failed error
		err := raw.Control(func(fd uintptr) { failed = unix.Fchmod(int(fd), uint32(modeOwner)) })
		return errors.Join(err, failed)
	}}
	l, err := closed.Listen(context.Background(), "unix", aside)
	if err != nil {
		return nil, err
	}
	listener := l.(*net.UnixListener)
	listener.SetUnlinkOnClose(false)
	defer func() {
		if err != nil {
			_ = listener.Close()
			_ = os.Remove(aside)
		}
	}()
	if gid >= 0 {
		if err := os.Lchown(aside, -1, gid); err != nil {
			return nil, err
		}
	}
	if err := os.Chmod(aside, mode); err != nil {
		return nil, err
	}
	file, err := os.Lstat(aside)
	if err != nil {
		return nil, err
	}
	if err := os.Rename(aside, path); err != nil {
		return nil, err
	}
	return &socket{listener: listener, path: path, file: file}, nil
}

// checkFree says whether path may be taken: nothing is there, or a socket
// that nobody listens on.
func checkFree(path string) error {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return fmt.Errorf("listen on %q: %w", path, err)
	case info.Mode().Type() != fs.ModeSocket:
		return fmt.Errorf("listen on %q: something that is no socket is there: move it away, or set control.socket to another path", path)
	}
	conn, err := net.DialTimeout("unix", path, time.Second)
	if errors.Is(err, unix.ECONNREFUSED) || errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		_ = conn.Close()
	}
	return fmt.Errorf("another splitd answers on %q: stop it first, or set control.socket to another path", path)
}

// remove takes the file away if it is still ours. The listener must still be
// open: it keeps the inode from being used again.
func (s *socket) remove() error {
	unlock, err := lockPath(s.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // the directory is gone, and the socket with it
	}
	if err != nil {
		return fmt.Errorf("remove control socket %q: %w", s.path, err)
	}
	defer unlock()
	if there, err := os.Lstat(s.path); err != nil || !os.SameFile(there, s.file) {
		return nil
	}
	if err := os.Remove(s.path); err != nil {
		return fmt.Errorf("remove control socket: %w", err)
	}
	return nil
}

// lockWait bounds how long another daemon may be in the middle of listening.
const lockWait = 2 * time.Second

// lockPath keeps other daemons from looking at or replacing the socket until
// unlock. The lock file exists only meanwhile.
func lockPath(path string) (unlock func(), err error) {
	name := filepath.Join(filepath.Dir(path), ".splitd.lock")
	for deadline := time.Now().Add(lockWait); ; {
		file, err := os.OpenFile(name, os.O_CREATE|os.O_RDWR|unix.O_NOFOLLOW, 0o600)
		if err != nil {
			return nil, err
		}
		err = unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil && isAt(file, name) {
			return func() {
				_ = os.Remove(name)
				_ = file.Close()
			}, nil
		}
		_ = file.Close()
		if time.Now().After(deadline) {
			return nil, fmt.Errorf("another splitd has held %q for %v", name, lockWait)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// isAt says whether the open file is still the one at name: its last holder
// may have removed it between our open and our lock.
func isAt(file *os.File, name string) bool {
	opened, err := file.Stat()
	if err != nil {
		return false
	}
	named, err := os.Lstat(name)
	return err == nil && os.SameFile(opened, named)
}

// lookupGroup finds the gid of a control group, given by name or by number.
func lookupGroup(name string) (int, error) {
	text := name
	if group, err := user.LookupGroup(name); err == nil {
		text = group.Gid
	}
	gid, err := strconv.ParseUint(text, 10, 31)
	switch {
	case err != nil:
		return 0, fmt.Errorf("find group %q: it does not exist: create it with `groupadd --system %s`, or set control.group", name, name)
	case gid == overflowID:
		return 0, fmt.Errorf("find group %q: gid %d stands for whoever has no group here: set control.group", name, gid)
	}
	return int(gid), nil
}
