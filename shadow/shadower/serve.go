package shadower

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/rpc"
	"os"

	"golang.org/x/sync/errgroup"

	"github.com/splitd/splitd/internal/idle"
	"github.com/splitd/splitd/shadow/runner"
)

// ServeOptions are what a process is told on its command line. The files that it gets
// are a socket, and for each ring its memory and its bell, from descriptor 3 on.
type ServeOptions struct {
	Rings, Records int
	Budget         int64 // of all shadows, in bytes
	Priority       Priority
}

// A Priority is how the process stands in line for processors. What is none of these
// is Idle.
type Priority string

// The priorities.
const (
	Idle   Priority = "idle"   // only where nobody else wants one
	Low    Priority = "low"    // at nice 19: a little of one also where all are busy
	Normal Priority = "normal" // as whoever has started it
)

// firstFile is where os/exec puts ExtraFiles.
const firstFile = 3

// Serve is the whole life of the process that plays shadows: it ends when the daemon
// does, or says so. An error is a fault of one of both.
func Serve(o ServeOptions, log *slog.Logger) error {
	conn, err := net.FileConn(os.NewFile(firstFile, "daemon"))
	if err != nil {
		return fmt.Errorf("find the daemon, which alone starts this: %w", err)
	}
	d := newDesk(runner.NewBudget(o.Budget), log)
	var inlets []*inlet
	for i := range o.Rings {
		memory, bell := os.NewFile(uintptr(firstFile+1+2*i), "memory"), os.NewFile(uintptr(firstFile+2+2*i), "bell")
		in, err := openInlet(memory, bell, o.Records, d)
		if err != nil {
			return errors.Join(err, conn.Close())
		}
		inlets = append(inlets, in)
	}
	humble(o.Priority, log)
	server := rpc.NewServer()
	if err := server.RegisterName(deskName, d); err != nil {
		return fmt.Errorf("serve the daemon: %w", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		defer cancel()
		server.ServeConn(conn) // until the daemon is no more
		return nil
	})
	for _, in := range inlets {
		group.Go(func() error { return in.read(ctx) })
	}
	<-ctx.Done()
	_ = conn.Close()
	return group.Wait()
}

// humble leaves this process with no more than it needs: of the processors what nobody
// else wants, or little; of capabilities none but CAP_NET_ADMIN (SO_MARK in socket(7)) where it has
// that, and no way to more. Where memory runs out it goes first. What the host forbids
// is said, and done without.
func humble(p Priority, log *slog.Logger) {
	if refused := yield(p); refused != nil {
		log.Warn("shadows may take processors from clients: this process cannot have the priority that it is to have", "error", refused)
	}
	if p != Normal {
		if err := idle.Confine(); err != nil {
			log.Debug("keep to half of the processors", "error", err)
		}
	}
	if err := os.WriteFile("/proc/self/comm", []byte("splitd-shadower"), 0); err != nil { // 15 bytes, proc_pid_comm(5)
		log.Debug("say in lists of processes what this is", "error", err)
	}
	if err := os.WriteFile("/proc/self/oom_score_adj", []byte("1000"), 0); err != nil {
		log.Debug("be the first to go where memory runs out", "error", err)
	}
	if err := unprivileged(); err != nil {
		log.Debug("give up capabilities", "error", err)
	}
}

// yield takes the place in line. Where idle is refused it is low, and so is said.
func yield(p Priority) error {
	switch p {
	case Normal:
		return nil
	case Low:
		return idle.Yield()
	case Idle:
	}
	if refused := idle.Enter(); refused != nil {
		return errors.Join(refused, idle.Yield())
	}
	return nil
}
