package runner

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/splitd/splitd/internal/nettest"
	"github.com/splitd/splitd/shadow"
)

// lines is a driver of a protocol of lines: a line of the client is a request, one
// of a server the reply to it, and the candidate gets the next request when it has
// answered the last.
type lines struct {
	parts             [3][]byte // of lines, by party
	asked, sent       []string
	primary, replies  []string
	told              int
	panics, redials   string // the request that has it panic, or dial anew
	candidateIsNoMore bool
	secures           *shadow.Handshake // of the primary, until the candidate's is begun
	securing          *shadow.Handshake // since then
	clear             int               // how many requests go before it
}

func (l *lines) Hear(e shadow.Event) (m shadow.Moves) {
	switch {
	case e.TLS != nil && e.From == shadow.Primary:
		l.secures, l.clear = e.TLS, len(l.asked)
	case e.TLS != nil:
		m.Exchanges = []shadow.Exchange{shadow.Secured(*l.securing, *e.TLS, e.At)}
		l.securing = nil
	case e.Opaque != "":
		m.Exchanges = []shadow.Exchange{{Verdict: shadow.Opaque, Reason: e.Opaque}}
	}
	l.parts[e.From] = append(l.parts[e.From], e.Bytes...)
	for {
		line, rest, found := bytes.Cut(l.parts[e.From], []byte("\n"))
		if !found {
			break
		}
		l.parts[e.From] = rest
		switch e.From {
		case shadow.Client:
			l.asked = append(l.asked, string(line))
		case shadow.Primary:
			l.primary = append(l.primary, string(line))
		case shadow.Candidate:
			l.replies = append(l.replies, string(line))
		}
	}
	if e.From == shadow.Candidate && e.End != shadow.Open {
		l.candidateIsNoMore = true
		m.Exchanges = l.Stop(shadow.CandidateError, string(e.End))
		m.Done = true
		return m
	}
	for l.told < len(l.primary) && l.told < len(l.replies) {
		m.Exchanges = append(m.Exchanges, shadow.Exchange{
			Endpoint:  l.asked[l.told],
			Primary:   shadow.Reply{Fields: []shadow.Field{{Path: "line", Value: l.primary[l.told]}}},
			Candidate: shadow.Reply{Fields: []shadow.Field{{Path: "line", Value: l.replies[l.told]}}},
		})
		l.told++
	}
	if l.secures != nil && len(l.replies) == l.clear {
		m.Secure, l.secures, l.securing = l.secures, nil, l.secures
	}
	if l.securing == nil && (l.secures == nil || len(l.sent) < l.clear) && len(l.sent) < len(l.asked) && len(l.replies) == len(l.sent) {
		next := l.asked[len(l.sent)]
		if next == l.panics {
			panic("as it was asked to")
		}
		m.Redial = next == l.redials
		l.sent = append(l.sent, next)
		m.Send = []byte(next + "\n")
	}
	m.Owed = len(l.replies) < len(l.sent)
	m.Done = e.From == shadow.Client && e.End != shadow.Open && l.told == len(l.asked)
	return m
}

func (l *lines) Held() int {
	held := len(l.parts[shadow.Client])
	for i, line := range l.asked {
		if i >= len(l.replies) {
			held += len(line)
		}
	}
	return held
}

func (l *lines) Stop(why shadow.Verdict, reason string) []shadow.Exchange {
	var left []shadow.Exchange
	for ; l.told < len(l.asked); l.told++ {
		left = append(left, shadow.Exchange{Endpoint: l.asked[l.told], Verdict: why, Reason: reason})
	}
	if len(left) == 0 && len(l.asked) == 0 {
		left = append(left, shadow.Exchange{Verdict: why, Reason: reason})
	}
	return left
}

// told is a sink that remembers.
type told struct {
	mu    sync.Mutex
	lines []string
}

