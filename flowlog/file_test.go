package flowlog_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/splitd/splitd/flowlog"
	"github.com/splitd/splitd/traffic"
)

// smallDisk is a disk in memory with two pages of room.
func smallDisk(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=8k"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Unmount(dir, syscall.MNT_DETACH) })
	return dir
}

// A line for which there was no room is cut at the end of a page. The lines
// before and after it are whole.
func TestALineThatWasCutByAFullDiskSpoilsNoOtherLine(t *testing.T) {
	for name, again := range map[string]func(*flowlog.File, string) *flowlog.File{
		"of the same file": func(f *flowlog.File, _ string) *flowlog.File { return f },
		"of a file that is opened again": func(f *flowlog.File, _ string) *flowlog.File {
			if err := f.Reopen(); err != nil {
				t.Fatal(err)
			}
			return f
		},
		"of a daemon that was started again": func(f *flowlog.File, path string) *flowlog.File {
			_ = f.Close()
			f, err := flowlog.OpenFile(path)
			if err != nil {
				t.Fatal(err)
			}
			return f
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := smallDisk(t)
			ballast, path := filepath.Join(dir, "ballast"), filepath.Join(dir, "flows.jsonl")
			if err := os.WriteFile(ballast, make([]byte, 4096), 0o600); err != nil {
				t.Fatal(err)
			}
			file, err := flowlog.OpenFile(path)
			if err != nil {
				t.Fatal(err)
			}
			line, err := json.Marshal(record(flowlog.EventNew))
			if err != nil {
				t.Fatal(err)
			}
			written := 0
			for ; err == nil; written++ {
				err = file.Write(append(line, '\n'))
			}
			written--
			if !errors.Is(err, syscall.ENOSPC) {
				t.Fatal(err)
			}
			if err := os.Remove(ballast); err != nil {
				t.Fatal(err)
			}
			file = again(file, path)
			for range 2 {
				if err := file.Write(append(line, '\n')); err != nil {
					t.Fatal(err)
				}
			}
			_ = file.Close()
			text, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			whole, cut := 0, 0
			for l := range bytes.Lines(text) {
				switch {
				case bytes.Equal(bytes.TrimSuffix(l, []byte("\n")), line):
					whole++
				default:
					cut++
				}
			}
			if whole != written+2 || cut != 1 {
				t.Errorf("%d whole lines and %d cut ones, want %d and 1:\n%s", whole, cut, written+2, text)
			}
		})
	}
}

// stopped hangs in a write as a disk does that is gone.
type stopped struct{ began, end chan struct{} }

func (s stopped) Write([]byte) error {
	select {
	case s.began <- struct{}{}:
	default:
	}
	<-s.end
	return nil
}
func (stopped) Reopen() error { return nil }
func (stopped) Close() error  { return nil }

func TestADiskThatHangsDoesNotHoldUpTheEnd(t *testing.T) {
	sink := stopped{make(chan struct{}, 1), make(chan struct{})}
	defer close(sink.end)
	var said bytes.Buffer
	l := flowlog.New(sink, traffic.Whole, slog.New(slog.NewTextHandler(&said, nil)))
	run(t, l, func() {
		for range 3 {
			l.Tell(record(flowlog.EventNew))
		}
		<-sink.began
	})
	if !bytes.Contains(said.Bytes(), []byte("the disk does not answer")) {
		t.Errorf("it says %q", said.String())
	}
}
