package daemon

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"time"

	"github.com/splitd/splitd/configs"
	"github.com/splitd/splitd/netfilter"
	"github.com/splitd/splitd/state"
	"github.com/splitd/splitd/traffic"
)

// includeQuiet is how long a change waits for more: the file may be large.
const includeQuiet = 100 * time.Millisecond

// wakeInclude tells that what is in the kernel has changed.
func (d *Daemon) wakeInclude() {
	select {
	case d.include <- struct{}{}:
	default:
	}
}

// includePath is that of the file which nftables.conf may include. Tables that
// nobody else can flush are not in it: a load that names them fails.
func includePath(cfg configs.Config) string {
	return filepath.Join(filepath.Dir(cfg.Control.Socket), netfilter.IncludeFile)
}

// aboutOf is what the kernel's tables tell of the daemon, for who cannot ask it.
func aboutOf(cfg configs.Config) netfilter.About {
	return netfilter.About{StateDir: cfg.StateDir, Include: includePath(cfg)}
}

// keepInclude keeps the file as the kernel is, until ctx ends.
func (d *Daemon) keepInclude(ctx context.Context, kernel Kernel) error {
	path := includePath(d.options.Config)
	for {
		d.writeInclude(ctx, path, kernel.IncludeOpen)
		select {
		case <-ctx.Done():
			d.writeInclude(context.WithoutCancel(ctx), path, kernel.IncludeOpen) // what the last change has left to do
			return nil
		case <-d.include:
		case <-kernel.Moved():
		}
		select {
		case <-ctx.Done():
		case <-time.After(includeQuiet):
		}
	}
}

// leaveInclude leaves all our tables in the file, because they are anybody's to
// flush in a moment. Not earlier: flows of the relay may take hours to drain.
func (d *Daemon) leaveInclude(ctx context.Context) {
	if kernel := d.planes.inUse(); kernel != nil {
		d.writeInclude(ctx, includePath(d.options.Config), kernel.Include)
	}
}

// WriteInclude writes the file for a host on which no daemon runs: one that
// owned its tables and was killed has left them to be flushed, and the file
// empty. It changes nothing in the kernel, and returns a sentence for the log.
func WriteInclude(ctx context.Context, cfg configs.Config, log *slog.Logger) (string, error) {
	snapshot, err := state.ReadSnapshot(filepath.Join(cfg.StateDir, snapshotFile))
	if errors.Is(err, fs.ErrNotExist) {
		return "nothing to include: no splits and no return paths are known", nil
	}
	if err != nil {
		return "", err
	}
	forced, err := state.ReadForced(cfg.StateDir)
	if err != nil {
		log.Error("read marker of a forced off", "error", err)
	}
	path := includePath(cfg)
	if len(snapshot.Splits)+len(snapshot.ReturnPaths) == 0 { // nf_tables may not even be there
		return "nothing to include: the kernel carries no splits and no return paths", replaceFile(path, "")
	}
	kernel, err := netfilter.Open(netfilter.Options{Settings: settingsOf(snapshot, ""), About: aboutOf(cfg), Log: log})
	if err != nil {
		return "", err
	}
	defer func() { _ = kernel.Close() }() // it was only read
	if err := includeStanding(ctx, kernel, path, snapshot, forced); err != nil {
		return "", err
	}
	return fmt.Sprintf("wrote %q as the kernel is", path), nil
}

// standingKernel is what includeStanding asks.
type standingKernel interface {
	Read(ctx context.Context) (map[string]netfilter.SplitState, error)
	Include(ctx context.Context, splits []traffic.Split, paths []traffic.ReturnPath) (string, error)
}

// includeStanding writes the file with what of the snapshot stands in the
// kernel, as it stands there. An `off --force` may rewrite the kernel meanwhile:
// then all is written again, so that the file never brings back what it took.
func includeStanding(ctx context.Context, kernel standingKernel, path string, snapshot state.Snapshot, forced []state.Forced) error {
	standing, err := kernel.Read(ctx)
	for err == nil {
		if err = writeStanding(ctx, kernel, path, standing, snapshot, forced); err != nil {
			break
		}
		was := standing
		if standing, err = kernel.Read(ctx); err == nil && reflect.DeepEqual(was, standing) {
			return nil
		}
	}
	return fmt.Errorf("write %q: %w", path, err)
}

func writeStanding(ctx context.Context, kernel standingKernel, path string, standing map[string]netfilter.SplitState, snapshot state.Snapshot, forced []state.Forced) error {
	splits, err := restorable(snapshot, standing, forced)
	if err != nil {
		return err
	}
	splits = slices.DeleteFunc(splits, func(s traffic.Split) bool {
		_, stands := standing[s.Name]
		return !stands // what was flushed or cleaned up is not brought back
	})
	text, err := kernel.Include(ctx, splits, snapshot.ReturnPaths)
	if err != nil {
		return err
	}
	return replaceFile(path, text)
}

func (d *Daemon) writeInclude(ctx context.Context, path string, text func(context.Context, []traffic.Split, []traffic.ReturnPath) (string, error)) {
	v := d.view.Load()
	want, err := text(ctx, d.planes.forKernel(v.splits()), v.paths)
	if err == nil {
		err = replaceFile(path, want)
	}
	if err != nil && ctx.Err() == nil {
		d.log.Warn("keep the file that nftables.conf may include", "path", path, "error", err)
	}
}

// replaceFile puts the text there in one step, unless it is there already.
func replaceFile(path, text string) error {
	have, err := os.ReadFile(path)
	if err == nil && string(have) == text {
		return nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	temp := path + ".new"
	if err := os.WriteFile(temp, []byte(text), 0o644); err != nil {
		return err
	}
	return os.Rename(temp, path)
}