func (s *told) Exchanged(exchanges []shadow.Exchange, control bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range exchanges {
		line := e.Endpoint + ": "
		if control {
			line = "control " + line
		}
		if e.Verdict != "" {
			line += fmt.Sprintf("%s, %s", e.Verdict, e.Reason)
		} else {
			line += e.Primary.Fields[0].Value + " " + e.Candidate.Fields[0].Value
		}
		s.lines = append(s.lines, line)
	}
}

func (s *told) all() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string(nil), s.lines...)
}

// candidate makes a Dial to a server of this test.
func candidate(serve func(net.Conn)) func(context.Context, Flow) (net.Conn, error) {
	return func(context.Context, Flow) (net.Conn, error) {
		ours, theirs := net.Pipe()
		go func() {
			serve(theirs)
			_ = theirs.Close()
		}()
		return ours, nil
	}
}

// answers replies to each line with a word before it.
func answers(word string) func(net.Conn) {
	return func(c net.Conn) {
		from := bufio.NewScanner(c)
		for from.Scan() {
			if _, err := io.WriteString(c, word+from.Text()+"\n"); err != nil {
				return
			}
		}
	}
}

// hangs reads nothing and says nothing until the other side goes.
func hangs(context.Context, Flow) (net.Conn, error) {
	ours, _ := net.Pipe()
	return ours, nil
}

func refuses(context.Context, Flow) (net.Conn, error) { return nil, errors.New("connection refused") }

func start(t *testing.T, sink Sink, change func(*Options)) *Runner {
	t.Helper()
	o := Options{
		Driver: func(shadow.Session) shadow.Driver { return &lines{} },
		Dial:   candidate(answers("new ")), Sink: sink,
		Budget: NewBudget(1 << 20), FlowBudget: 64 << 10, Keep: 4 << 10, Patience: 5 * time.Second,
	}
	change(&o)
	r := New(o)
	t.Cleanup(r.Close)
	return r
}

func same(*Options) {}

// says has both sides of a flow say a line each; it returns what Take said last.
func says(tap *Tap, request, reply string) bool {
	return tap.Take(shadow.Client, []byte(request+"\n"), false, time.Now()) && tap.Take(shadow.Primary, []byte(reply+"\n"), false, time.Now())
}

func want(t *testing.T, s *told, lines ...string) {
	t.Helper()
	if diff := cmp.Diff(lines, s.all()); diff != "" {
		t.Errorf("exchanges (-want +got):\n%s", diff)
	}
}

func TestTheCandidateIsAskedWhatTheClientAskedAndEachExchangeIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var sink told
		r := start(t, &sink, same)
		tap := r.Open(Flow{})
		for _, word := range []string{"one", "two", "three"} {
			if !says(tap, word, "old "+word) {
				t.Fatal("a chunk was refused")
			}
		}
		tap.End(shadow.Closed, time.Now())
		synctest.Wait()
		want(t, &sink, "one: old one new one", "two: old two new two", "three: old three new three")
		if c := r.Counts(); c != (Counts{}) || r.options.Budget.Used() != 0 {
			t.Errorf("afterwards: %+v, %d bytes", c, r.options.Budget.Used())
		}
		if tap.Take(shadow.Client, nil, false, time.Now()) {
			t.Error("a shadow that is over takes another chunk")
		}
	})
}

func TestAFlowThatLearnsIsPlayedToTheControlToo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var sink told
		r := start(t, &sink, func(o *Options) {
			o.Control, o.Learns = candidate(answers("again ")), func() bool { return true }
		})
		tap := r.Open(Flow{})
		says(tap, "one", "old one")
		tap.End(shadow.Closed, time.Now())
		synctest.Wait()
		got := strings.Join(sink.all(), "; ")
		if len(sink.all()) != 2 || !strings.Contains(got, "control one: old one again one") || !strings.Contains(got, "one: old one new one") {
			t.Errorf("exchanges %q", got)
		}
	})
}

