package netfilter

import (
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// ErrAnotherSplitd says that another process programs this network namespace.
// Each would undo what the other does.
var ErrAnotherSplitd = errors.New("programs this network namespace: stop it first")

// turnName is an abstract name (unix(7)): there is one in each network
// namespace, and it vanishes with the process that holds it.
const turnName = "@splitd"

// turn is the right to program a network namespace.
type turn struct {
	listener *net.UnixListener // nil: the name is held by someone who does not count
	squatter string            // who that is
	done     sync.WaitGroup
}

// Who holds the name without answering is about to answer or about to end, or
// is no splitd.
const (
	turnTries = 20
	turnPause = 10 * time.Millisecond
)

// takeTurn takes the right for the network namespace of the calling thread, or
// says who has it. Everyone may take an abstract name: a squatter, who could
// not program the namespace, must not keep us from it.
func takeTurn() (*turn, error) {
	address := &net.UnixAddr{Net: "unix", Name: turnName}
	t := &turn{}
	for range turnTries {
		var err error
		if t.listener, err = net.ListenUnix(address.Net, address); err == nil {
			t.done.Go(t.answer)
			return t, nil
		}
		if !errors.Is(err, unix.EADDRINUSE) {
			return nil, fmt.Errorf("listen on %q: %w", turnName, err)
		}
		holder, err := askHolder(address)
		if err == nil {
			t.squatter = fmt.Sprintf("pid %d of user %d", holder.Pid, holder.Uid)
			return t, rival(holder, os.Geteuid())
		}
		t.squatter = err.Error()
		time.Sleep(turnPause)
	}
	return t, nil
}

// rival judges who holds the name: another splitd runs as root or as our own
// user.
func rival(holder *unix.Ucred, uid int) error {
	if holder.Uid != 0 && int(holder.Uid) != uid {
		return nil
	}
	who := fmt.Sprintf("pid %d", holder.Pid)
	if holder.Pid == 0 {
		who = "of another pid namespace" // pid_namespaces(7)
	}
	return fmt.Errorf("another splitd (%s) %w", who, ErrAnotherSplitd)
}

// askHolder returns who listens (SO_PEERCRED, unix(7)).
func askHolder(address *net.UnixAddr) (holder *unix.Ucred, err error) {
	conn, err := net.DialUnix(address.Net, nil, address)
	if err != nil {
		return nil, err
	}
	defer func() { _ = conn.Close() }()
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil, err
	}
	var credErr error
	err = raw.Control(func(fd uintptr) {
		holder, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	})
	return holder, errors.Join(err, credErr)
}

// Holder is the process that programs the network namespace of the calling
// thread, also one that hangs; false when there is none that may.
func Holder() (pid int, found bool) {
	holder, err := askHolder(&net.UnixAddr{Net: "unix", Name: turnName})
	if err != nil || holder.Pid == 0 || rival(holder, os.Geteuid()) == nil {
		return 0, false
	}
	return int(holder.Pid), true
}

// answer takes those who ask off the queue until the turn ends.
func (t *turn) answer() {
	for {
		conn, err := t.listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err == nil {
			_ = conn.Close()
		}
	}
}

// end gives the right up. It may be called again.
func (t *turn) end() {
	if t.listener != nil {
		_ = t.listener.Close()
		t.done.Wait()
	}
}
