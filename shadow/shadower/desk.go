package shadower

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/splitd/splitd/shadow/play"
	"github.com/splitd/splitd/shadow/runner"
)

// desk does what the daemon asks for. Its exported methods are those of net/rpc.
type desk struct {
	budget *runner.Budget
	log    *slog.Logger

	mu      sync.Mutex // guards what follows, never for longer than a play takes to make
	plays   map[uint64]*seat
	lines   map[uint64]*line
	highest uint64        // of the plays that were made, or could not be
	news    chan struct{} // closed when a play was made, or begins or ends to run
}

// seat is a play, and what the daemon has still to be told of it.
type seat struct {
	play  *play.Play
	line  *line
	run   uint64 // odd: flows are played; the desk's mu guards it
	mu    sync.Mutex
	timed []play.Timed
}

// line is what plays that follow one another have in common.
type line struct {
	last    *seat           // the desk's mu guards it; nil: none is made yet
	early   runner.Declined // of those that could not wait for that; the desk's mu guards it
	settled atomic.Uint64   // flows of the ring that are counted and will be no more
	mu      sync.Mutex
	seen    runner.Declined // of those that were declined on the daemon's side
}

// settle says that a flow is counted, and will be no more.
func (l *line) settle() { l.settled.Add(1) }

// timedMost is how many exchanges are remembered for a daemon that asks too seldom.
const timedMost = 1 << 16

func newDesk(budget *runner.Budget, log *slog.Logger) *desk {
	return &desk{budget: budget, log: log, plays: map[uint64]*seat{}, lines: map[uint64]*line{}, news: make(chan struct{})}
}

// awaitMost is how long a flow waits for its play, which is told of before it, but by
// another way.
const awaitMost = 10 * time.Second

// open begins the shadow of a flow; nil says that there is none, which is counted.
func (d *desk) open(ctx context.Context, at part, of runner.Flow) *runner.Tap {
	one, why := d.await(ctx, at)
	if one == nil {
		d.decline(at, why)
		return nil
	}
	tap := one.play.Open(of)
	if tap == nil {
		one.line.settle()
	}
	return tap
}

// await returns a play in that run, or says why a flow of it is declined: there is none
// any more, or it does not come.
func (d *desk) await(ctx context.Context, at part) (one *seat, why runner.Declined) {
	late := time.NewTimer(awaitMost)
	defer late.Stop()
	for {
		d.mu.Lock()
		one, highest, news := d.plays[at.play], d.highest, d.news
		there := one != nil && one.run == at.run
		none := one == nil && at.play <= highest || one != nil && one.run > at.run
		d.mu.Unlock()
		switch {
		case there:
			return one, why
		case none:
			return nil, runner.Declined{Stopped: 1}
		}
		select {
		case <-news:
		case <-late.C:
			return nil, runner.Declined{Late: 1}
		case <-ctx.Done():
			return nil, why
		}
	}
}

// decline counts a flow that is not played, where the last of its plays is, or when
// that is made. When all are closed nobody asks.
func (d *desk) decline(at part, why runner.Declined) {
	d.mu.Lock()
	defer d.mu.Unlock()
	l := d.lines[at.line]
	switch {
	case l == nil && at.play <= d.highest:
		return
	case l == nil:
		l = &line{}
		d.lines[at.line] = l
	}
	if l.last != nil {
		l.last.play.Decline(why)
	} else {
		l.early = l.early.Plus(why)
	}
	l.settle()
}

// tell wakes who awaits something; d.mu is held.
func (d *desk) tell() {
	close(d.news)
	d.news = make(chan struct{})
}

// Make makes a play.
func (d *desk) Make(m Making, _ *struct{}) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	defer func() {
		d.highest = max(d.highest, m.ID)
		d.tell()
	}()
	l := d.lines[m.Line]
	if l == nil {
		l = &line{}
	}
	one := &seat{line: l}
	o := play.Options{Split: m.Split, Budget: d.budget, Dial: dialer(m.Mark), Kept: m.Kept, Observe: one.observe, Ended: l.settle, Log: d.log}
	if after := d.plays[m.After]; after != nil {
		o.After = after.play
	}
	made, err := play.New(o)
	if err != nil {
		return err
	}
	one.play = made
	if l.last == nil {
		l.begin(m.Declined)
		made.Decline(l.early)
	}
	l.last, d.plays[m.ID], d.lines[m.Line] = one, one, l
	return nil
}

func (l *line) begin(seen runner.Declined) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.seen = seen
}

func (s *seat) observe(t play.Timed) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.timed) < timedMost {
		s.timed = append(s.timed, t)
	}
}