// Whatever the candidate does, a chunk is taken or refused at once, and what is
// held has its bounds. Time stands still for as long as anything runs.
func TestACandidateThatHangsKeepsNobodyWaitingAndFillsNoMemory(t *testing.T) {
	for name, test := range map[string]struct {
		dial func(context.Context, Flow) (net.Conn, error)
		end  string
	}{
		"takes nothing": {hangs, "timed out"},
		"cannot be connected": {func(ctx context.Context, _ Flow) (net.Conn, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		}, "timed out"},
		"says nothing": {candidate(func(c net.Conn) { _, _ = io.Copy(io.Discard, c) }), "timed out"},
		"refuses":      {refuses, "refused"},
		"ends":         {candidate(func(c net.Conn) { _, _ = bufio.NewReader(c).ReadString('\n') }), "closed"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var sink told
				r := start(t, &sink, func(o *Options) { o.Dial = test.dial })
				tap, begin := r.Open(Flow{}), time.Now()
				says(tap, "one", "old one")
				if took := time.Since(begin); took != 0 {
					t.Errorf("the relay waited %v", took)
				}
				time.Sleep(time.Minute)
				synctest.Wait()
				want(t, &sink, "one: candidate_error, "+test.end)
				if c := r.Counts(); c.Open != 0 || r.options.Budget.Used() != 0 {
					t.Errorf("afterwards: %+v, %d bytes", c, r.options.Budget.Used())
				}
			})
		})
	}
}

func TestAFlowOverItsBudgetLosesItsShadowAndNoOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var sink told
		r := start(t, &sink, func(o *Options) { o.Dial = hangs })
		greedy, modest := r.Open(Flow{}), r.Open(Flow{})
		says(modest, "one", "old one")
		chunk, taken := bytes.Repeat([]byte("x"), 8<<10), 0
		for greedy.Take(shadow.Client, chunk, false, time.Now()) {
			if taken++; taken > 100 {
				t.Fatal("it takes without end")
			}
		}
		synctest.Wait()
		want(t, &sink, ": dropped, over flow_budget")
		if !says(modest, "two", "old two") || r.Counts().Open != 1 {
			t.Errorf("the other shadow is over too: %+v", r.Counts())
		}
		if used := r.options.Budget.Used(); used > connection+4<<10 {
			t.Errorf("%d bytes are still held, and one connection is open", used)
		}
	})
}

func TestOverTheBudgetOfAllTheNewestShadowsAreDropped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var sink told
		budget := NewBudget(256 << 10)
		r := start(t, &sink, func(o *Options) { o.Dial, o.Budget = hangs, budget })
		var taps []*Tap
		for range 20 {
			taps = append(taps, r.Open(Flow{}))
			synctest.Wait() // so that they have an age
		}
		refused := make([]bool, len(taps))
		for round := range 4 {
			for i, tap := range taps {
				if !refused[i] {
					refused[i] = !tap.Take(shadow.Client, bytes.Repeat([]byte("y"), 8<<10), false, time.Now())
				}
				if used := budget.Used(); used > 256<<10 {
					t.Fatalf("round %d: %d bytes are held, over the budget", round, used)
				}
				synctest.Wait()
			}
		}
		left := int(r.Counts().Open)
		if left < 3 || left > 8 {
			t.Fatalf("%d shadows are left, want about as many as fit", left)
		}
		for i, tap := range taps {
			if lives := !tap.flow.over.Load(); lives != (i < left) {
				t.Errorf("shadow %d of %d lives: %v, and %d are left: want the oldest", i, len(taps), lives, left)
			}
		}
		for _, line := range sink.all() {
			if line != ": dropped, over shadow.budget" {
				t.Errorf("told %q", line)
			}
		}
	})
}

