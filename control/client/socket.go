package client

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/splitd/splitd/control/api"
)

// SystemSocket is where a daemon run by the system listens.
const SystemSocket = "/run/splitd/splitd.sock"

// ErrUnreachable says that no daemon answers; it is an *Unreachable.
var ErrUnreachable = errors.New("splitd is unreachable")

// Unreachable tells why no daemon answers, and what to do.
type Unreachable struct {
	Socket string
	// Hung says that a process holds the socket but does not answer: it is
	// stopped, or stuck. Whether it still does what it was asked is unknown.
	Hung  bool
	Cause error
	// Ending is what a daemon says that was there and is about to end; nil: none.
	Ending *api.Ending
}

// Error says what was tried and the next command.
func (u *Unreachable) Error() string {
	switch {
	case u.Ending != nil:
		return u.Ending.Text(time.Local)
	case errors.Is(u.Cause, fs.ErrPermission) && !u.Hung:
		return u.Brief() + ": use sudo"
	case u.missing():
		return u.Brief() + ": start it with `systemctl start splitd` or `splitd run`, or name its socket with --socket"
	}
	return u.Brief() + ": look with `systemctl status splitd`"
}

// Brief says what was tried, for who goes on without.
func (u *Unreachable) Brief() string {
	switch {
	case u.Hung:
		return fmt.Sprintf("the daemon on %q does not answer", u.Socket)
	case errors.Is(u.Cause, fs.ErrPermission):
		return fmt.Sprintf("connect to %q: permission denied", u.Socket)
	case u.missing():
		return fmt.Sprintf("no daemon listens on %q", u.Socket)
	}
	return fmt.Sprintf("ask the daemon on %q: %v", u.Socket, u.Cause)
}

// missing says that nobody is there.
func (u *Unreachable) missing() bool {
	return !u.Hung && (errors.Is(u.Cause, fs.ErrNotExist) || errors.Is(u.Cause, syscall.ECONNREFUSED))
}

// Is makes every Unreachable an ErrUnreachable.
func (u *Unreachable) Is(target error) bool { return target == ErrUnreachable }

// Unwrap returns the cause.
func (u *Unreachable) Unwrap() error { return u.Cause }

// Paths are the sockets that are tried, in their order: Socket, else
// SPLITD_CONTROL_SOCKET, and only without those the system's and then the
// user's own in XDG_RUNTIME_DIR.
func (c *Client) Paths() []string {
	getenv := c.Getenv
	if getenv == nil {
		getenv = os.Getenv
	}
	if c.Socket != "" {
		return []string{c.Socket}
	}
	if path := getenv("SPLITD_CONTROL_SOCKET"); path != "" {
		return []string{path}
	}
	paths := []string{SystemSocket}
	if dir := getenv("XDG_RUNTIME_DIR"); dir != "" {
		paths = append(paths, filepath.Join(dir, "splitd", "splitd.sock"))
	}
	return paths
}

// dial connects to the first of the paths on which somebody listens. When
// there is none, the error is about the first that is not merely missing.
func dial(ctx context.Context, paths []string) (*net.UnixConn, string, error) {
	var first *Unreachable
	for _, path := range paths {
		conn, err := new(net.Dialer).DialContext(ctx, "unix", path)
		if err == nil {
			return conn.(*net.UnixConn), path, nil
		}
		// A full queue of connections that nobody accepts: connect(2) waits,
		// or says EAGAIN where it may not wait.
		hung := errors.Is(err, syscall.EAGAIN) || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, os.ErrDeadlineExceeded)
		failed := &Unreachable{Socket: path, Hung: hung, Cause: err}
		if e, ok := endingAt(path); ok && !hung {
			failed.Ending = &e
		}
		if first == nil || first.Ending == nil && (failed.Ending != nil || errors.Is(first.Cause, fs.ErrNotExist) && !errors.Is(err, fs.ErrNotExist)) {
			first = failed
		}
	}
	if errors.Is(ctx.Err(), context.Canceled) {
		return nil, "", ctx.Err()
	}
	return nil, "", first
}

// noAnswer explains why an exchange on an open connection ended without one.
func noAnswer(ctx context.Context, socket string, err error) error {
	switch cause := context.Cause(ctx); {
	case errors.Is(cause, context.Canceled):
		return cause
	case cause != nil:
		return &Unreachable{Socket: socket, Hung: true, Cause: err}
	}
	return &Unreachable{Socket: socket, Cause: err}
}
