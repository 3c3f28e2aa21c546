package daemon

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/splitd/splitd/configs"
	"github.com/splitd/splitd/control/client"
	"github.com/splitd/splitd/netfilter"
	"github.com/splitd/splitd/state"
	"github.com/splitd/splitd/traffic"
)

// Restore puts the last generation into the kernel from the snapshot in the
// state directory: at boot, before the network is up, without daemon and
// database. A kernel that already has that generation or a later one is left
// alone. No snapshot is no error: nothing was there to restore. It returns a
// sentence for the log.
func Restore(ctx context.Context, cfg configs.Config, log *slog.Logger, now func() time.Time) (string, error) {
	path := filepath.Join(cfg.StateDir, snapshotFile)
	snapshot, err := state.ReadSnapshot(path)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Sprintf("nothing to restore: there is no %q", path), nil
	}
	if err != nil {
		return "", err
	}
	forced, err := state.ReadForced(cfg.StateDir)
	if err != nil {
		log.Error("read marker of a forced off", "error", err)
	}
	kernel, err := netfilter.Open(netfilter.Options{
		Settings: settingsOf(snapshot), StateDir: cfg.StateDir, Log: log, Now: now,
	})
	if err != nil {
		return "", err
	}
	defer func() { _ = kernel.Close() }() // nothing is left to lose
	return restore(ctx, kernel, snapshot, forced, log)
}

func restore(ctx context.Context, kernel *netfilter.Kernel, snapshot state.Snapshot, forced []state.Forced, log *slog.Logger) (string, error) {
	standing, err := kernel.Read(ctx)
	if err != nil {
		return "", fmt.Errorf("read kernel state: %w", err)
	}
	splits := make([]traffic.Split, 0, len(snapshot.Splits))
	for _, split := range snapshot.Splits {
		if s, ok := standing[split.Name]; ok && s.Generation >= split.Generation {
			split.Generation = s.Generation
			if split, err = split.WithWeights(shared(s.Weights, split)); err != nil {
				return "", err
			}
		} else if _, off := covering(forced, split.Name); off {
			split.Candidates = zeroed(split.Candidates)
		}
		splits = append(splits, split)
	}
	_, err = kernel.Apply(ctx, splits, snapshot.ReturnPaths)
	if err != nil && len(snapshot.ReturnPaths) > 0 {
		// Before network-pre.target the devices of return paths may not be
		// there yet; the daemon puts those in place when it starts.
		log.Warn("restore return paths; the daemon will", "error", err)
		_, err = kernel.Apply(ctx, splits, nil)
	}
	if err != nil {
		return "", fmt.Errorf("restore kernel state: %w", err)
	}
	return fmt.Sprintf("restored %d splits as of %s", len(splits), snapshot.SavedAt.Format(time.RFC3339)), nil
}

// shared keeps the weights of those candidates that the split has.
func shared(weights map[string]traffic.Weight, split traffic.Split) map[string]traffic.Weight {
	kept := map[string]traffic.Weight{}
	for _, c := range split.Candidates {
		kept[c.Name] = weights[c.Name]
	}
	return kept
}

func zeroed(candidates []traffic.Backend) []traffic.Backend {
	zero := append([]traffic.Backend(nil), candidates...)
	for i := range zero {
		zero[i].Weight = 0
	}
	return zero
}

// Cleanup removes every trace of splitd from the kernel, and the snapshot that
// `splitd restore` would put back. It refuses while a daemon runs.
func Cleanup(ctx context.Context, cfg configs.Config, now bool) (netfilter.CleanupResult, error) {
	if pid, err := (&client.Client{Socket: cfg.Control.Socket}).PeerPID(ctx); err == nil {
		return netfilter.CleanupResult{}, fmt.Errorf("clean up: splitd is running (pid %d) and would put its rules back: stop it first (systemctl stop splitd)", pid)
	}
	result, err := netfilter.Cleanup(ctx, settingsInUse(cfg), now)
	if err != nil {
		return result, err
	}
	if err := os.Remove(filepath.Join(cfg.StateDir, snapshotFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return result, fmt.Errorf("remove snapshot, which `splitd restore` would put back at boot: %w", err)
	}
	return result, nil
}

// settingsInUse are the numbers that the newest state went into the kernel
// with; the configuration may be another by now, or gone.
func settingsInUse(cfg configs.Config) netfilter.Settings {
	snapshot, err := state.ReadSnapshot(filepath.Join(cfg.StateDir, snapshotFile))
	if err != nil {
		return netfilter.Settings(cfg.Netfilter)
	}
	return settingsOf(snapshot)
}

func settingsOf(s state.Snapshot) netfilter.Settings {
	return netfilter.Settings{MarkMask: s.MarkMask, RouteTable: s.RouteTable, RulePriority: s.RulePriority}
}
