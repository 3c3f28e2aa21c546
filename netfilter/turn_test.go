package netfilter

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/splitd/splitd/internal/nettest"
	"github.com/splitd/splitd/traffic"
)

func TestASecondSplitdIsRefusedInTheSameNetworkNamespace(t *testing.T) {
	lab := newSplitLab(t)
	s := localSplit(1, 50_000)
	lab.apply(s)
	options := Options{Settings: labSettings, Log: slog.New(slog.DiscardHandler)}
	another := fmt.Sprintf("another splitd (pid %d) programs this network namespace: stop it first", os.Getpid())
	lab.router.Do(func() error {
		_, err := Open(options)
		wantError(t, err, "open kernel plane: "+another)
		if !errors.Is(err, ErrAnotherSplitd) {
			t.Errorf("%v is not ErrAnotherSplitd", err)
		}
		_, err = Cleanup(t.Context(), labSettings, true)
		wantError(t, err, "clean up: "+another)
		return nil
	})
	if lines := lab.differences(s); len(lines) > 0 {
		t.Errorf("differences after the second one was refused: %q", lines)
	}
	nettest.New(t, "elsewhere").Do(func() error {
		k, err := Open(options)
		if err != nil {
			return err
		}
		return k.Close()
	})
	if done := lab.forceOff(""); len(done) != 1 {
		t.Errorf("off by force while the first one runs: %v", done)
	}
	for range 2 { // closed again is closed
		if err := lab.kernel.Close(); err != nil {
			t.Error(err)
		}
	}
	lab.router.Do(func() error {
		if _, err := Cleanup(t.Context(), labSettings, true); err != nil {
			return err
		}
		k, err := Open(options)
		if err != nil {
			return err
		}
		_, err = k.Apply(t.Context(), []traffic.Split{s}, nil)
		return errors.Join(err, k.Close())
	})
}

func TestOnlyWhoMayProgramTheKernelKeepsOthersAway(t *testing.T) {
	for _, tc := range []struct {
		holder unix.Ucred
		uid    int
		want   string
	}{
		{unix.Ucred{Pid: 7, Uid: 0}, 0, "another splitd (pid 7) programs this network namespace: stop it first"},
		{unix.Ucred{Pid: 7, Uid: 0}, 1000, "another splitd (pid 7) programs this network namespace: stop it first"},
		{unix.Ucred{Pid: 7, Uid: 1000}, 1000, "another splitd (pid 7) programs this network namespace: stop it first"},
		{unix.Ucred{Pid: 0, Uid: 0}, 0, "another splitd (of another pid namespace) programs this network namespace: stop it first"},
		{unix.Ucred{Pid: 7, Uid: 1000}, 0, "<nil>"},
		{unix.Ucred{Pid: 7, Uid: 65534}, 0, "<nil>"},
	} {
		if got := fmt.Sprint(rival(&tc.holder, tc.uid)); got != tc.want {
			t.Errorf("holder %+v, own user %d: %s, want %s", tc.holder, tc.uid, got, tc.want)
		}
	}
}

// However often the name is asked for, its holder goes on to be told.
func TestTheHolderOfTheNameIsToldEveryTime(t *testing.T) {
	nettest.New(t, "router").Do(func() error {
		first, err := takeTurn()
		if err != nil {
			return err
		}
		defer first.end()
		for range 5000 { // more than a queue holds
			if _, err := takeTurn(); err == nil || !strings.Contains(err.Error(), fmt.Sprintf("pid %d", os.Getpid())) {
				return fmt.Errorf("refused with: %w", err)
			}
		}
		return nil
	})
}

func TestASquatterOfTheNameDoesNotKeepSplitdFromItsWork(t *testing.T) {
	nettest.New(t, "router").Do(func() error {
		squatter, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer func() { _ = unix.Close(squatter) }()
		if err := unix.Bind(squatter, &unix.SockaddrUnix{Name: turnName}); err != nil { // it will never listen
			return err
		}
		var text bytes.Buffer
		k, err := Open(Options{Settings: labSettings, Log: slog.New(slog.NewTextHandler(&text, nil))})
		if err != nil {
			return err
		}
		if !strings.Contains(text.String(), turnName) {
			t.Errorf("log: %q, want a warning", &text)
		}
		_, err = k.Apply(t.Context(), []traffic.Split{localSplit(1, 1)}, nil)
		return errors.Join(err, k.Close())
	})
}