// Else a candidate that is well stays alone for as long as the outcome is waited for.
func TestACandidateIsTriedByAFlowForWhichThereIsRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		budget := NewBudget(2 * connection) // of which one connection may take room
		var sink, other told
		r := start(t, &sink, func(o *Options) { o.Dial, o.Budget = refuses, budget })
		for range breakerFailures {
			tap := r.Open(Flow{})
			says(tap, "one", "old one")
			tap.End(shadow.Closed, time.Now())
			synctest.Wait()
		}
		time.Sleep(breakerPause)
		busy := start(t, &other, func(o *Options) { o.Dial, o.Budget = hangs, budget })
		holds := busy.Open(Flow{})
		synctest.Wait()
		r.Open(Flow{}).End(shadow.Closed, time.Now())
		synctest.Wait()
		holds.End(shadow.Closed, time.Now())
		busy.Close()
		if r.Open(Flow{}) == nil {
			t.Errorf("there is room, and nobody tries it: %+v", r.Counts())
		}
	})
}

func TestACandidateThatFailsIsLeftAloneAndTriedNowAndThen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var sink told
		var mu sync.Mutex
		dial := func(of Flow) func(context.Context, Flow) (net.Conn, error) { return refuses }(Flow{})
		r := start(t, &sink, func(o *Options) {
			o.Dial = func(ctx context.Context, of Flow) (net.Conn, error) {
				mu.Lock()
				defer mu.Unlock()
				return dial(ctx, of)
			}
		})
		play := func() bool {
			tap := r.Open(Flow{})
			if tap == nil {
				return false
			}
			says(tap, "one", "old one")
			tap.End(shadow.Closed, time.Now())
			synctest.Wait()
			return true
		}
		for range breakerFailures {
			if !play() {
				t.Fatal("left alone too early")
			}
		}
		if play() || !strings.Contains(r.Counts().Breaker, "refused") {
			t.Errorf("after %d failures it is played to, or no reason is told: %+v", breakerFailures, r.Counts())
		}
		rests := func(want time.Duration) {
			t.Helper()
			if got := r.Counts().Rests; got != want {
				t.Errorf("it rests for %v, want %v", got, want)
			}
		}
		rests(breakerPause)
		time.Sleep(breakerPause / 4)
		rests(3 * breakerPause / 4)
		time.Sleep(3 * breakerPause / 4)
		rests(0)
		if !play() || play() {
			t.Error("after the pause, want one flow and no second one")
		}
		rests(2 * breakerPause)
		mu.Lock()
		dial = candidate(answers("new "))
		mu.Unlock()
		time.Sleep(2 * breakerPause)
		if first, second := play(), play(); !first || !second || r.Counts().Breaker != "" {
			t.Errorf("it answers again, and is left alone: %+v", r.Counts())
		}
		rests(0)
	})
}

func TestAPanicOfADriverCostsItsShadowAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var sink told
		r := start(t, &sink, func(o *Options) { o.Driver = func(shadow.Session) shadow.Driver { return &lines{panics: "boom"} } })
		bad, good := r.Open(Flow{}), r.Open(Flow{})
		says(bad, "boom", "old boom")
		synctest.Wait()
		says(good, "one", "old one")
		good.End(shadow.Closed, time.Now())
		synctest.Wait()
		want(t, &sink, ": opaque, the driver panicked", "one: old one new one")
		if c := r.Counts(); c.Panicked != 1 || c.Open != 0 || r.options.Budget.Used() != 0 {
			t.Errorf("afterwards: %+v, %d bytes", c, r.options.Budget.Used())
		}
	})
}

func TestADriverMayHaveTheCandidateDialledAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var sink told
		var mu sync.Mutex
		dialled := 0
		r := start(t, &sink, func(o *Options) {
			o.Driver = func(shadow.Session) shadow.Driver { return &lines{redials: "two"} }
			o.Dial = func(ctx context.Context, of Flow) (net.Conn, error) {
				mu.Lock()
				defer mu.Unlock()
				dialled++
				return candidate(answers(fmt.Sprintf("new%d ", dialled)))(ctx, of)
			}
		})
		tap := r.Open(Flow{})
		says(tap, "one", "old one")
		synctest.Wait()
		says(tap, "two", "old two")
		tap.End(shadow.Reset, time.Now())
		synctest.Wait()
		want(t, &sink, "one: old one new1 one", "two: old two new2 two")
	})
}

