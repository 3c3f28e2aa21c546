package daemon

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/splitd/splitd/configs"
	"github.com/splitd/splitd/control/client"
	"github.com/splitd/splitd/health"
	"github.com/splitd/splitd/netfilter"
	"github.com/splitd/splitd/state"
	"github.com/splitd/splitd/traffic"
)

// Restore puts the last generation into the kernel from the snapshot in the
// state directory: at boot, before the network is up, without daemon and
// database. A kernel that already has that generation or a later one is left
// alone. No snapshot is no error: nothing was there to restore. It does all it
// can and returns a sentence for the log, and an error for what it could not.
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
	settings := settingsOf(snapshot, cfg.Netfilter.Owner)
	kernel, err := netfilter.Open(netfilter.Options{
		Settings: settings, About: aboutOf(cfg), Log: log, Now: now,
	})
	if err != nil {
		return "", err
	}
	defer func() { _ = kernel.Close() }() // nothing is left to lose
	sentence, failed := restore(ctx, kernel, settings, snapshot, forced)
	if err := includeStanding(ctx, kernel, includePath(cfg), snapshot, forced); err != nil {
		log.Warn("write the file that nftables.conf may include", "error", err)
	}
	return sentence, failed
}

// settingsOf are those that the snapshot was applied with: the configuration
// may be another by now.
func settingsOf(snapshot state.Snapshot, owner string) netfilter.Settings {
	return netfilter.Settings{MarkMask: snapshot.MarkMask, RouteTable: snapshot.RouteTable, RulePriority: snapshot.RulePriority, Owner: owner}
}

func restore(ctx context.Context, kernel *netfilter.Kernel, settings netfilter.Settings, snapshot state.Snapshot, forced []state.Forced) (string, error) {
	standing, err := kernel.Read(ctx)
	if err != nil {
		return "", fmt.Errorf("read kernel state: %w", err)
	}
	splits, err := restorable(snapshot, standing, forced)
	if err != nil {
		return "", err
	}
	var troubles []error
	if _, err := (thisHost{settings: settings}).Preflight(splits, nil); err != nil {
		// A share sent to a host that cannot be reached would be lost; the
		// daemon raises again when the host can carry it.
		troubles = append(troubles, fmt.Errorf("every share is restored at 0%%: %w", err))
		for i := range splits {
			splits[i] = zeroed(splits[i])
		}
	}
	if _, err := kernel.Apply(ctx, splits, nil); err != nil {
		return "", fmt.Errorf("restore kernel state: %w", err)
	}
	paths, err := restorePaths(ctx, kernel, splits, snapshot.ReturnPaths)
	sentence := fmt.Sprintf("restored %d splits and %d return paths as of %s", len(splits), paths, snapshot.SavedAt.Format(time.RFC3339))
	return sentence, errors.Join(append(troubles, err)...)
}

// restorable are the splits of the snapshot, each as it stands in the kernel
// where that has it as new or newer, and off where it was forced off since.
func restorable(snapshot state.Snapshot, standing map[string]netfilter.SplitState, forced []state.Forced) ([]traffic.Split, error) {
	splits := make([]traffic.Split, 0, len(snapshot.Splits))
	for _, split := range snapshot.Splits {
		if s, ok := standing[split.Name]; ok && s.Generation >= split.Generation {
			var err error
			if split, err = asStanding(split, s); err != nil {
				return nil, err
			}
		} else if f, off := covering(forced, split.Name); off && !snapshot.SavedAt.After(f.Time) {
			split = zeroed(split)
		}
		splits = append(splits, split)
	}
	return splits, nil
}

// asStanding is the split with what the kernel does for it: nothing that an
// `off`, a drain or a health check has closed is opened again.
func asStanding(split traffic.Split, s netfilter.SplitState) (traffic.Split, error) {
	split.Generation, split.Sample = s.Generation, s.Sample
	if split.Affinity == traffic.AffinitySource && len(s.Slots) > 0 {
		split.Slots = s.Slots
	}
	split, err := split.WithWeights(shared(s.Weights, split))
	if err != nil {
		return split, err
	}
	for i, c := range split.Candidates {
		if _, stands := s.Weights[c.Name]; stands {
			split.Candidates[i].Closed = s.Forced || slices.Contains(s.Closed, c.Name)
		}
	}
	down := withdrawnBy(split, s)
	return health.Withdraw(split, func(key health.Key) bool { return down[key] }), nil
}

