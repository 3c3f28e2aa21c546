package daemon

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// includeFile stands beside the control socket. A host whose nftables.conf has
// the line `include "/run/splitd/*.nft"` loads our tables in the transaction
// that flushes all others, and no open flow notices. While nobody else can
// flush them it is empty, so that such a load cannot fail.
const includeFile = "include.nft"

// includeQuiet is how long a change waits for more: the file may be large.
const includeQuiet = 100 * time.Millisecond

// wakeInclude tells that what is in the kernel has changed.
func (d *Daemon) wakeInclude() {
	select {
	case d.include <- struct{}{}:
	default:
	}
}

// keepInclude keeps the file as the kernel is, until ctx ends. Then our tables
// are anybody's to flush, so it leaves them there.
func (d *Daemon) keepInclude(ctx context.Context, kernel Kernel) error {
	path := filepath.Join(filepath.Dir(d.options.Config.Control.Socket), includeFile)
	for {
		d.writeInclude(ctx, path, func(ctx context.Context) (string, error) {
			owned, err := kernel.Owned()
			if err != nil || owned {
				return "", err
			}
			return d.includeText(ctx, kernel)
		})
		select {
		case <-ctx.Done():
			d.writeInclude(context.WithoutCancel(ctx), path, func(ctx context.Context) (string, error) { return d.includeText(ctx, kernel) })
			return nil
		case <-d.include:
		}
		select {
		case <-ctx.Done():
		case <-time.After(includeQuiet):
		}
	}
}

func (d *Daemon) includeText(ctx context.Context, kernel Kernel) (string, error) {
	v := d.view.Load()
	inKernel, _ := d.planes.byMode(v.splits())
	return kernel.Include(ctx, inKernel, v.paths)
}

func (d *Daemon) writeInclude(ctx context.Context, path string, text func(context.Context) (string, error)) {
	want, err := text(ctx)
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
	temp := path + ".new"
	if err := os.WriteFile(temp, []byte(text), 0o644); err != nil {
		return err
	}
	return os.Rename(temp, path)
}