func TestCloseEndsAllShadowsAndTellsWhatTheyHad(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var sink told
		r := start(t, &sink, func(o *Options) { o.Dial = hangs })
		for range 10 {
			says(r.Open(Flow{}), "one", "old one")
		}
		synctest.Wait()
		r.Close()
		if got := sink.all(); len(got) != 10 || got[0] != "one: dropped, "+ending {
			t.Errorf("told %q", got)
		}
		if r.Open(Flow{}) != nil {
			t.Error("a flow is played after the end")
		}
	})
}

func TestNoMoreShadowsRunThanMay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var sink told
		r := start(t, &sink, func(o *Options) { o.Flows = 3 })
		for i := range 5 {
			if got := r.Open(Flow{}) != nil; got != (i < 3) {
				t.Errorf("flow %d is shadowed: %v", i, got)
			}
		}
		if r.Counts().Declined != (Declined{Full: 2}) {
			t.Errorf("%+v, want 2 declined", r.Counts())
		}
	})
}

// Flows come from the relay's threads, which must not wait for one another nor for
// the end: all are played or counted as declined, and none after Close.
func TestFlowsThatComeFromManyThreadsAtTheEndAreAllPlayedOrDeclined(t *testing.T) {
	const threads = 4
	var sink told
	r := start(t, &sink, func(o *Options) { o.Flows = 20 })
	var asked, played atomic.Uint64
	var relay sync.WaitGroup
	for range threads {
		relay.Go(func() {
			for r.Counts().Declined.Stopped == 0 {
				asked.Add(1)
				if tap := r.Open(Flow{}); tap != nil {
					played.Add(1)
					tap.End(shadow.Closed, time.Now())
				}
			}
		})
	}
	nettest.Eventually(t, "some are played", func() bool { return played.Load() > 50 })
	r.Close()
	if c := r.Counts(); c.Open != 0 {
		t.Errorf("after the end: %+v", c)
	}
	relay.Wait()
	c := r.Counts()
	if all := played.Load() + c.Declined.Full + c.Declined.Broken + c.Declined.Stopped; all != asked.Load() || c.Open != 0 {
		t.Errorf("%d flows came, %d are accounted for: %+v", asked.Load(), all, c)
	}
}

func TestAGateLetsNoMoreInThanMayAndNobodyOnceItIsClosed(t *testing.T) {
	g := gate{most: 2, empty: make(chan struct{})}
	for i, want := range []passage{gateOpen, gateOpen, gateFull} {
		if got := g.enter(); got != want {
			t.Errorf("number %d: %v, want %v", i, got, want)
		}
	}
	g.leave()
	if got := g.enter(); got != gateOpen || g.open() != 2 {
		t.Errorf("a place that was left is not taken again: %v, %d are in", got, g.open())
	}
	g.close()
	g.close()
	if got := g.enter(); got != gateShut || g.open() != 2 {
		t.Errorf("behind a closed gate: %v, %d are in", got, g.open())
	}
	g.leave()
	select {
	case <-g.empty:
		t.Error("it is empty while one is in")
	default:
	}
	g.leave()
	<-g.empty
}

// A relay may hand a chunk over, or the end, when the shadow ends by itself.
func TestAShadowThatEndsWhileItsRelayGoesOnHoldsNothing(t *testing.T) {
	var sink told
	r := start(t, &sink, func(o *Options) { o.Dial = refuses })
	for range 500 {
		var tap *Tap
		for tap == nil { // those of before may open the breaker at this moment
			r.breaker.Store(&Breaker{})
			tap = r.Open(Flow{})
		}
		for range 3 {
			says(tap, "one", "old one")
		}
		tap.End(shadow.Reset, time.Now())
	}
	nettest.Eventually(t, "all are over", func() bool { return r.Counts().Open == 0 })
	if used := r.options.Budget.Used(); used != 0 {
		t.Errorf("%d bytes are held by nobody", used)
	}
}
