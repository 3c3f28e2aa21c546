package daemon

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/splitd/splitd/shadow"
	"github.com/splitd/splitd/shadow/runner"
	"github.com/splitd/splitd/shadow/shadower"
	"github.com/splitd/splitd/splitter"
	"github.com/splitd/splitd/terminator"
	"github.com/splitd/splitd/traffic"
)

// ticketsFile, below the state directory, has the keys of session tickets.
const ticketsFile = "tickets.key"

// insideAgain is when files are tried again that could not be used, and looked at that are.
const insideAgain = 10 * time.Second

// An insider has somebody stand in for the service of one split where flows of its sample
// are encrypted. It reads files in a goroutine of its own: who makes it, and whoever
// has a flow for it, waits for no disk.
type insider struct {
	split  traffic.Split
	before terminator.Numbers // of those that it follows
	made   atomic.Pointer[terminator.Terminator]
	fault  atomic.Pointer[fault] // why there is none; nil: it is not known yet
	wake   chan struct{}         // has the files read again; holds one
	stop   context.CancelFunc
	ended  chan struct{}

	unready atomic.Uint64 // flows that came before there was somebody
	most    int64         // flows that are carried at once
	carried atomic.Int64
}

// insiders makes them.
type insiders struct {
	mark     func(traffic.Split) uint32
	log      *slog.Logger
	now      func() time.Time
	secretly func()                     // once, before a key is read or what is inside TLS is played
	tickets  func() *terminator.Tickets // read once
	budget   int64                      // of all shadows, in bytes
}

func newInsiders(o Options, mark func(traffic.Split) uint32) insiders {
	return insiders{
		mark: mark, log: o.Log, now: o.Now, budget: budgetOf(o.Config),
		secretly: sync.OnceFunc(func() {
			if err := noCores(); err != nil {
				o.Log.Warn("a core dump of this process could have private keys in it", "error", err)
			}
		}),
		tickets: sync.OnceValue(func() *terminator.Tickets {
			return terminator.NewTickets(filepath.Join(o.Config.StateDir, ticketsFile), o.Now, o.Log)
		}),
	}
}

// of is the insider of a split, in the place of another one, which goes on where nothing has
// changed that it is made of; nil where nothing is seen inside TLS.
func (i insiders) of(split traffic.Split, before *insider) *insider {
	switch {
	case !split.Shadow.TLS.On():
		return nil
	case before != nil && reflect.DeepEqual(before.stands(), (&insider{split: split}).stands()):
		return before
	}
	ctx, stop := context.WithCancel(context.Background())
	made := &insider{split: split, wake: make(chan struct{}, 1), stop: stop, ended: make(chan struct{}), most: i.most(split.Shadow)}
	if before != nil {
		made.before = before.numbers()
	}
	go made.run(ctx, i)
	return made
}

// most is how many flows are seen into at once: as many as may be shadowed.
func (i insiders) most(s traffic.Shadow) int64 {
	const shadow = 36 << 10 // what each takes of the budget, package runner
	return cmp.Or(int64(s.MaxFlows), i.budget/shadow)
}

// enter says whether one more flow can be carried; who has entered leaves.
func (i *insider) enter() bool {
	if i.carried.Add(1) <= i.most {
		return true
	}
	i.leave()
	return false
}

func (i *insider) leave() { i.carried.Add(-1) }

// stands is what of a split an insider is made of.
func (i *insider) stands() any {
	s := i.split
	return []any{s.Name, s.Protocol, s.Mode, s.Proxy.SendProxy, s.Service, s.Shadow.TLS, s.Shadow.MaxFlows}
}

// run makes the terminator, as soon as that can be, and has it read its files again when it is
// woken.
func (i *insider) run(ctx context.Context, by insiders) {
	defer close(i.ended)
	t := i.make(ctx, by)
	if t == nil {
		return
	}
	defer t.Close()
	again := time.NewTicker(insideAgain) // also where no flow comes
	defer again.Stop()
	for {
		select {
		case <-again.C:
			t.Look()
		case <-i.wake:
			t.Reload()
		case <-ctx.Done():
			return
		}
	}
}

