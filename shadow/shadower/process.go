package shadower

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"os/exec"
	"sync"
	"sync/atomic"
	"time"

	"github.com/splitd/splitd/shadow/play"
)

// ProcessOptions are what a Process is made of. Command must be there.
type ProcessOptions struct {
	// Command returns the command line of a process that calls Serve with these
	// options. It gets its files and its environment besides.
	Command func(ServeOptions) *exec.Cmd
	// Budget is the memory of all shadows, in bytes.
	Budget int64
	// Workers is how many of the relay's threads may tell of flows; each number has a
	// ring of its own, and all others one together.
	Workers int
	// Priority is that of ServeOptions.
	Priority Priority
	// Stderr is what the process says to, as it is.
	Stderr io.Writer
	Log    *slog.Logger // nil: nothing is logged
}

// A Process plays the shadows of all splits. It begins with the first Play, in Run, and
// ends with Close. Its methods may be called from many goroutines.
type Process struct {
	options ProcessOptions
	records int // bytes of a ring
	used    atomic.Int64
	late    atomic.Bool               // it has not answered in time, and not since
	outlets atomic.Pointer[[]*outlet] // nil: nobody reads any

	patience      time.Duration // haltPatience
	begun, closed chan struct{}
	hurry         sync.Once
	hurried       chan struct{}

	mu       sync.Mutex // guards what follows, for a moment
	plays    map[uint64]*Play
	made     uint64 // plays
	numbers  uint64 // lives
	life     *life
	isClosed bool
}

// New returns a Process; Run it, and Close it.
func New(o ProcessOptions) *Process {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	o.Workers = max(1, o.Workers)
	return &Process{
		options: o, records: ringOf(o.Budget, o.Workers), plays: map[uint64]*Play{}, patience: haltPatience,
		begun: make(chan struct{}), closed: make(chan struct{}), hurried: make(chan struct{}),
	}
}

// Play makes a Play, which plays no flow before Begin. Close it. It waits for nobody: a
// flow may be opened at once.
func (p *Process) Play(o Options) (*Play, error) {
	if err := play.Check(o.Split); err != nil {
		return nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.life == nil && p.numbers == 0 && !p.isClosed {
		if err := p.renew(); err != nil {
			return nil, err
		}
		close(p.begun)
	}
	p.made++
	made := &Play{process: p, id: p.made, options: o, account: &account{id: p.made, kept: o.Kept}}
	if o.After != nil {
		made.after, made.account, made.shown = o.After.id, o.After.account, o.After.shownTo(o.Split)
	}
	made.options.After, made.options.Kept = nil, nil // they may be large
	p.plays[made.id] = made
	if !p.isClosed {
		p.order(made.tellMake(o.Kept))
	}
	return made, nil
}

// Used is how many bytes shadows hold, those included that have not been looked at.
func (p *Process) Used() int64 {
	used := p.used.Load()
	if outlets := p.outlets.Load(); outlets != nil {
		for _, o := range *outlets {
			used += o.used()
		}
	}
	return used
}

// renew begins a life that is not yet run; p.mu is held.
func (p *Process) renew() error {
	l, err := newLife(p.numbers+1, p.options.Workers, p.records)
	if err != nil {
		return err
	}
	p.numbers++
	p.life = l
	p.outlets.Store(&l.outlets)
	return nil
}

// order has the process told something, in order; p.mu is held. One that is not there is
// told all that counts when it is.
func (p *Process) order(o order) bool { return p.life != nil && p.life.push(o) }

// watch ends the process unless what it returns is stopped in time; p.mu is held.
func (p *Process) watch(why string) *time.Timer {
	l := p.life
	return time.AfterFunc(p.patience, func() {
		if l != nil {
			l.kill(errors.New(why))
		}
	})
}

// editions is what editions of this life's numbers begin behind.
func (p *Process) editions() (uint64, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.life == nil {
		return 0, ErrGone
	}
	return p.life.number << 40, nil
}

// isIn says whether a life whose editions begin behind that goes on; p.mu is held.
func (p *Process) isIn(life uint64) bool { return p.life != nil && p.life.number<<40 == life }

// tell has the process told something behind all else, and says whether there is one.
func (p *Process) tell(o order) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.order(o)
}

// Hurry has nobody wait for an answer any more when so much time is over: the daemon
// ends.
func (p *Process) Hurry(patience time.Duration) {
	time.AfterFunc(patience, func() { p.hurry.Do(func() { close(p.hurried) }) })
}

// The pauses before another process takes over.
const (
	pauseFirst = 100 * time.Millisecond
	pauseMost  = 30 * time.Second
	// settled is how long a process has to live for the next pause to be the first.
	settled = time.Minute
)

// Run has the process run, and another after one that ended by itself, until Close.
func (p *Process) Run() error {
	select {
	case <-p.begun:
	case <-p.closed:
		return nil
	}
	for pause := pauseFirst; ; pause = min(2*pause, pauseMost) {
		begin := time.Now()
		err := p.live()
		if time.Since(begin) > settled {
			pause = pauseFirst
		}
		select {
		case <-p.closed:
			return nil
		default:
		}
		p.options.Log.Error("the process that plays shadows ended; another takes over with what was counted when it was last saved", "error", err, "pause", pause)
		select {
		case <-time.After(pause):
		case <-p.closed:
			return nil
		}
	}
}

// live is one life, from its beginning to its end.
func (p *Process) live() error {
	p.mu.Lock()
	l := p.life
	p.mu.Unlock()
	if l == nil {
		var err error
		if l, err = p.takeOver(); err != nil {
			return err
		}
	}
	err := l.run(p)
	p.bury()
	return err
}

// bury forgets a life, and counts the flows that have gone with it.
func (p *Process) bury() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.outlets.Store(nil)
	p.used.Store(0)
	p.life = nil
	p.late.Store(false)
	for _, one := range p.plays {
		one.rest.Store(nil)
		one.account.die()
	}
}

// takeOver begins another life, and tells it of all plays.
func (p *Process) takeOver() (*life, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.isClosed {
		return nil, errEnding
	}
	if err := p.renew(); err != nil {
		return nil, err
	}
	for id := uint64(1); id <= p.made; id++ {
		if one := p.plays[id]; one != nil {
			p.order(one.tellMake(one.account.kept))
			if one.run.Load()%2 == 1 {
				p.order(one.tellRun)
			}
		}
	}
	return p.life, nil
}

// Close ends the process, and returns when it has ended. Plays are to be closed before.
func (p *Process) Close() {
	p.mu.Lock()
	if p.isClosed {
		p.mu.Unlock()
		return
	}
	p.isClosed = true
	close(p.closed)
	l := p.life
	p.mu.Unlock()
	if l != nil {
		l.end()
	}
}

// inform collects numbers now and then, so that what is timed is observed soon.
func (p *Process) inform(ctx context.Context) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		p.mu.Lock()
		running := make([]*Play, 0, len(p.plays))
		for _, one := range p.plays {
			if one.run.Load()%2 == 1 {
				running = append(running, one)
			}
		}
		p.mu.Unlock()
		for _, one := range running {
			one.Numbers()
		}
	}
}
