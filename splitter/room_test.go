package splitter

import (
	"bytes"
	"io"
	"math"
	"net"
	"net/netip"
	"testing"

	"github.com/splitd/splitd/internal/nettest"
)

// keptNow is what a worker's flows hold that their sinks have not taken, and how many of
// them hold some.
func (w *worker) keptNow() (sum, flows int) {
	w.flows.each(func(f *flow) {
		n := cap(f.rests[client].bytes) + cap(f.rests[backend].bytes)
		sum += n
		if n > 0 {
			flows++
		}
	})
	return sum, flows
}

// However many read nothing of a large answer, nor of their own large question: what
// the relay has read for them is memory of its own, that no limit of the kernel's bounds.
func TestWhatIsKeptForSlowReadersIsBoundedForAllOfThem(t *testing.T) {
	const flows, most = 60, 512 << 10
	ip := families()["IPv4"]
	service, beside := netip.AddrPortFrom(ip, freePort()), netip.AddrPortFrom(ip, freePort())
	chunk := bytes.Repeat([]byte("without end "), 10_000)
	endless := func(c *net.TCPConn) {
		for {
			if _, err := c.Write(chunk); err != nil {
				abortConn(c)
				return
			}
		}
	}
	small := func(c *net.TCPConn) {
		_ = c.SetReadBuffer(4 << 10)
		_ = c.SetWriteBuffer(16 << 10)
	}
	server := startServer(t, ip, func(c *net.TCPConn) {
		small(c)
		endless(c)
	})
	split := newSplit("mx", service, server, nil)
	split.Proxy.NoSplice = true
	other := newSplit("beside", beside, startServer(t, ip, echo), nil)
	r := startRelay(t, Options{Workers: 1}, split, other)
	r.inspect(func(w *worker) { w.keptMost = most })
	for range flows {
		c := dial(t, service)
		small(c)
		go endless(c)
	}
	sum, counted, holding := 0, 0, 0
	nettest.Eventually(t, "all of them hold something", func() bool {
		r.inspect(func(w *worker) {
			sum, holding = w.keptNow()
			counted = w.kept
		})
		return holding == flows
	}, func() any { return holding })
	if sum != counted {
		t.Errorf("%d bytes are kept, and %d counted", sum, counted)
	}
	if bound := most + bufferSize + flows*2*bufferLeast; sum > bound {
		t.Errorf("%d flows hold %d KiB, want %d at most", flows, sum>>10, bound>>10)
	}

	c, data := dial(t, beside), randomBytes(3, 4<<20)
	go func() {
		_, _ = c.Write(data)
		_ = c.CloseWrite()
	}()
	if got, err := io.ReadAll(c); err != nil || !bytes.Equal(got, data) {
		t.Errorf("one that reads got %d bytes, %v, want %d", len(got), err, len(data))
	}
	r.End(r.OpenFlows(ofOld))
	nettest.Eventually(t, "nothing is kept of flows that have ended", func() bool {
		left := r.openFlows()
		r.inspect(func(w *worker) { left += w.kept })
		return left == 0
	})
}

func TestWhatIsReadAtOnceBecomesLessTheMoreIsKept(t *testing.T) {
	w := &worker{keptMost: 1000}
	for kept, want := range map[int]int{0: bufferSize, 499: bufferSize, 500: bufferScarce, 999: bufferScarce, 1000: bufferLeast, 1 << 30: bufferLeast} {
		if w.kept = kept; w.room() != want {
			t.Errorf("with %d of 1000 bytes kept %d are read at once, want %d", kept, w.room(), want)
		}
	}
	for _, test := range []struct {
		memory  uint64
		workers int
		want    int
	}{{1 << 30, 1, 64 << 20}, {1 << 30, 4, 16 << 20}, {0, 1, 0}, {math.MaxUint64, 1, math.MaxInt64 >> 3}} {
		if got := keptIn(test.memory, test.workers); got != test.want {
			t.Errorf("of %d bytes each of %d workers keeps %d, want %d", test.memory, test.workers, got, test.want)
		}
	}
}
