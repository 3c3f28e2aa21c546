package ladder

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

// Load is clients that ask for the primary's page over and over, one request at a
// time on each connection, as most clients of HTTP do.
type Load struct {
	// At is where they connect to.
	At netip.AddrPort
	// TLS is how they do it over TLS; nil is without. Their times are then those of
	// goroutines, and good for comparison alone.
	TLS *tls.Config
	// Page is what they ask for.
	Page Page
	// Clients is how many connections they have at once.
	Clients int
	// Flow is how many requests a connection has before it is closed and another is
	// opened for the next: new flows are drawn for the shadow all the time.
	Flow int
	// Warm is the time at the beginning whose requests are made and checked, and not
	// counted in Took.
	Warm time.Duration
	// Patience is how long they wait for answers when the time is over. What has none
	// then has failed.
	Patience time.Duration
}

// Outcome is what clients met with.
type Outcome struct {
	Answered int
	// Failed are the requests without an answer: refused, cut off, or not in time.
	Failed int
	// Strays are those of the failed whose answer was not the primary's, every byte of
	// it.
	Strays int
	// Why is the first failure or stray.
	Why error
	// Took is how long each request after the warm-up took since it was due; of one
	// that failed, until then.
	Took []time.Duration
	// Flows is how many connections there were.
	Flows int
	// StoodIn are those over TLS whose certificate was not the primary's own.
	StoodIn int
	// Lasted is how long all of it took.
	Lasted time.Duration
}

// Rate is how many requests were answered in a second.
func (o Outcome) Rate() float64 {
	if o.Lasted <= 0 {
		return 0
	}
	return float64(o.Answered) / o.Lasted.Seconds()
}

// Full asks for so long, each client again as soon as it has an answer. An error is
// one of this host's; what clients meet with is in the outcome.
func (l Load) Full(ctx context.Context, d time.Duration) (Outcome, error) {
	return l.run(ctx, d, 0)
}

// Paced asks for so long, so many times a second, whether or not others have been
// answered.
func (l Load) Paced(ctx context.Context, d time.Duration, rate float64) (Outcome, error) {
	if rate < 1 {
		return Outcome{}, fmt.Errorf("pace clients at %v requests/s: a rate is at least 1", rate)
	}
	return l.run(ctx, d, rate)
}

// run runs the clients from one thread, which makes its system calls itself: with
// package net most of the time would go to waking goroutines, and into what is
// measured.
func (l Load) run(ctx context.Context, d time.Duration, rate float64) (Outcome, error) {
	if l.TLS != nil {
		return l.runSecure(ctx, d, rate)
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	r, err := l.begin(d, rate)
	if err != nil {
		return Outcome{}, err
	}
	defer r.close()
	for !r.over() {
		if err := ctx.Err(); err != nil {
			return r.out, err
		}
		if err := r.step(); err != nil {
			return r.out, err
		}
	}
	return r.end(), nil
}

// begin makes the clients, and their time begins.
func (l Load) begin(d time.Duration, rate float64) (*running, error) {
	r := &running{Load: l, request: []byte(l.Page.request()), want: newSheet(l.Page, byPrimary), buffer: make([]byte, 64<<10), began: time.Now()}
	if err := r.open(rate); err != nil {
		r.close()
		return nil, err
	}
	r.until = r.began.Add(d)
	if rate > 0 {
		r.interval = time.Duration(float64(time.Second) / rate)
		r.total = max(1, int(float64(d)/float64(r.interval)))
		r.out.Took = make([]time.Duration, 0, r.total)
	}
	return r, nil
}

// step makes the requests that are due, and hears what comes next.
func (r *running) step() error {
	r.ask()
	return r.wait()
}

// end is what clients met with; what has no answer by now gets none, nor what was due and was
// not begun, where the machine had no time for that.
func (r *running) end() Outcome {
	if r.interval > 0 {
		r.due(math.MaxUint64)
	}
	r.giveUp()
	r.out.Lasted = time.Since(r.began)
	return r.out
}

// running is a load under way. It belongs to one thread.
type running struct {
	Load
	request      []byte
	want         *sheet // what answers are to be
	began, until time.Time
	interval     time.Duration // between requests that are due; 0 where none is before an answer
	total, made  int           // requests that are due in all, and were so far
	epoll, timer int
	events       [128]unix.EpollEvent
	buffer       []byte
	yielded      time.Time

	all     []*connection
	idle    []*connection // those that may ask, the longest idle first
	waiting []time.Time   // when those requests were due that nobody is free to make
	out     Outcome
}

// open makes the clients, which connect when they first ask.
func (r *running) open(rate float64) error {
	r.epoll, r.timer = -1, -1
	var err error
	if r.epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return fmt.Errorf("open epoll: %w", err)
	}
	for i := range max(r.Clients, 1) {
		c := &connection{fd: closed, number: i}
		r.all, r.idle = append(r.all, c), append(r.idle, c)
	}
	if rate == 0 {
		return nil
	}
	if r.timer, err = unix.TimerfdCreate(unix.CLOCK_MONOTONIC, unix.TFD_NONBLOCK|unix.TFD_CLOEXEC); err != nil {
		return fmt.Errorf("open timer: %w", err)
	}
	every := unix.NsecToTimespec(int64(float64(time.Second) / rate))
	if err := unix.TimerfdSettime(r.timer, 0, &unix.ItimerSpec{Interval: every, Value: every}, nil); err != nil {
		return fmt.Errorf("set timer: %w", err)
	}
	return r.watch(unix.EPOLL_CTL_ADD, r.timer, unix.EPOLLIN, 0)
}

