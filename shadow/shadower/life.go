package shadower

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/rpc"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// life is one process, from before it starts until it has ended.
type life struct {
	number  uint64
	outlets []*outlet // of the relay's threads, and then the shared one
	given   []*shared // what the process gets
	over    chan struct{}
	bell    chan struct{} // holds one

	queue  sync.Mutex // guards orders and isOver
	orders []order
	isOver bool // nothing is told any more

	mu     sync.Mutex // guards what follows, for as long as a program takes to start
	cmd    *exec.Cmd  // nil: not started
	conn   net.Conn
	ending bool
	why    error // it was killed
}

// An order tells the process something. The next one waits until it returns.
type order func(*rpc.Client) error

func newLife(number uint64, workers, records int) (*life, error) {
	l := &life{number: number, over: make(chan struct{}), bell: make(chan struct{}, 1)}
	for i := range workers + 1 {
		o, s, err := newOutlet(records, i == workers)
		if err != nil {
			return nil, errors.Join(err, l.closeGiven())
		}
		l.outlets, l.given = append(l.outlets, o), append(l.given, s)
	}
	return l, nil
}

func (l *life) closeGiven() error {
	var err error
	for _, s := range l.given {
		err = errors.Join(err, s.close())
	}
	l.given = nil
	return err
}

// push puts an order behind the others, unless the life is over.
func (l *life) push(o order) bool {
	l.queue.Lock()
	defer l.queue.Unlock()
	if l.isOver {
		return false
	}
	l.orders = append(l.orders, o)
	select {
	case l.bell <- struct{}{}:
	default:
	}
	return true
}

// take takes all orders that there are.
func (l *life) take(last bool) []order {
	l.queue.Lock()
	defer l.queue.Unlock()
	orders := l.orders
	l.orders, l.isOver = nil, l.isOver || last
	return orders
}

// run starts the process and serves it until it has ended, which is said in words.
func (l *life) run(p *Process) error {
	defer close(l.over)
	cmd, conn, err := l.start(p.options, p.records)
	if err != nil {
		l.die(nobody())
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	var serving sync.WaitGroup
	client := rpc.NewClient(conn)
	serving.Go(func() { l.speak(ctx, client, p) })
	serving.Go(func() { l.catchUp(ctx) })
	serving.Go(func() { p.inform(ctx) })
	err = cmd.Wait()
	cancel()
	_ = client.Close()
	l.die(client)
	serving.Wait()
	l.mu.Lock()
	defer l.mu.Unlock()
	return errors.Join(l.why, err)
}

// die has nobody write or ask any more: whoever waits for an answer hears from a client
// that is closed that there will be none.
func (l *life) die(closed *rpc.Client) {
	for _, o := range l.outlets {
		o.kill()
	}
	for _, o := range l.take(true) {
		_ = o(closed)
	}
}

// nobody is a client that is closed.
func nobody() *rpc.Client {
	ours, theirs := net.Pipe()
	client := rpc.NewClient(ours)
	_ = client.Close()
	_ = theirs.Close()
	return client
}

// start starts the process. Its environment has nothing of the daemon's own.
func (l *life) start(o ProcessOptions, records int) (*exec.Cmd, net.Conn, error) {
	ours, theirs, err := socketPair()
	if err != nil {
		return nil, nil, errors.Join(err, l.closeGiven())
	}
	cmd := o.Command(ServeOptions{Rings: len(l.given), Records: records, Priority: o.Priority, Budget: max(o.Budget-int64(len(l.given)*records), o.Budget/2)})
	cmd.ExtraFiles = []*os.File{theirs}
	for _, s := range l.given {
		cmd.ExtraFiles = append(cmd.ExtraFiles, s.files[:]...)
	}
	cmd.Env = append(environment(cmd.Environ()), limits(o.Budget, o.Priority)...)
	cmd.Stderr, cmd.WaitDelay = o.Stderr, time.Second
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // a terminal's Ctrl-C is the daemon's
	l.mu.Lock()
	defer l.mu.Unlock()
	if err = errEnding; !l.ending {
		err = cmd.Start()
	}
	closed := errors.Join(theirs.Close(), l.closeGiven())
	if err != nil {
		return nil, nil, errors.Join(fmt.Errorf("start the process that plays shadows: %w", err), ours.Close(), closed)
	}
	l.cmd, l.conn = cmd, ours
	return cmd, ours, nil
}

var errEnding = errors.New("splitd ends")

// environment leaves out what is for the daemon alone: splitd's own settings, and
// sd_notify(3) and sd_listen_fds(3).
func environment(all []string) []string {
	return slices.DeleteFunc(slices.Clone(all), func(v string) bool {
		for _, own := range []string{"SPLITD_", "NOTIFY_SOCKET=", "LISTEN_", "WATCHDOG_", "GOMAXPROCS=", "GOMEMLIMIT=", "GOGC="} {
			if strings.HasPrefix(v, own) {
				return true
			}
		}
		return false
	})
}

// socketPair is a connection and its other end.
func socketPair() (net.Conn, *os.File, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("make pair of sockets: %w", err)
	}
	ours, theirs := os.NewFile(uintptr(fds[0]), "ours"), os.NewFile(uintptr(fds[1]), "theirs")
	conn, err := net.FileConn(ours)
	if err = errors.Join(err, ours.Close()); err != nil {
		return nil, nil, fmt.Errorf("make pair of sockets: %w", errors.Join(err, theirs.Close()))
	}
	return conn, theirs, nil
}

// speak gives the process its orders, one after the other. One that it does not
// understand is a fault of ours, and costs its play alone.
func (l *life) speak(ctx context.Context, client *rpc.Client, p *Process) {
	for {
		select {
		case <-l.bell:
		case <-ctx.Done():
			return
		}
		for _, o := range l.take(false) {
			err := o(client)
			switch {
			case err == nil:
			case isGone(err):
				l.kill(errors.New("it is not understood any more")) // where it has not ended
			default:
				p.options.Log.Error("tell the process that plays shadows", "error", err)
			}
		}
	}
}

// catchUp tells rings what they had no room for.
func (l *life) catchUp(ctx context.Context) {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		for _, o := range l.outlets {
			o.catchUp()
		}
	}
}

// kill ends the process at once.
func (l *life) kill(why error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.cmd != nil {
		l.why = why
		_ = l.cmd.Process.Kill()
	}
}

// endPatience is how long a process may take to end that has been told to.
const endPatience = time.Second

// end has the process end, and returns when it has.
func (l *life) end() {
	l.mu.Lock()
	l.ending = true
	started := l.cmd != nil
	if started {
		_ = l.conn.Close()
	}
	l.mu.Unlock()
	if !started {
		return
	}
	late := time.AfterFunc(endPatience, func() { l.kill(errors.New("it does not end")) })
	defer late.Stop()
	<-l.over
}