func (i *insider) make(ctx context.Context, by insiders) *terminator.Terminator {
	again := time.NewTicker(insideAgain)
	defer again.Stop()
	for {
		t, err := terminator.New(terminator.Options{
			Split: i.split, Tickets: by.tickets(), Dial: dialerTo(by.mark(i.split), wantsHeader(i.split)), Unseen: splitter.ErrUnseen, Now: by.now, Log: by.log,
		})
		if err == nil {
			i.made.Store(t)
			return t
		}
		if was := i.fault.Swap(&fault{err}); was == nil || was.err.Error() != err.Error() {
			by.log.Error("encrypted flows of the sample go on unseen", "split", i.split.Name, "error", err)
		}
		select {
		case <-again.C:
		case <-i.wake:
		case <-ctx.Done():
			return nil
		}
	}
}

// reload has the files read again, and waits for nobody.
func (i *insider) reload() {
	select {
	case i.wake <- struct{}{}:
	default:
	}
}

// close ends it, and returns when it has ended. Flows that are carried go on.
func (i *insider) close() {
	i.stop()
	<-i.ended
}

// trouble is why flows are not seen into; nil where they are, or where that is not known yet.
func (i *insider) trouble() error {
	if i == nil || i.made.Load() != nil {
		return nil
	}
	if f := i.fault.Load(); f != nil {
		return f.err
	}
	return nil
}

// numbers are those of its flows, and of those that it follows.
func (i *insider) numbers() terminator.Numbers {
	n := i.before
	if unready := i.unready.Load(); unready > 0 {
		n = n.Plus(terminator.Numbers{PassedThrough: map[string]uint64{terminator.Unready: unready}})
	}
	if t := i.made.Load(); t != nil {
		n = n.Plus(t.Numbers())
	}
	return n
}

// wantsHeader is which header of the PROXY protocol a primary wants: in mode kernel none.
func wantsHeader(s traffic.Split) traffic.SendProxy {
	if s.Mode == traffic.ModeProxy {
		return s.Proxy.SendProxy
	}
	return ""
}

// dialerTo connects to a primary, which is told whose the connection is where it wants that: it
// is ours. As with health checks, the rules of a split in the kernel leave those with
// the mark alone; 0 is none.
func dialerTo(mark uint32, header traffic.SendProxy) func(context.Context, netip.AddrPort) (net.Conn, error) {
	var d net.Dialer
	if mark != 0 {
		d.Control = func(_, _ string, c syscall.RawConn) error {
			var err error
			failed := c.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_MARK, int(mark)) })
			return errors.Join(failed, os.NewSyscallError("set packet mark", err))
		}
	}
	return func(ctx context.Context, at netip.AddrPort) (net.Conn, error) {
		conn, err := d.DialContext(ctx, "tcp", at.String())
		if err != nil || header == "" {
			return conn, err
		}
		own := conn.LocalAddr().(*net.TCPAddr).AddrPort()
		if _, err := conn.Write([]byte(header.Header(own, at))); err != nil {
			return nil, errors.Join(err, conn.Close())
		}
		return conn, nil
	}
}

// carrier carries a sampled flow so that what is said inside TLS is seen.
type carrier struct {
	in   *insider
	by   *terminator.Terminator
	play Play
	flow runner.Flow
}

var (
	_ splitter.Carrier  = carrier{}
	_ terminator.Teller = carrier{}
)

// Carry implements [splitter.Carrier].
func (c carrier) Carry(ctx context.Context, client, primary net.Conn) error {
	defer c.in.leave()
	return c.by.Carry(ctx, terminator.Flow{Client: c.flow.Client, Service: c.flow.Service, Primary: c.flow.Primary}, client, primary, c)
}

// Open implements [terminator.Teller].
func (c carrier) Open(h *shadow.Handshake, opaque string) terminator.Tap {
	of := c.flow
	of.TLS, of.Opaque = h, opaque
	if tap := c.play.Open(of, shadower.Anybody); tap != nil {
		return tap
	}
	return nil
}

// Take implements [splitter.Tap]; it is not called.
func (carrier) Take(splitter.Chunk) bool { return false }

// End implements [splitter.Tap]. It is called of a flow that the relay could not have carried,
// from any goroutine.
func (c carrier) End(e splitter.Ended) {
	c.in.leave()
	unseen(c.play, c.flow, "splitd has no file descriptors left to see into it, or it ended before", shadower.Anybody, e.At)
}

// unseen counts a flow that goes on unseen.
func unseen(in Play, of runner.Flow, why string, worker int, at time.Time) {
	of.Opaque = why
	if tap := in.Open(of, worker); tap != nil {
		tap.End(shadow.Closed, at)
	}
}