// takeTimed takes what was timed since.
func (s *seat) takeTimed() []play.Timed {
	s.mu.Lock()
	defer s.mu.Unlock()
	timed := s.timed
	s.timed = nil
	return timed
}

// hear counts at a play by how much the declined are more than was seen, however late
// they are told.
func (l *line) hear(now runner.Declined, at *play.Play) {
	l.mu.Lock()
	defer l.mu.Unlock()
	news := now.Less(l.seen)
	l.seen = l.seen.Plus(news)
	at.DeclineElsewhere(news)
}

// find returns a play for which the daemon asks.
func (d *desk) find(id uint64) (*seat, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if one := d.plays[id]; one != nil {
		return one, nil
	}
	return nil, fmt.Errorf("find the shadow number %d: it is over", id)
}

// Run has a play's flows played, or no more.
func (d *desk) Run(r Running, _ *struct{}) error {
	one, err := d.find(r.ID)
	if err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if r.Run <= one.run {
		return nil // it was told of a later one meanwhile
	}
	one.play.Halt() // what an earlier run has left
	if one.run = r.Run; r.Run%2 == 1 {
		one.play.Begin()
	}
	d.tell()
	return nil
}

// End ends a play's flows, and returns when the last has ended.
func (d *desk) End(id uint64, _ *struct{}) error {
	one, err := d.find(id)
	if err != nil {
		return err
	}
	one.play.Close()
	return nil
}

// Close forgets a play that has ended.
func (d *desk) Close(id uint64, _ *struct{}) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	one := d.plays[id]
	delete(d.plays, id)
	maps.DeleteFunc(d.lines, func(_ uint64, l *line) bool { return one != nil && l.last == one })
	return nil
}

// Numbers returns those of a play.
func (d *desk) Numbers(asking Asking, a *Answer) error {
	one, err := d.find(asking.ID)
	if err != nil {
		return err
	}
	d.mu.Lock()
	a.Run = one.run // first: numbers of an earlier run are not for a later one
	d.mu.Unlock()
	one.line.hear(asking.Declined, one.play)
	a.Timed = one.takeTimed()
	a.Numbers, a.Used = one.play.Numbers(), d.budget.Used()
	return nil
}

// Edition returns that of what was counted of a play.
func (d *desk) Edition(id uint64, edition *uint64) error {
	one, err := d.find(id)
	if err != nil {
		return err
	}
	*edition = one.play.Edition()
	return nil
}

// Report writes what is known of how a candidate answers.
func (d *desk) Report(id uint64, text *[]byte) error {
	one, err := d.find(id)
	if err != nil {
		return err
	}
	*text, err = json.Marshal(one.play.Report())
	return err
}

// Reset forgets what was counted of a play.
func (d *desk) Reset(r Resetting, forgotten *Forgotten) error {
	one, err := d.find(r.ID)
	if err != nil {
		return err
	}
	if time.Now().After(r.Until) {
		return errors.New("it was asked for too long ago")
	}
	l := one.line
	l.mu.Lock()
	defer l.mu.Unlock()
	forgotten.Declined, forgotten.Settled = l.seen, l.settled.Load() // first: what ends meanwhile is rather lost too
	forgotten.Forgotten = one.play.Reset()
	forgotten.Resets = one.play.Counts().Resets
	return nil
}

// Bytes writes what was counted of a play.
func (d *desk) Bytes(id uint64, c *Counted) error {
	one, err := d.find(id)
	if err != nil {
		return err
	}
	l := one.line
	l.mu.Lock()
	defer l.mu.Unlock()
	c.Declined, c.Settled = l.seen, l.settled.Load() // first: what ends meanwhile is rather lost too
	c.Text, c.Edition, err = one.play.Bytes()
	return err
}

// dialer connects from this host to servers. As with health checks, the rules of a
// split in the kernel leave connections with the mark alone; 0 is none.
func dialer(mark uint32) func(context.Context, netip.AddrPort) (net.Conn, error) {
	d := net.Dialer{}
	if mark != 0 {
		d.Control = marked(mark)
	}
	return func(ctx context.Context, at netip.AddrPort) (net.Conn, error) {
		return d.DialContext(ctx, "tcp", at.String())
	}
}

// marked sets the packet mark of a socket (SO_MARK in socket(7)).
func marked(mark uint32) func(network, address string, c syscall.RawConn) error {
	return func(_, _ string, c syscall.RawConn) error {
		var err error
		failed := c.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_MARK, int(mark)) })
		return errors.Join(failed, os.NewSyscallError("set packet mark", err))
	}
}
