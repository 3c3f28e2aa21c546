package splitter

import (
	"io"
	"net"
	"testing"
	"time"

	"github.com/splitd/splitd/internal/nettest"
	"github.com/splitd/splitd/traffic"
)

const idle = 300 * time.Millisecond

func idleAfter(timeout time.Duration) func(*traffic.Proxy) {
	return func(p *traffic.Proxy) { p.IdleTimeout = timeout }
}

func TestSilentFlowIsCutOffAfterTheIdleTimeout(t *testing.T) {
	for family, ip := range families() {
		for name, before := range map[string]func(pair) error{
			"never a byte":           func(pair) error { return nil },
			"after some bytes":       func(p pair) error { return talk(p.client, p.server) },
			"after the client's FIN": func(p pair) error { return p.client.CloseWrite() },
		} {
			t.Run(family+"/"+name, func(t *testing.T) {
				_, connect := startPairs(t, ip, idleAfter(idle))
				begin := time.Now()
				p := connect(t)
				if err := before(p); err != nil {
					t.Fatal(err)
				}
				if _, err := io.Copy(io.Discard, p.client); !isReset(err) {
					t.Errorf("client's end: %v, want a reset", err)
				}
				// The kernel's ticks blur both ends of the interval.
				if took := time.Since(begin); took < idle-2*idleGrain {
					t.Errorf("cut off after %v, idle timeout is %v", took, idle)
				}
				awaitReset(t, p.server)
			})
		}
	}
}

func TestBytesInOneDirectionKeepTheFlowOpen(t *testing.T) {
	_, connect := startPairs(t, families()["IPv4"], idleAfter(idle))
	p := connect(t)
	nettest.Eventually(t, "this machine sends a byte in time, ten times in a row", func() bool {
		slowest, err := drip(p.server, p.client, 10, idle/2)
		if err == nil {
			return true
		}
		if slowest < idle-2*idleGrain {
			t.Fatalf("a flow with a byte every %v was cut off: %v", slowest, err)
		}
		p = connect(t)
		return false
	})
	if _, err := io.ReadFull(p.client, make([]byte, 1)); !isReset(err) {
		t.Errorf("end of the silent flow: %v, want a reset", err)
	}
}

// drip sends so many bytes from one end to the other, one each time so much
// has passed. The flow was never silent for longer than slowest.
func drip(from, to net.Conn, bytes int, every time.Duration) (slowest time.Duration, err error) {
	var b [1]byte
	tick := time.NewTicker(every)
	defer tick.Stop()
	last := time.Now()
	for range bytes {
		<-tick.C
		begin := time.Now()
		_, err = from.Write(b[:])
		if err == nil {
			_, err = io.ReadFull(to, b[:])
		}
		slowest = max(slowest, time.Since(last))
		if err != nil {
			return slowest, err
		}
		last = begin
	}
	return slowest, nil
}

// What waits in our buffers for a client that takes nothing is no movement.
func TestClientThatTakesNothingIsIdle(t *testing.T) {
	_, connect := startPairs(t, families()["IPv4"], idleAfter(idle))
	p := connect(t)
	begin := time.Now()
	chunk := make([]byte, 256<<10)
	for {
		if _, err := p.server.Write(chunk); err != nil {
			if !isReset(err) {
				t.Errorf("server's end: %v, want a reset", err)
			}
			break
		}
	}
	if took := time.Since(begin); took < idle-2*idleGrain {
		t.Errorf("cut off after %v, idle timeout is %v", took, idle)
	}
}

func TestIdleTimeoutOfZeroIsNone(t *testing.T) {
	r, connect := startPairs(t, families()["IPv4"], idleAfter(0))
	p := connect(t)
	if err := talk(p.client, p.server); err != nil {
		t.Fatal(err)
	}
	r.inspect(func(w *worker) {
		w.flows.each(func(f *flow) {
			if f.times.idle != 0 {
				t.Error("the flow has a time to end at")
			}
		})
	})
}

func TestFlowAtRestHoldsTwoFilesAndNoPipe(t *testing.T) {
	r, connect := startPairs(t, families()["IPv4"], nil)
	forcePoolsEmpty()
	sockets, pipes := countFiles(t, "socket:"), countFiles(t, "pipe:")
	const flows = 20
	for range flows {
		p := connect(t)
		if err := talk(p.client, p.server); err != nil {
			t.Fatal(err)
		}
	}
	if got := r.numbers("old").Active; got != flows {
		t.Errorf("%d flows are open, want %d", got, flows)
	}
	nettest.Eventually(t, "no pipe is left", func() bool {
		forcePoolsEmpty()
		return countFiles(t, "pipe:") <= pipes
	})
	// Two of each flow are the test's own.
	if got := countFiles(t, "socket:") - sockets; got != 4*flows {
		t.Errorf("%d flows hold %d sockets, want %d", flows, got-2*flows, 2*flows)
	}
}
