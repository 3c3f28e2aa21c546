package main

import (
	"context"
	"errors"
	"os"
	"os/user"
	"strconv"
	"sync"
	"time"

	"github.com/splitd/splitd/control/api"
	"github.com/splitd/splitd/internal/process"
	"github.com/splitd/splitd/netfilter"
	"github.com/splitd/splitd/state"
)

// daemonProgram is the only program that `off --force` ends.
const daemonProgram = "splitd"

// osRescue is the rescue on this host's kernel and disk.
func osRescue() rescue {
	about := sync.OnceValues(netfilter.ReadAbout)
	return rescue{
		permitted: permitted,
		stateDir:  func() (string, error) { a, err := about(); return a.StateDir, err },
		include:   func() (string, error) { a, err := about(); return a.Include, err },
		mark:      mark,
		holder:    netfilter.Holder,
		kill:      func(ctx context.Context, pid int) error { return process.Kill(ctx, pid, daemonProgram) },
		forceOff:  forceOff,
	}
}

// forceOff needs no settings of the daemon's: tables and chains have the same
// names under all of them.
func forceOff(ctx context.Context, split string) ([]forced, error) {
	changed, err := netfilter.ForceOff(ctx, netfilter.Settings{}, split)
	all := make([]forced, 0, len(changed))
	for _, f := range changed {
		all = append(all, forced{split: f.Split, generation: uint64(f.Generation), previousPPM: int(f.PreviousPPM), previousSamplePPM: int(f.PreviousSample)})
	}
	return all, err
}

func mark(dir, split string, request api.Request) error {
	marker := state.Forced{
		Time: time.Now(), UID: os.Getuid(), SudoUser: request.SudoUser, PID: os.Getpid(),
		Command: request.Command, Reason: request.Reason,
	}
	if split != "" {
		marker.Splits = []string{split}
	}
	if account, err := user.LookupId(strconv.Itoa(marker.UID)); err == nil {
		marker.User = account.Username
	}
	// Only lines beside those of others: the disk may be full.
	return state.WriteForcedSpare(dir, marker)
}

// permitted asks for the capability, not for uid 0: root in a container may
// lack it, and who has it needs no root.
func permitted() error {
	if !netfilter.HasNetAdmin() {
		return errors.New("rewriting the kernel needs CAP_NET_ADMIN")
	}
	return nil
}
