package daemon

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/splitd/splitd/internal/nettest"
)

// A reload that loaded the old address would lose what comes in from the router.
func TestTheFileToIncludeFollowsARouterThatMoved(t *testing.T) {
	w := newWorld(t, mx(0))
	w.kernel.moved = make(chan struct{})
	d := w.mustBoot()
	d.options.Config.Control.Socket = filepath.Join(t.TempDir(), "splitd.sock")
	path := includePath(d.options.Config)
	ctx, end := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- d.keepInclude(ctx, w.kernel) }()
	defer func() {
		end()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()
	written := func() bool { _, err := os.Stat(path); return err == nil }
	nettest.Eventually(t, "the file is there", written)
	for range 2 { // the first may come before the wake of the start is through
		w.kernel.moved <- struct{}{}
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	w.kernel.moved <- struct{}{}
	nettest.Eventually(t, "the file is written again", written)
}
