package splitter

import (
	"io"
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
				p := connect(t)
				if err := before(p); err != nil {
					t.Fatal(err)
				}
				silent := time.Now()
				if _, err := io.Copy(io.Discard, p.client); !isReset(err) {
					t.Errorf("client's end: %v, want a reset", err)
				}
				// The kernel's ticks blur both ends of the interval.
				if took := time.Since(silent); took < idle-2*idleGrain || took > 3*idle {
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
	var b [1]byte
	tick := time.NewTicker(idle / 2)
	defer tick.Stop()
	for range 10 {
		<-tick.C
		if _, err := p.server.Write(b[:]); err != nil {
			t.Fatalf("write: %v", err)
		}
		if _, err := io.ReadFull(p.client, b[:]); err != nil {
			t.Fatalf("flow with a byte every %v was cut off: %v", idle/2, err)
		}
	}
	if _, err := io.ReadFull(p.client, b[:]); !isReset(err) {
		t.Errorf("end of the silent flow: %v, want a reset", err)
	}
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
	if took := time.Since(begin); took < idle-2*idleGrain || took > 5*time.Second {
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
