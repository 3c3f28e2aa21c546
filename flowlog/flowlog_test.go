package flowlog_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/splitd/splitd/flowlog"
	"github.com/splitd/splitd/internal/nettest"
	"github.com/splitd/splitd/traffic"
)

func record(event string) flowlog.Record {
	return flowlog.Record{
		Time: time.Date(2026, 11, 20, 14, 0, 0, 0, time.UTC), Event: event, Split: "mx", Generation: 3, Backend: "new", Transport: traffic.TCP,
		Client: netip.MustParseAddrPort("203.0.113.7:40000"), Service: netip.MustParseAddrPort("192.0.2.25:25"), Server: netip.MustParseAddrPort("10.0.0.12:25"),
	}
}

// run writes records to a file and returns when all are there.
func run(t *testing.T, l *flowlog.Log, tell func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- l.Run(ctx) }()
	tell()
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

func TestEachLineIsAJSONObjectOfItsOwn(t *testing.T) {
	path := filepath.Join(t.TempDir(), "logs", "flows.jsonl")
	file, err := flowlog.OpenFile(path)
	if err != nil {
		t.Fatal(err)
	}
	end := record(flowlog.EventEnd)
	end.End, end.Seconds, end.BytesIn, end.BytesOut = "reset", new(1.5), new(uint64(100)), new(uint64(200))
	l := flowlog.New(file, traffic.Whole, slog.New(slog.DiscardHandler))
	run(t, l, func() { l.Tell(record(flowlog.EventNew)); l.Tell(end) })
	got, err := os.ReadFile(path)
	want := `{"time":"2026-11-20T14:00:00Z","event":"new","split":"mx","generation":3,"backend":"new","transport":"tcp","client":"203.0.113.7:40000","service":"192.0.2.25:25","server":"10.0.0.12:25"}
{"time":"2026-11-20T14:00:00Z","event":"end","split":"mx","generation":3,"backend":"new","transport":"tcp","client":"203.0.113.7:40000","service":"192.0.2.25:25","server":"10.0.0.12:25","end":"reset","seconds":1.5,"bytes_in":100,"bytes_out":200}
`
	if err != nil || string(got) != want {
		t.Errorf("%v\n%s\nwant\n%s", err, got, want)
	}
}

func TestARenamedFileIsFollowedByANewOne(t *testing.T) {
	for name, again := range map[string]func(*flowlog.File) error{
		"at once when asked": (*flowlog.File).Reopen, "by itself": func(*flowlog.File) error { return nil },
	} {
		path := filepath.Join(t.TempDir(), "flows.jsonl")
		file, err := flowlog.OpenFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(file.Write([]byte("before\n")), os.Rename(path, path+".1"), again(file)); err != nil {
			t.Fatal(err)
		}
		nettest.Eventually(t, name+" there is a new file", func() bool {
			if err := file.Write([]byte("after\n")); err != nil {
				t.Fatal(err)
			}
			text, err := os.ReadFile(path)
			return err == nil && string(text) == "after\n"
		})
		_ = file.Close()
	}
}

// stuck never returns from a write until it may.
type stuck struct{ may chan struct{} }

func (s stuck) Write([]byte) error { <-s.may; return errors.New("no space left on device") }
func (stuck) Reopen() error        { return nil }
func (stuck) Close() error         { return nil }

func TestASlowDiskDropsLinesAndHoldsNobodyUp(t *testing.T) {
	sink := stuck{make(chan struct{})}
	var said bytes.Buffer
	l := flowlog.New(sink, traffic.Whole, slog.New(slog.NewTextHandler(&said, nil)))
	run(t, l, func() {
		for range 20_000 {
			l.Tell(record(flowlog.EventNew))
		}
		if l.Dropped() < 10_000 {
			t.Errorf("%d lines are dropped, want 10,000 or more", l.Dropped())
		}
		close(sink.may)
	})
	if l.Dropped() != 20_000 || !strings.Contains(said.String(), "flow log lacks lines") {
		t.Errorf("%d lines are missing, and it says %q", l.Dropped(), said.String())
	}
}

func TestASampleIsAShareOfTheClientsFlows(t *testing.T) {
	for _, share := range []traffic.Weight{0, 10_000, 500_000, traffic.Whole} {
		taken := 0
		for i := range 100_000 {
			client := netip.AddrPortFrom(netip.AddrFrom4([4]byte{198, 18, byte(i >> 8), byte(i)}), uint16(1024+i%40_000))
			if flowlog.Sampled(client, share) {
				taken++
			}
		}
		if want := int(share) / 10; taken < want*9/10 || taken > want*11/10 {
			t.Errorf("%s of 100,000 are %d, want %d or so", share, taken, want)
		}
	}
}
