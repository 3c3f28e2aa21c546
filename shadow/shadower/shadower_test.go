package shadower

import (
	"bufio"
	"bytes"
	"encoding/gob"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"reflect"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"golang.org/x/sys/unix"

	"github.com/splitd/splitd/internal/nettest"
	"github.com/splitd/splitd/shadow"
	"github.com/splitd/splitd/shadow/play"
	"github.com/splitd/splitd/shadow/report"
	"github.com/splitd/splitd/shadow/ring"
	"github.com/splitd/splitd/shadow/runner"
	"github.com/splitd/splitd/traffic"
)

// childEnv makes the test binary the process that plays shadows.
const childEnv = "SHADOWER_TEST_CHILD"

func TestMain(m *testing.M) {
	if text := os.Getenv(childEnv); text != "" {
		os.Exit(serveChild(text))
	}
	os.Exit(m.Run())
}

func serveChild(text string) int {
	var o ServeOptions
	err := json.Unmarshal([]byte(text), &o)
	if err == nil {
		err = Serve(o, slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug})))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "child:", err)
		return 1
	}
	return 0
}

// said is written by many.
type said struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (s *said) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.Write(p)
}

func (s *said) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.String()
}

// theatre is a Process that runs, for one test.
type theatre struct {
	*Process
	said *said
}

func newTheatre(t *testing.T, budget int64) *theatre {
	t.Helper()
	return newTheatreWith(t, ProcessOptions{Budget: budget, Priority: Normal}) // other tests want the processors
}

func newTheatreWith(t *testing.T, o ProcessOptions) *theatre {
	t.Helper()
	th := &theatre{said: &said{}}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	o.Command = func(o ServeOptions) *exec.Cmd {
		text, err := json.Marshal(o)
		if err != nil {
			t.Error(err)
		}
		cmd := exec.Command(self)
		cmd.Env = append(os.Environ(), childEnv+"="+string(text))
		return cmd
	}
	o.Workers, o.Stderr, o.Log = 2, th.said, slog.New(slog.NewTextHandler(th.said, nil))
	th.Process = New(o)
	ended := make(chan error, 1)
	go func() { ended <- th.Run() }()
	t.Cleanup(func() {
		th.Close()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		if t.Failed() {
			t.Logf("it said:\n%s", th.said)
		}
	})
	return th
}

// process is the pid of the one that runs.
func (th *theatre) process(t *testing.T) int {
	t.Helper()
	pid := 0
	nettest.Eventually(t, "the process runs", func() bool {
		th.mu.Lock()
		l := th.life
		th.mu.Unlock()
		if l == nil {
			return false
		}
		l.mu.Lock()
		defer l.mu.Unlock()
		if l.cmd == nil {
			return false
		}
		pid = l.cmd.Process.Pid
		return true
	})
	return pid
}

// freeze stops the process where it is, and waits until no thread of it runs.
func freeze(t *testing.T, pid int) {
	t.Helper()
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	if err := unix.Waitid(unix.P_PID, pid, nil, unix.WSTOPPED|unix.WNOWAIT, nil); err != nil {
		t.Fatalf("wait for the process to stop: %v", err)
	}
}

// website answers each request with a body of JSON.
func website(t *testing.T, body string) netip.AddrPort {
	t.Helper()
	return listen(t, func(c net.Conn) {
		for lines := bufio.NewScanner(c); lines.Scan(); {
			if lines.Text() == "" {
				_, _ = io.WriteString(c, answer(body))
			}
		}
	})
}

func listen(t *testing.T, serve func(net.Conn)) netip.AddrPort {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close() //nolint:errcheck // nothing is left to write
				serve(c)
			}()
		}
	}()
	return l.Addr().(*net.TCPAddr).AddrPort()
}

func answer(body string) string {
	return fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
}

func split(at netip.AddrPort) traffic.Split {
	return traffic.Split{
		Name: "web", Protocol: "http", Mode: traffic.ModeProxy, Affinity: traffic.AffinityNone,
		Service:    traffic.Service{Addresses: []netip.Addr{netip.MustParseAddr("127.0.0.1")}, Ports: []traffic.Port{{Number: 8080, Transport: traffic.TCP}}},
		Primary:    traffic.Backend{Name: "old", Addresses: []traffic.Address{{IP: netip.MustParseAddr("127.0.0.2")}}},
		Candidates: []traffic.Backend{{Name: "new", Addresses: []traffic.Address{{IP: at.Addr(), Port: at.Port()}}}},
		Shadow:     traffic.Shadow{To: "new", FlowBudget: 1 << 20, Patience: 10 * time.Second, MinEffect: 1000, Control: traffic.Control{Off: true}},
		Sample:     traffic.Whole,
	}
}

