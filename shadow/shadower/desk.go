package shadower

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"sync"
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
	highest uint64        // of those that were made, or could not be
	news    chan struct{} // closed when a play was made, or begins or ends to run
}

// seat is a play, and what the daemon has still to be told of it.
type seat struct {
	play  *play.Play
	run   uint64 // odd: flows are played; the desk's mu guards it
	mu    sync.Mutex
	timed []play.Timed
	seen  runner.Declined // of those that were declined on its side
}

// timedMost is how many exchanges are remembered for a daemon that asks too seldom.
const timedMost = 1 << 16

func newDesk(budget *runner.Budget, log *slog.Logger) *desk {
	return &desk{budget: budget, log: log, plays: map[uint64]*seat{}, news: make(chan struct{})}
}

// awaitMost is how long a flow waits for its play, which is told of before it, but by
// another way.
const awaitMost = 10 * time.Second

// await returns a play in that run, nil where there is none, or none any more.
func (d *desk) await(ctx context.Context, id, run uint64) *seat {
	late := time.NewTimer(awaitMost)
	defer late.Stop()
	for {
		d.mu.Lock()
		one, highest, news := d.plays[id], d.highest, d.news
		there := one != nil && one.run == run
		none := one == nil && id <= highest || one != nil && one.run > run
		d.mu.Unlock()
		switch {
		case there:
			return one
		case none:
			return nil
		}
		select {
		case <-news:
		case <-late.C:
			return nil
		case <-ctx.Done():
			return nil
		}
	}
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
	one := &seat{seen: m.Declined}
	o := play.Options{Split: m.Split, Budget: d.budget, Dial: dialer(m.Mark), Kept: m.Kept, Observe: one.observe, Log: d.log}
	if after := d.plays[m.After]; after != nil {
		o.After = after.play
		after.mu.Lock()
		one.seen = after.seen
		after.mu.Unlock()
	}
	made, err := play.New(o)
	if err != nil {
		return err
	}
	one.play = made
	d.plays[m.ID] = one
	return nil
}

func (s *seat) observe(t play.Timed) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.timed) < timedMost {
		s.timed = append(s.timed, t)
	}
}

// news is by how much the declined are more than was seen, however late they are told;
// s.mu is held.
func (s *seat) news(now runner.Declined) runner.Declined {
	was := s.seen
	s.seen.Late, s.seen.Lost = max(was.Late, now.Late), max(was.Lost, now.Lost)
	return runner.Declined{Late: s.seen.Late - was.Late, Lost: s.seen.Lost - was.Lost}
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
	delete(d.plays, id)
	return nil
}

// Numbers returns those of a play.
func (d *desk) Numbers(asking Asking, a *Answer) error {
	one, err := d.find(asking.ID)
	if err != nil {
		return err
	}
	one.mu.Lock()
	one.play.Decline(one.news(asking.Declined))
	a.Timed, one.timed = one.timed, nil
	one.mu.Unlock()
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
func (d *desk) Reset(r Resetting, forgotten *play.Forgotten) error {
	one, err := d.find(r.ID)
	if err != nil {
		return err
	}
	if time.Now().After(r.Until) {
		return errors.New("it was asked for too long ago")
	}
	*forgotten = one.play.Reset()
	return nil
}

// Bytes writes what was counted of a play.
func (d *desk) Bytes(id uint64, c *Counted) error {
	one, err := d.find(id)
	if err != nil {
		return err
	}
	one.mu.Lock()
	defer one.mu.Unlock()
	c.Declined = one.seen
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