// restorePaths puts those return paths in place that the host takes, and says
// which it does not.
func restorePaths(ctx context.Context, kernel *netfilter.Kernel, splits []traffic.Split, paths []traffic.ReturnPath) (restored int, failed error) {
	var good []traffic.ReturnPath
	for _, path := range paths {
		if _, err := kernel.Apply(ctx, splits, append(slices.Clone(good), path)); err != nil {
			failed = errors.Join(failed, fmt.Errorf("restore return path %q: %w", path.Name, err))
			continue
		}
		good = append(good, path)
	}
	return len(good), failed
}

// shared keeps the weights of those candidates that the split has.
func shared(weights map[string]traffic.Weight, split traffic.Split) map[string]traffic.Weight {
	kept := map[string]traffic.Weight{}
	for _, c := range split.Candidates {
		kept[c.Name] = weights[c.Name]
	}
	return kept
}

// zeroed is the split as `off` leaves it.
func zeroed(split traffic.Split) traffic.Split {
	split.Candidates, split.Sample = slices.Clone(split.Candidates), 0
	for i := range split.Candidates {
		split.Candidates[i].Weight, split.Candidates[i].Closed = 0, true
	}
	return split
}

// Cleaned says what a Cleanup has done and left.
type Cleaned struct {
	netfilter.CleanupResult
	// Returning are the splits that the daemon's next start sends flows to
	// candidates of again, because the store remembers their weights.
	Returning []string
}

// Sentences tell the operator.
func (c Cleaned) Sentences() []string {
	var told []string
	if c.KeeperLeft {
		told = append(told, "nothing is split any more; a keeper table stays for the open flows of candidates")
	}
	if c.RelayLeft {
		told = append(told, "rules stay for what a transparent relay has sent last")
	}
	if c.ReturnsLeft {
		told = append(told, "return paths stay for open flows that came through a router")
	}
	if c.KeeperLeft || c.RelayLeft || c.ReturnsLeft {
		told = append(told, fmt.Sprintf("%d flows are open: run `splitd cleanup` again when they have ended, or `splitd cleanup --now` to end them", c.LiveFlows))
	} else {
		told = append(told, "nothing of splitd is left in the kernel")
	}
	if len(c.Returning) > 0 {
		told = append(told, "the next start of splitd takes up its weights again: "+strings.Join(c.Returning, ", "))
	}
	return told
}

// Cleanup removes every trace of splitd from the kernel, and what would bring
// it back: the snapshot of `splitd restore`, and the file that nftables.conf
// may include. It refuses while a daemon runs.
func Cleanup(ctx context.Context, cfg configs.Config, now bool) (Cleaned, error) {
	if pid, err := (&client.Client{Socket: cfg.Control.Socket}).PeerPID(ctx); err == nil {
		return Cleaned{}, fmt.Errorf("clean up: splitd is running (pid %d) and would put its rules back: stop it first (systemctl stop splitd)", pid)
	}
	path := filepath.Join(cfg.StateDir, snapshotFile)
	snapshot, unread := state.ReadSnapshot(path)
	settings := netfilter.Settings(cfg.Netfilter)
	if unread == nil {
		settings = settingsOf(snapshot, cfg.Netfilter.Owner)
	}
	includes := includesOf(cfg)
	result, err := netfilter.Cleanup(ctx, settings, now)
	cleaned := Cleaned{CleanupResult: result}
	if err != nil {
		return cleaned, err
	}
	forced, unknown := state.ReadForced(cfg.StateDir)
	cleaned.Returning = returning(snapshot, forced)
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return cleaned, fmt.Errorf("remove snapshot, which `splitd restore` would put back at boot: %w", err)
	}
	for _, include := range includes {
		if err := os.Remove(include); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return cleaned, fmt.Errorf("remove what nftables.conf may include: %w", err)
		}
	}
	return cleaned, unknown
}

// includesOf are the files that nftables.conf may include: where the
// configuration says, and where the daemon kept it whose tables still stand.
func includesOf(cfg configs.Config) []string {
	paths := []string{includePath(cfg)}
	if about, err := netfilter.ReadAbout(); err == nil && about.Include != "" && about.Include != paths[0] {
		paths = append(paths, about.Include)
	}
	return paths
}

// returning names the splits of the snapshot that get their weights back: not
// those that a forced off has taken to 0 since.
func returning(snapshot state.Snapshot, forced []state.Forced) []string {
	var names []string
	for _, s := range snapshot.Splits {
		if f, off := covering(forced, s.Name); off && !snapshot.SavedAt.After(f.Time) {
			continue
		}
		if w := s.CandidateWeight(); w > 0 {
			names = append(names, fmt.Sprintf("%s %s", s.Name, w))
		}
	}
	return names
}

// StateDirInKernel is the state_dir of the daemon whose table stands in the
// kernel, for who cannot read its configuration.
func StateDirInKernel() (string, error) {
	about, err := netfilter.ReadAbout()
	return about.StateDir, err
}