func (th *theatre) play(t *testing.T, o Options) *Play {
	t.Helper()
	p, err := th.Play(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	return p
}

var flow = runner.Flow{
	Client: netip.MustParseAddrPort("127.0.0.9:4000"), Service: netip.MustParseAddrPort("127.0.0.1:8080"), Primary: netip.MustParseAddrPort("127.0.0.2:8080"),
}

const request = "GET / HTTP/1.1\r\nHost: a\r\n\r\n"

// visit tells of a flow with one request, as the primary answers it; false says that
// its shadow was lost on the way.
func visit(p *Play, worker int) bool {
	tap := p.Open(flow, worker)
	if tap == nil {
		return false
	}
	now := time.Now()
	if tap.Take(shadow.Client, []byte(request), false, now) && tap.Take(shadow.Primary, []byte(answer(`{"n":1}`)), false, now) &&
		tap.Take(shadow.Client, nil, true, now) && tap.Take(shadow.Primary, nil, true, now) {
		tap.End(shadow.Closed, now)
		return true
	}
	return false
}

func reportOf(t *testing.T, p *Play) report.Report {
	t.Helper()
	text, err := p.Report()
	if err != nil {
		t.Fatal(err)
	}
	var r report.Report
	if err := json.Unmarshal(text, &r); err != nil {
		t.Fatal(err)
	}
	return r
}

func await(t *testing.T, p *Play, what string, is func(play.Numbers) bool) {
	t.Helper()
	nettest.Eventually(t, what, func() bool { return is(p.Numbers()) }, func() any { return p.Numbers() })
}

func TestFlowsAreComparedFromTheFirstOnWhoeverRelaysThem(t *testing.T) {
	th := newTheatre(t, 64<<20)
	var timed atomic.Int64
	p := th.play(t, Options{Split: split(website(t, `{"n":2}`)), Observe: func(play.Timed) { timed.Add(1) }})
	p.Begin()
	for i := range 100 { // the process has hardly begun to start
		if !visit(p, i) {
			t.Fatalf("flow %d is not played", i)
		}
	}
	await(t, p, "all are compared", func(n play.Numbers) bool {
		return n.Eligible == 100 && n.Coverage["compared"] == 100 && n.Mismatch == 100 && n.Open == 0
	})
	if r := reportOf(t, p); r.Cover.Compared != 100 || len(r.Differences)+len(r.Suspects) != 1 {
		t.Errorf("the report: %+v", r)
	}
	if n := timed.Load(); n != 100 {
		t.Errorf("%d exchanges were timed, want 100", n)
	}
	if free := len((*th.outlets.Load())[0].free); free != flagsOf {
		t.Errorf("%d slots are free, want all %d", free, flagsOf)
	}
}

func TestTheProcessTakesNoProcessorHasNoRightsAndGoesFirst(t *testing.T) {
	for name, test := range map[string]struct {
		priority     Priority
		policy, nice string // "" is any: whoever runs the tests may be nice himself
	}{
		"idle": {Idle, "5", ""}, // SCHED_IDLE
		"low":  {Low, "", "19"},
	} {
		t.Run(name, func(t *testing.T) {
			th := newTheatreWith(t, ProcessOptions{Budget: 64 << 20, Priority: test.priority})
			p := th.play(t, Options{Split: split(website(t, `{"n":1}`))})
			p.Begin()
			visit(p, 0)
			await(t, p, "it runs", func(n play.Numbers) bool { return n.Eligible == 1 })
			at := fmt.Sprintf("/proc/%d/", th.process(t))
			stat, err := os.ReadFile(at + "stat")
			if err != nil {
				t.Fatal(err)
			}
			// Fields 41 and 19 of proc_pid_stat(5), of which the third is the first behind the
			// name.
			fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
			if test.policy != "" && fields[38] != test.policy || test.nice != "" && fields[16] != test.nice {
				t.Errorf("its policy is %s and its nice value %s, want %s and %s", fields[38], fields[16], test.policy, test.nice)
			}
			score, err := os.ReadFile(at + "oom_score_adj")
			if err != nil || strings.TrimSpace(string(score)) != "1000" {
				t.Errorf("oom_score_adj is %q, %v", score, err)
			}
			status, err := os.ReadFile(at + "status")
			if err != nil {
				t.Fatal(err)
			}
			for line := range strings.Lines(string(status)) {
				wantHumble(t, strings.TrimSpace(line))
			}
		})
	}
}

// wantHumble judges a line of proc_pid_status(5). A test binary with cgo cannot change
// all its threads.
func wantHumble(t *testing.T, line string) {
	t.Helper()
	name, value, _ := strings.Cut(line, ":\t")
	bits, _ := strconv.ParseUint(value, 16, 64)
	rights := (name == "CapEff" || name == "CapPrm") && bits&^(1<<12) != 0 || name == "NoNewPrivs" && value != "1"
	if rights && !withCgo {
		t.Errorf("it has %s", line)
	}
}

func TestAProcessThatDiesCostsWhatItHadInHandAndAnotherOneGoesOn(t *testing.T) {
	th := newTheatre(t, 64<<20)
	p := th.play(t, Options{Split: split(website(t, `{"n":1}`))})
	p.Begin()
	visit(p, 0)
	await(t, p, "the first is compared", func(n play.Numbers) bool { return n.Coverage["compared"] == 1 && n.Open == 0 })
	if _, _, err := p.Bytes(); err != nil { // as every ten seconds
		t.Fatal(err)
	}
	for range 5 {
		visit(p, 0)
	}
	await(t, p, "others are compared that no save has", func(n play.Numbers) bool { return n.Coverage["compared"] == 6 })
	tap := p.Open(flow, 1)
	if tap == nil || !tap.Take(shadow.Client, []byte(request), false, time.Now()) {
		t.Fatal("a flow is not played")
	}
	first := th.process(t)
	if err := syscall.Kill(first, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	nettest.Eventually(t, "its flow's shadow is over", func() bool { return !tap.Take(shadow.Client, []byte(request), false, time.Now()) })
	missed, last := int64(0), p.Numbers()
	look := func() play.Numbers {
		n := p.Numbers()
		wantNoLess(t, last, n)
		last = n
		return n
	}
	nettest.Eventually(t, "another one plays", func() bool {
		look()
		played := visit(p, 1)
		if !played {
			missed++
		}
		return played
	})
	// Those that came meanwhile are lost too, and those that were compared behind the save.
	lost := 5 + 1 + missed
	c := reportOf(t, p).Cover
	nettest.Eventually(t, "it goes on with what was counted", func() bool {
		look()
		c = reportOf(t, p).Cover
		return c.Compared == 2 && c.Eligible >= 2+lost
	}, func() any { return look() })
	if c.Eligible != 2+lost || c.Dropped != lost || int64(look().Declined.Lost) != lost {
		t.Errorf("%d flows are lost; it is told of %+v, and of coverage %+v", lost, last.Declined, c)
	}
	for range 5 {
		visit(p, 1)
	}
	nettest.Eventually(t, "metrics have no more than the report", func() bool {
		c, n := reportOf(t, p).Cover, look()
		return c.Compared == 7 && n.Coverage["compared"] == 7 && n.Eligible == uint64(c.Eligible)
	}, func() any { return look() })
	if second := th.process(t); second == first {
		t.Errorf("it is the same process")
	}
	if !strings.Contains(th.said.String(), "another takes over") {
		t.Error("nothing is said of it")
	}
}

// wantNoLess judges numbers that are counters in metrics.
func wantNoLess(t *testing.T, was, is play.Numbers) {
	t.Helper()
	less := is.Eligible < was.Eligible || is.Panicked < was.Panicked || is.Unsound < was.Unsound || was.Declined.Less(is.Declined) != runner.Declined{}
	for part, n := range was.Coverage {
		less = less || is.Coverage[part] < n
	}
	if less {
		t.Errorf("counters go back from %+v to %+v", was, is)
	}
}

func TestAFlowThatFindsNoRoomLosesItsShadowAloneAndIsCounted(t *testing.T) {
	th := newTheatre(t, 4<<20)
	p := th.play(t, Options{Split: split(website(t, `{"n":1}`))})
	p.Begin()
	visit(p, 0)
	await(t, p, "it runs", func(n play.Numbers) bool { return n.Coverage["compared"] == 1 })
	pid := th.process(t)
	freeze(t, pid)
	var taps []*Tap
	for range 40 { // for whose connections the budget has room
		if tap := p.Open(flow, 0); tap != nil {
			taps = append(taps, tap)
		}
	}
	flows := len(taps)
	taps = slices.DeleteFunc(taps, func(tap *Tap) bool {
		return !tap.Take(shadow.Client, []byte(request), false, time.Now()) || !tap.Take(shadow.Client, make([]byte, 60<<10), false, time.Now())
	})
	lost := flows - len(taps)
	none := 0 // of those that come now
	for range 1000 {
		if p.Open(flow, 0) == nil {
			none++
		}
	}
	if lost == 0 || len(taps) == 0 || none != 1000 {
		t.Errorf("of %d flows %d lost their shadow, and of 1000 new ones %d; want some, and all", flows, lost, none)
	}
	if err := syscall.Kill(pid, syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	for _, tap := range taps {
		tap.End(shadow.Reset, time.Now())
	}
	// Of a flow there is one exchange, the request that was not answered, and where all was
	// told another one, which is no request.
	await(t, p, "all are told of", func(n play.Numbers) bool {
		return n.Eligible == uint64(1+flows+len(taps)+none) && n.Declined.Late == uint64(none) && n.Open == 0
	})
	o := (*th.outlets.Load())[0]
	nettest.Eventually(t, "all slots are free again", func() bool {
		if !o.enter() {
			return false
		}
		defer o.leave()
		slices.Sort(o.free)
		return len(slices.Compact(slices.Clone(o.free))) == flagsOf
	})
}

func TestAReportIsThereAlsoWhereTheProcessGetsNoProcessor(t *testing.T) {
	th := newTheatre(t, 4<<20)
	p := th.play(t, Options{Split: split(website(t, `{"n":1}`))})
	p.Begin()
	visit(p, 0)
	await(t, p, "it is compared", func(n play.Numbers) bool { return n.Coverage["compared"] == 1 })
	pid := th.process(t)
	thaw := func() {
		if err := syscall.Kill(pid, syscall.SIGCONT); err != nil {
			t.Fatal(err)
		}
	}
	freeze(t, pid)
	if _, err := p.Report(); !errors.Is(err, ErrLate) {
		t.Errorf("nothing was saved yet, and the report's error is %v", err)
	}
	thaw()
	reportOf(t, p) // also the one that came late
	if _, _, err := p.Bytes(); err != nil {
		t.Fatal(err)
	}
	visit(p, 0)
	await(t, p, "another one is compared", func(n play.Numbers) bool { return n.Coverage["compared"] == 2 })
	freeze(t, pid)
	if r := reportOf(t, p); r.Cover.Compared != 1 || r.Away != ErrLate.Error() || !strings.Contains(r.Summary, "what was saved last") {
		t.Errorf("of what was saved the report has %+v, away %q, summary %q", r.Cover, r.Away, r.Summary)
	}
	if n := p.Numbers(); n.Coverage["compared"] != 2 || !strings.Contains(n.Away, "no processor") {
		t.Errorf("the last numbers that were heard are %+v", n)
	}
	thaw()
	if r := reportOf(t, p); r.Cover.Compared != 2 || r.Away != "" || strings.Contains(r.Summary, "saved") {
		t.Errorf("when it goes on the report has %+v, away %q, summary %q", r.Cover, r.Away, r.Summary)
	}
	await(t, p, "its numbers are of now", func(n play.Numbers) bool { return n.Away == "" })
}

func TestBesideACandidateThatFailsFlowsAreDeclinedHereUntilItAnswersAgain(t *testing.T) {
	th := newTheatre(t, 4<<20)
	var well atomic.Bool
	at := listen(t, func(c net.Conn) {
		for lines := bufio.NewScanner(c); well.Load() && lines.Scan(); {
			if lines.Text() == "" {
				_, _ = io.WriteString(c, answer(`{"n":1}`))
			}
		}
	})
	p := th.play(t, Options{Split: split(at)})
	p.Begin()
	told := uint64(0)
	tell := func() {
		if p.Numbers().Away != "" {
			return // more would wait for it than the budget has room for
		}
		told++
		visit(p, 0)
	}
	nettest.Eventually(t, "flows are declined before they are written into a ring", func() bool {
		tell()
		p.Numbers() // as every second
		return p.account.broken.Load() > 10
	}, func() any { return p.Numbers() })
	well.Store(true)
	nettest.Eventually(t, "it is tried, and flows are played again", func() bool {
		tell()
		n := p.Numbers()
		return n.Breaker == "" && n.Coverage["compared"] > 0
	}, func() any { return p.Numbers() })
	await(t, p, "each flow is counted once", func(n play.Numbers) bool {
		return n.Open == 0 && n.Eligible == told && n.Coverage["dropped"] == n.Declined.Broken && n.Declined.Broken >= p.account.broken.Load()
	})
}

func TestAReportHasTheFlowsThatGotNoFurtherThanTheDaemon(t *testing.T) {
	th := newTheatre(t, 4<<20)
	p := th.play(t, Options{Split: split(website(t, `{"n":1}`))})
	p.Begin()
	visit(p, 0)
	await(t, p, "it runs", func(n play.Numbers) bool { return n.Coverage["compared"] == 1 && n.Open == 0 })
	p.Halt()
	before := p.Edition()
	if tap := p.Open(flow, 0); tap != nil {
		t.Fatal("a flow is played where none is to be")
	}
	if p.Edition() == before {
		t.Error("what is to be saved has not changed")
	}
	p.Open(flow, 0)
	if c := reportOf(t, p).Cover; c.Eligible != 3 || c.Dropped != 2 {
		t.Errorf("nobody has asked for numbers, and the report has %+v", c)
	}
}

// The relay's threads take none of the locks that others hold.
func TestWhatTheRelayCallsWaitsForNoLockAndAllocatesNothing(t *testing.T) {
	th := newTheatre(t, 64<<20)
	p := th.play(t, Options{Split: split(website(t, `{"n":1}`))})
	p.Begin()
	visit(p, 0)
	await(t, p, "it runs", func(n play.Numbers) bool { return n.Coverage["compared"] == 1 })
	l := func() *life {
		th.mu.Lock()
		defer th.mu.Unlock()
		return th.life
	}()
	locks := []sync.Locker{&l.mu, &l.queue, &p.answered, &p.numbers.mu, &th.mu}
	for _, lock := range locks {
		lock.Lock()
	}
	done := make(chan bool, 1)
	go func() { done <- visit(p, 1) }()
	select {
	case played := <-done:
		if !played {
			t.Error("the flow is not played")
		}
	case <-time.After(10 * time.Second):
		t.Error("it waits for a lock")
	}
	slices.Reverse(locks)
	for _, lock := range locks {
		lock.Unlock()
	}
	tap, now, bytes := p.Open(flow, 0), time.Now(), []byte("x")
	if tap == nil {
		t.Fatal("the flow is not played")
	}
	defer func() { tap.End(shadow.Reset, now) }()
	// Other goroutines allocate too, now and then.
	if n := testing.AllocsPerRun(5000, func() {
		if !tap.Take(shadow.Client, bytes, false, now) {
			t.Error("a chunk is not taken")
		}
	}); n > 0 {
		t.Errorf("a chunk allocates %v times", n)
	}
}

// Many who have no thread tell of their flows at once, each all of it.
func TestFlowsOfThoseWhoShareARingAreAllToldOf(t *testing.T) {
	th := newTheatre(t, 64<<20)
	p := th.play(t, Options{Split: split(website(t, `{"n":1}`))})
	p.Begin()
	const many, each = 16, 20
	var telling sync.WaitGroup
	var untold atomic.Int64
	for range many {
		telling.Go(func() {
			for range each {
				if !visit(p, Anybody) {
					untold.Add(1)
				}
			}
		})
	}
	telling.Wait()
	if n := untold.Load(); n > 0 {
		t.Errorf("%d flows are not told of", n)
	}
	await(t, p, "all are compared", func(n play.Numbers) bool {
		return n.Coverage["compared"] == many*each && n.Eligible == many*each && n.Open == 0
	})
	all := *th.outlets.Load()
	if free := len(all[len(all)-1].free); len(all) != 3 || free != flagsOf {
		t.Errorf("of %d rings the shared one has %d slots free, want 3 and all %d", len(all), free, flagsOf)
	}
}

// However many are at it, none finds a shared ring without room that has some.
func TestInASharedRingThereIsRoomForAll(t *testing.T) {
	o, s, err := newOutlet(4<<20, true)
	if err != nil {
		t.Fatal(err)
	}
	defer s.close() //nolint:errcheck // the test is over
	var telling sync.WaitGroup
	var opened, refused atomic.Uint64
	const many, each = 8, 4000
	for range many {
		telling.Go(func() {
			for range each {
				slot, turn, said := o.open(ring.Record{Kind: kindOpened}, &opened)
				if said != welcomed {
					refused.Add(1)
					continue
				}
				o.end(ring.Record{Kind: kindEnded, Slot: slot, Turn: turn})
			}
		})
	}
	telling.Wait()
	if refused.Load() > 0 || opened.Load() != many*each || len(o.free) != flagsOf || o.untold.Load() != nil {
		t.Errorf("%d are refused, %d of %d told, %d slots free", refused.Load(), opened.Load(), many*each, len(o.free))
	}
}

// Who waits for a ring that is shared does not wait for one that dies.
func TestOfARingThatDiesWhoSharesItHearsAtOnce(t *testing.T) {
	o, s, err := newOutlet(128<<10, true)
	if err != nil {
		t.Fatal(err)
	}
	defer s.close() //nolint:errcheck // the test is over
	var telling sync.WaitGroup
	var began sync.WaitGroup
	began.Add(8)
	for range 8 {
		telling.Go(func() {
			began.Done()
			for said := welcomed; said != noReader; {
				_, _, said = o.open(ring.Record{Kind: kindOpened}, new(atomic.Uint64))
			}
			if o.put(ring.Record{Kind: kindBytes}) || !o.over(0, 0) {
				t.Error("it is told more")
			}
		})
	}
	began.Wait()
	o.kill()
	telling.Wait()
}

func TestAFlowThatWouldNotBePlayedIsCountedByWhoeverAsksFirst(t *testing.T) {
	th := newTheatre(t, 4<<20)
	p := th.play(t, Options{Split: split(website(t, `{"n":1}`))})
	if !p.Declines() {
		t.Error("a play that has not begun would play a flow")
	}
	p.Begin()
	if p.Declines() {
		t.Error("a play that has begun would play none")
	}
	visit(p, Anybody)
	await(t, p, "both are counted", func(n play.Numbers) bool { return n.Eligible == 2 && n.Declined.Stopped == 1 })
}

func TestRingsTakeAnEighthOfTheBudget(t *testing.T) {
	for _, test := range []struct {
		budget      int64
		rings, want int
	}{
		{64 << 20, 2, 4 << 20}, {64 << 20, 16, 512 << 10}, {1 << 30, 2, 4 << 20}, // the most
		{64 << 20, 64, 128 << 10}, {1 << 20, 2, 128 << 10}, {1 << 20, 256, 128 << 10}, // the least
	} {
		got := ringOf(test.budget, test.rings)
		if got != test.want || got&(got-1) != 0 {
			t.Errorf("of %d bytes each of %d rings has %d, want %d", test.budget, test.rings, got, test.want)
		}
	}
}

func TestAProcessThatIsLateIsNotAskedMoreAndMore(t *testing.T) {
	th := newTheatre(t, 4<<20)
	p := th.play(t, Options{Split: split(website(t, `{"n":1}`))})
	p.Begin()
	visit(p, 0)
	await(t, p, "it runs", func(n play.Numbers) bool { return n.Coverage["compared"] == 1 })
	pid := th.process(t)
	freeze(t, pid)
	p.Numbers()
	before := runtime.NumGoroutine()
	for range 1000 {
		if n := p.Numbers(); n.Coverage["compared"] != 1 {
			t.Fatalf("the last numbers are %+v", n)
		}
	}
	if after := runtime.NumGoroutine(); after > before+10 {
		t.Errorf("%d goroutines, %d before it was asked", after, before)
	}
	if _, err := p.Reset(); !errors.Is(err, ErrLate) {
		t.Errorf("the reset's error is %v", err)
	}
	if err := syscall.Kill(pid, syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	visit(p, 0)
	await(t, p, "it goes on, and has forgotten nothing", func(n play.Numbers) bool { return n.Coverage["compared"] == 2 })
}

// The daemon's end waits for nobody.
func TestWhoIsInAHurryWaitsForNoAnswer(t *testing.T) {
	th := newTheatre(t, 4<<20)
	p := th.play(t, Options{Split: split(website(t, `{"n":1}`))})
	p.Begin()
	visit(p, 0)
	await(t, p, "it runs", func(n play.Numbers) bool { return n.Coverage["compared"] == 1 })
	pid := th.process(t)
	freeze(t, pid)
	th.Hurry(0)
	begin := time.Now()
	if _, _, err := p.Bytes(); !errors.Is(err, ErrLate) || time.Since(begin) > answerPatience/2 {
		t.Errorf("after %v the error is %v", time.Since(begin), err)
	}
	th.Close() // kills what does not end
	nettest.Eventually(t, "it is gone", func() bool { return syscall.Kill(pid, 0) == syscall.ESRCH })
}

// More flows than the ring has room for the ends of.
func TestTheEndsOfAllFlowsAreToldAtLast(t *testing.T) {
	o, s, err := newOutlet(512<<10, false)
	if err != nil {
		t.Fatal(err)
	}
	defer s.close() //nolint:errcheck // the test is over
	reader, err := ring.NewReader(s.memory, 512<<10, flagsOf)
	if err != nil {
		t.Fatal(err)
	}
	ended := map[uint32]bool{}
	opened := 0
	for ; opened < 2000; opened++ {
		if _, _, how := o.open(ring.Record{Kind: kindOpened}, new(atomic.Uint64)); how != welcomed {
			t.Fatal("a flow finds no room")
		}
	}
	for o.put(ring.Record{Kind: kindBytes, Body: make([]byte, 1000)}) {
	}
	for slot := range uint32(opened) {
		o.end(ring.Record{Kind: kindEnded, Slot: slot})
	}
	if o.untold.Load() == nil {
		t.Fatal("there was room for all")
	}
	for range 1000 {
		o.catchUp() // nobody has read yet
	}
	for rounds := 0; len(ended) < opened && rounds < 100; rounds++ {
		for {
			r, ok, err := reader.Next()
			if err != nil {
				t.Fatal(err)
			}
			if !ok {
				break
			}
			if r.Kind == kindEnded {
				ended[r.Slot] = true
			}
		}
		o.catchUp()
	}
	slices.Sort(o.free)
	if free := len(slices.Compact(o.free)); len(ended) != opened || free != flagsOf {
		t.Errorf("%d of %d ends were told of, and %d slots are free", len(ended), opened, free)
	}
}

func TestAHaltThatIsNotHeardEndsTheProcess(t *testing.T) {
	th := newTheatre(t, 4<<20)
	th.patience = 100 * time.Millisecond
	p := th.play(t, Options{Split: split(website(t, `{"n":1}`))})
	p.Begin()
	visit(p, 0)
	await(t, p, "it runs", func(n play.Numbers) bool { return n.Coverage["compared"] == 1 })
	tap := p.Open(flow, 0)
	pid := th.process(t)
	freeze(t, pid)
	p.Halt()
	if tap.Take(shadow.Client, []byte(request), false, time.Now()) || p.Open(flow, 0) != nil {
		t.Error("flows are told of after the halt")
	}
	nettest.Eventually(t, "it is ended", func() bool { return syscall.Kill(pid, 0) == syscall.ESRCH })
	if r := reportOf(t, p); r.Cover.Compared != 0 { // nothing was saved
		t.Errorf("another one has %+v", r.Cover)
	}
	if visit(p, 0) {
		t.Error("a flow is played after the halt")
	}
}

func TestAPlayGoesOnWithWhatTheOneBeforeItHasCounted(t *testing.T) {
	th := newTheatre(t, 64<<20)
	at := website(t, `{"n":1}`)
	first := th.play(t, Options{Split: split(at)})
	first.Begin()
	visit(first, 0)
	await(t, first, "it is compared", func(n play.Numbers) bool { return n.Coverage["compared"] == 1 })
	changed := split(at)
	changed.Shadow.Ignore = []string{"ignore body $.n"}
	if first.Follows(changed) || !first.Follows(split(at)) {
		t.Error("a play follows another split, or not its own")
	}
	second := th.play(t, Options{Split: changed, After: first})
	second.Begin()
	first.Halt()
	first.Close()
	visit(second, 1)
	await(t, second, "both are counted", func(n play.Numbers) bool { return n.Coverage["compared"] == 2 })
	text, _, err := second.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	if f, err := second.Reset(); err != nil || f.Compared != 2 || f.From.IsZero() {
		t.Errorf("forgotten is %+v, %v", f, err)
	}
	if n := second.Numbers(); n.Eligible != 0 {
		t.Errorf("after the reset %+v", n)
	}
	kept := newTheatre(t, 64<<20).play(t, Options{Split: changed, Kept: text})
	if r := reportOf(t, kept); r.Cover.Compared != 2 {
		t.Errorf("of what was kept there is %+v", r.Cover)
	}
}

func TestASplitThatCannotBePlayedIsRefusedAtOnce(t *testing.T) {
	th := newTheatre(t, 1<<20)
	bad := split(netip.MustParseAddrPort("127.0.0.1:1"))
	bad.Protocol = "gopher"
	if _, err := th.Play(Options{Split: bad}); err == nil || !strings.Contains(err.Error(), "gopher") {
		t.Errorf("the error is %v", err)
	}
}

// What cannot be started costs shadows, and is said.
func TestWhereNoProcessCanBeStartedNothingIsPlayedAndItIsSaid(t *testing.T) {
	var log said
	p := New(ProcessOptions{Command: func(ServeOptions) *exec.Cmd { return exec.Command("/nonexistent/splitd") }, Log: slog.New(slog.NewTextHandler(&log, nil))})
	ended := make(chan error, 1)
	go func() { ended <- p.Run() }()
	one, err := p.Play(Options{Split: split(netip.MustParseAddrPort("127.0.0.1:1"))})
	if err != nil {
		t.Fatal(err)
	}
	one.Begin()
	nettest.Eventually(t, "it is said", func() bool { return strings.Contains(log.String(), "/nonexistent/splitd") })
	nettest.Eventually(t, "a report says why there is none", func() bool {
		_, err := one.Report()
		return err != nil && strings.Contains(err.Error(), "try again")
	})
	nettest.Eventually(t, "numbers say that it is not there", func() bool { return one.Numbers().Away == ErrGone.Error() }, func() any { return one.Numbers() })
	one.Close()
	p.Close()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// What a split says reaches the process as it is, whatever it is.
func TestASplitGoesOverTheSocketUnchanged(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		var before, after traffic.Split
		fill(random, reflect.ValueOf(&before).Elem())
		var wire bytes.Buffer
		if err := gob.NewEncoder(&wire).Encode(Making{Split: before}); err != nil {
			t.Fatal(err)
		}
		var got Making
		if err := gob.NewDecoder(&wire).Decode(&got); err != nil {
			t.Fatal(err)
		}
		after = got.Split
		if diff := cmp.Diff(before, after, cmpopts.EquateEmpty(), cmp.Comparer(func(a, b netip.Addr) bool { return a == b }), cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); diff != "" {
			t.Fatalf("a split (-told +heard):\n%s", diff)
		}
	}
}

// What plays shadows does not know where keys are; that there are some it does.
func TestTheProcessIsNotToldWhereKeysAre(t *testing.T) {
	th := newTheatre(t, 4<<20)
	of := split(website(t, `{"n":1}`))
	const name, key = "a-split-of-this-name", "/etc/keys/of-this-split.key"
	of.Name = name
	of.Shadow.TLS = traffic.TLS{Certificates: []traffic.Certificate{{Cert: "/etc/keys/a.crt", Key: key}}, ToPrimary: traffic.Trust{Report: true}, ToCandidate: traffic.Trust{Report: true}}
	if told := withoutKeys(of); !told.Shadow.TLS.On() || of.Shadow.TLS.Certificates[0].Key != key {
		t.Errorf("of %+v it is told %+v", of.Shadow.TLS, told.Shadow.TLS)
	}
	p := th.play(t, Options{Split: of})
	if !p.Follows(of) {
		t.Error("the play is not of its split any more")
	}
	p.Begin()
	visit(p, 0)
	await(t, p, "it plays", func(n play.Numbers) bool { return n.Eligible > 0 })
	pid := th.process(t)
	freeze(t, pid)
	defer func() { _ = syscall.Kill(pid, syscall.SIGCONT) }()
	if !holds(t, pid, name) || holds(t, pid, key) {
		t.Errorf("its memory has the name of the split: %v, and the key's: %v; want only the first", holds(t, pid, name), holds(t, pid, key))
	}
}

// holds says whether a text is in what a process has written into its memory.
func holds(t *testing.T, pid int, text string) bool {
	t.Helper()
	maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		t.Fatal(err)
	}
	memory, err := os.Open(fmt.Sprintf("/proc/%d/mem", pid))
	if err != nil {
		t.Fatal(err)
	}
	defer memory.Close() //nolint:errcheck // it was read
	for line := range strings.Lines(string(maps)) {
		var from, to int64
		var rights string
		if _, err := fmt.Sscanf(line, "%x-%x %s", &from, &to, &rights); err != nil || rights != "rw-p" || to-from > 1<<30 {
			continue
		}
		region := make([]byte, to-from)
		n, _ := memory.ReadAt(region, from) // up to a page that nobody has touched
		if bytes.Contains(region[:n], []byte(text)) {
			return true
		}
	}
	return false
}

// fill fills a value with whatever it can have.
func fill(random *rand.Rand, v reflect.Value) {
	switch v.Interface().(type) {
	case netip.Addr:
		v.Set(reflect.ValueOf(netip.AddrFrom4([4]byte{10, 0, 0, byte(random.Uint32())})))
		return
	case netip.Prefix:
		v.Set(reflect.ValueOf(netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, 0, 0}), random.IntN(33))))
		return
	}
	switch v.Kind() { //nolint:exhaustive // splits have no others
	case reflect.Struct:
		for i := range v.NumField() {
			if v.Type().Field(i).IsExported() {
				fill(random, v.Field(i))
			}
		}
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), random.IntN(3), 3))
		for i := range v.Len() {
			fill(random, v.Index(i))
		}
	case reflect.Pointer:
		if random.IntN(2) == 0 {
			v.Set(reflect.New(v.Type().Elem()))
			fill(random, v.Elem())
		}
	case reflect.String:
		v.SetString(strconv.Itoa(random.IntN(3)))
	case reflect.Bool:
		v.SetBool(random.IntN(2) == 0)
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		v.SetInt(int64(random.IntN(3)))
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		v.SetUint(uint64(random.IntN(3)))
	case reflect.Float64:
		v.SetFloat(random.Float64())
	default:
		panic("nobody fills a " + v.Type().String())
	}
}

func FuzzWhatIsNoOpeningIsRefused(f *testing.F) {
	f.Add(opened(part{5, 7, 1}, flow).Body)
	f.Add(opened(part{5, 7, 1}, runner.Flow{Client: flow.Client, TLS: &handshake}).Body)
	f.Add(opened(part{5, 7, 1}, runner.Flow{Client: flow.Client, Opaque: "HTTP/2"}).Body)
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, body []byte) {
		r := opened(part{}, runner.Flow{})
		r.Body = body
		if at, of, err := openedOf(r); err == nil {
			if again, back, err := openedOf(opened(at, of)); err != nil || again != at || !cmp.Equal(back, of, cmpopts.EquateComparable(netip.AddrPort{})) {
				t.Errorf("%+v, %+v becomes %+v, %+v, %v", at, of, again, back, err)
			}
		}
	})
}
