package runner

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/splitd/splitd/internal/nettest"
	"github.com/splitd/splitd/shadow"
)

// once is a driver whose session is over with the candidate's first byte, and that
// sends all that the client says before.
type once struct{ over bool }

func (o *once) Hear(e shadow.Event) shadow.Moves {
	m := shadow.Moves{Done: o.over}
	switch {
	case o.over:
	case e.From == shadow.Client:
		m.Send = bytes.Clone(e.Bytes)
	case e.From == shadow.Candidate && len(e.Bytes) > 0:
		o.over, m.Done, m.FIN = true, true, true
		m.Exchanges = []shadow.Exchange{{Endpoint: "once", Verdict: shadow.Opaque, Reason: "it is over"}}
	}
	return m
}

func (o *once) Held() int { return 0 }

func (o *once) Stop(why shadow.Verdict, reason string) []shadow.Exchange {
	if o.over {
		return nil
	}
	return []shadow.Exchange{{Endpoint: "once", Verdict: why, Reason: reason}}
}

// greets says a word and reads nothing.
func greets(ctx context.Context, _ Flow) (net.Conn, error) {
	ours, theirs := net.Pipe()
	go func() {
		_, _ = io.WriteString(theirs, "hello\n")
		<-ctx.Done()
		_ = theirs.Close()
	}()
	return ours, nil
}

// A relay says how a flow ends long after its shadow may have: what is charged then
// would never be given back, until nothing is left of the budget.
func TestAFlowThatOutlivesItsShadowLeavesNothingCharged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var sink told
		r := start(t, &sink, func(o *Options) {
			o.Driver = func(shadow.Session) shadow.Driver { return &once{} }
			o.Dial = greets
		})
		for range 10 {
			tap := r.Open(Flow{})
			synctest.Wait()
			tap.End(shadow.Reset, time.Now())
		}
		synctest.Wait()
		if used := r.options.Budget.Used(); used != 0 {
			t.Errorf("%d bytes are charged to flows that are over", used)
		}
	})
}

// The same, with relays that go on at the very moment at which shadows end.
func TestABudgetIsWholeAgainWhateverEndsWhen(t *testing.T) {
	var sink told
	budget := NewBudget(256 << 10)
	r := start(t, &sink, func(o *Options) {
		o.Driver = func(shadow.Session) shadow.Driver { return &once{} }
		o.Dial, o.Budget, o.FlowBudget = greets, budget, 8<<10
	})
	var relays sync.WaitGroup
	for range 4 {
		relays.Go(func() {
			chunk := make([]byte, 700)
			for range 500 {
				tap := r.Open(Flow{})
				for range 20 {
					if tap == nil || !tap.Take(shadow.Client, chunk, false, time.Now()) {
						tap = nil
						break
					}
					runtime.Gosched()
				}
				if tap != nil {
					tap.End(shadow.Closed, time.Now())
				}
			}
		})
	}
	relays.Wait()
	r.Close()
	if used := budget.Used(); used != 0 {
		t.Errorf("%d bytes are charged, and no flow is left", used)
	}
	if n := uint64(len(sink.all())); n == 0 || n > 2000 {
		t.Errorf("%d exchanges of 2000 flows", n)
	}
}

// A relay holds the tap of an idle flow for as long as that lasts: what its shadow
// held is to be free when the budget says so.
func TestWhatADroppedShadowHeldIsFreeThoughTheRelayHoldsItsTap(t *testing.T) {
	var sink told
	r := start(t, &sink, func(o *Options) {
		o.Dial, o.FlowBudget, o.Budget = hangs, 2<<20, NewBudget(1<<30)
	})
	const flows = 50
	var taps []*Tap
	chunk := make([]byte, 64<<10)
	before := heap()
	for range flows {
		taps = append(taps, r.Open(Flow{}))
	}
	for _, tap := range taps {
		for tap.Take(shadow.Client, chunk, false, time.Now()) {
		}
	}
	nettest.Eventually(t, "all shadows are over", func() bool { return r.Counts().Open == 0 })
	if grown := heap() - before; grown > 8<<20 {
		t.Errorf("%d shadows that were dropped hold %d KiB", flows, grown>>10)
	}
	runtime.KeepAlive(taps)
}

// A connection costs memory though nothing is said in it: of idle flows no more run than
// the budget has room for, also where nothing else bounds them, and the others connect to
// nobody.
func TestIdleShadowsAreBoundedByTheBudget(t *testing.T) {
	const most, flows = 1 << 20, 1000
	for name, learns := range map[string]bool{"played": false, "played to the control too": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var sink told
				var dialled atomic.Int64
				budget := NewBudget(most)
				r := start(t, &sink, func(o *Options) {
					o.Dial = func(ctx context.Context, of Flow) (net.Conn, error) {
						dialled.Add(1)
						return hangs(ctx, of)
					}
					o.Control, o.Learns = o.Dial, func() bool { return learns }
					o.Budget, o.Flows = budget, 0
				})
				for range flows {
					r.Open(Flow{})
					synctest.Wait()
				}
				open := r.Counts().Open
				if used := budget.Used(); open == 0 || used != dialled.Load()*connection || used > most || learns == (dialled.Load() == open) {
					t.Errorf("%d shadows run, with %d connections, and hold %d bytes of %d", open, dialled.Load(), used, most)
				}
				dropped := sink.all()
				if int64(len(dropped)) != flows-open {
					t.Errorf("%d of %d run, and %d are told to be dropped", open, flows, len(dropped))
				}
				for _, line := range dropped {
					if line != ": dropped, over shadow.budget" {
						t.Fatalf("told %q", line)
					}
				}
				r.Close()
				if used := budget.Used(); used != 0 {
					t.Errorf("%d bytes are charged, and no flow is left", used)
				}
			})
		})
	}
}

// heap is how many bytes are in use.
func heap() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// A candidate that takes nothing leaves what is to be sent to it with us: that
// counts until it is gone.
func TestWhatACandidateDoesNotTakeIsChargedUntilItIsGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var sink told
		speak := make(chan struct{})
		r := start(t, &sink, func(o *Options) {
			o.Driver = func(shadow.Session) shadow.Driver { return &once{} }
			o.Dial = func(ctx context.Context, of Flow) (net.Conn, error) {
				<-speak
				return greets(ctx, of)
			}
		})
		tap := r.Open(Flow{})
		tap.Take(shadow.Client, make([]byte, 40<<10), false, time.Now())
		close(speak)
		synctest.Wait()
		if got := sink.all(); len(got) != 1 {
			t.Fatalf("told %q", got)
		}
		if used := r.options.Budget.Used(); used < 40<<10 || r.Counts().Open != 1 {
			t.Errorf("%d bytes are charged, and 40960 are held: %+v", used, r.Counts())
		}
		time.Sleep(r.options.Patience)
		synctest.Wait()
		if used := r.options.Budget.Used(); used != 0 || r.Counts().Open != 0 {
			t.Errorf("%d bytes are charged behind its patience: %+v", used, r.Counts())
		}
	})
}

// Over its budget a flow tells as much, and a sink that panics costs no more than
// its flow.
func TestAPanicOfTheSinkEndsNoProcess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, panics{}, same)
		says(r.Open(Flow{}), "one", "old one")
		synctest.Wait()
		if c := r.Counts(); c.Open != 0 || c.Panicked == 0 || r.options.Budget.Used() != 0 {
			t.Errorf("afterwards: %+v, %d bytes", c, r.options.Budget.Used())
		}
	})
}

type panics struct{}

func (panics) Exchanged([]shadow.Exchange, bool) { panic(fmt.Errorf("as a sink may")) }