func (r *running) close() {
	for _, c := range r.all {
		c.close()
	}
	for _, fd := range []int{r.timer, r.epoll} {
		if fd >= 0 {
			_ = unix.Close(fd)
		}
	}
}

// over says whether all that is due was made and answered, or is given up.
func (r *running) over() bool {
	now := time.Now()
	if now.After(r.until.Add(r.Patience)) {
		return true
	}
	more := now.Before(r.until)
	if r.interval > 0 {
		more = r.made < r.total
	}
	return !more && len(r.waiting) == 0 && len(r.idle) == len(r.all)
}

// ask has idle clients make the requests that are due.
func (r *running) ask() {
	now := time.Now()
	if r.interval == 0 && now.Before(r.until) {
		for range r.idle {
			r.waiting = append(r.waiting, now)
		}
	}
	n := min(len(r.idle), len(r.waiting))
	for i := range n {
		r.begin(r.idle[i], r.waiting[i])
	}
	r.idle, r.waiting = r.idle[n:], r.waiting[n:]
}

// tick notes what has become due: each at its own time, however late the timer is
// heard.
func (r *running) tick() {
	var expired [8]byte
	if _, err := unix.Read(r.timer, expired[:]); err != nil {
		return
	}
	r.due(binary.NativeEndian.Uint64(expired[:]))
}

// due notes that so many more have become due, of those that are to be made.
func (r *running) due(more uint64) {
	for range min(more, uint64(r.total-r.made)) { //nolint:gosec // no more are made than are to be
		r.made++
		r.waiting = append(r.waiting, r.began.Add(time.Duration(r.made)*r.interval))
	}
}

// yieldEvery is half of what Go's scheduler lets a goroutine go on for. Of a thread
// that never lets it begin anew it looks 20,000 times a second whether to stop it.
const yieldEvery = 5 * time.Millisecond

// wait waits for what the kernel has to tell, at most a tenth of a second, and hears
// it.
func (r *running) wait() error {
	if now := time.Now(); now.Sub(r.yielded) >= yieldEvery {
		runtime.Gosched()
		r.yielded = now
	}
	const most = 100 // ms
	n, err := unix.EpollWait(r.epoll, r.events[:], most)
	if err != nil && !errors.Is(err, unix.EINTR) { // Go's own signals
		return fmt.Errorf("wait for sockets: %w", err)
	}
	for _, e := range r.events[:max(n, 0)] {
		if int(e.Fd) == r.timer {
			r.tick()
			continue
		}
		r.hear(r.all[e.Pad])
	}
	return nil
}

// giveUp counts what is not answered yet.
func (r *running) giveUp() {
	now := time.Now()
	silent := fmt.Errorf("no answer %s after the last request", r.Patience)
	for _, c := range r.all {
		if c.asking {
			r.fail(c, now, silent)
		}
	}
	for _, due := range r.waiting {
		r.out.Failed++
		r.note(due, now)
		r.out.Why = first(r.out.Why, silent)
	}
}

// note adds how long a request took.
func (r *running) note(due, now time.Time) {
	if due.Sub(r.began) >= r.Warm {
		r.out.Took = append(r.out.Took, now.Sub(due))
	}
}

func first(had, err error) error {
	if had != nil {
		return had
	}
	return err
}

// watch has events of the socket come with a number.
func (r *running) watch(how, fd int, events uint32, number int) error {
	if err := unix.EpollCtl(r.epoll, how, fd, &unix.EpollEvent{Events: events, Fd: int32(fd), Pad: int32(number)}); err != nil {
		return fmt.Errorf("watch socket: %w", err)
	}
	return nil
}
