package splitter

import (
	"fmt"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/splitd/splitd/internal/nettest"
	"github.com/splitd/splitd/traffic"
)

func (r *testRelay) noFiles() uint64 { return r.Refusals()["mx"][traffic.RefusedNoFiles] }

// leaveRoomFor lets flows have so many files more. Of a small host memory would be
// what is short.
func (r *testRelay) leaveRoomFor(files int64) {
	r.inspect(func(*worker) { r.files.most, r.files.lack = r.files.used.Load()+files, unix.EMFILE })
}

// Flows end all the time, so that there is always room for somebody: not for all
// who wait behind him.
func TestWhoWaitsForLongIsResetThoughSomeAreServed(t *testing.T) {
	ip := families()["IPv4"]
	service := netip.AddrPortFrom(ip, freePort())
	next := make(chan struct{})
	server := startServer(t, ip, func(c *net.TCPConn) {
		select {
		case <-next:
			_, _ = c.Write([]byte{'o'})
		case <-t.Context().Done():
		}
		abortConn(c)
	})
	r := startRelay(t, Options{Workers: 1}, newSplit("mx", service, server, nil))
	r.leaveRoomFor(20 * filesOfFlow)
	var clients sync.WaitGroup
	var served, reset atomic.Uint64
	for range 1000 {
		clients.Go(func() {
			switch _, err := greeting(service); {
			case err == nil:
				served.Add(1)
			case isReset(err):
				reset.Add(1)
			default:
				t.Errorf("a client got %v", err)
			}
		})
	}
	looks := 0
	nettest.Eventually(t, "somebody is reset, while one flow after the other ends", func() bool {
		if looks++; looks%4 == 0 { // more would be served sooner than anybody has waited for long
			select {
			case next <- struct{}{}:
			default:
			}
		}
		return r.noFiles() > 0
	})
	close(next)
	clients.Wait()
	if n := r.noFiles(); n == 0 || reset.Load() < n || served.Load() == 0 {
		t.Errorf("%d were served and %d reset, %d of them counted", served.Load(), reset.Load(), n)
	}
}

// unwatched has no room for more in its epoll, for a while.
type unwatched struct {
	system
	after atomic.Int64 // so many are still watched
	short atomic.Int64 // and so many are not then
}

func (u *unwatched) watch(epoll, operation, descriptor int, event unix.EpollEvent) syscall.Errno {
	if operation == unix.EPOLL_CTL_ADD && u.short.Load() > 0 && u.after.Add(-1) < 0 {
		u.short.Add(-1)
		return unix.ENOSPC
	}
	return u.system.watch(epoll, operation, descriptor, event)
}

func TestAListenerForWhichThereWasNoWatchIsWatchedLater(t *testing.T) {
	ip := families()["IPv4"]
	for _, short := range []int64{1, 4} {
		for _, transport := range []traffic.Transport{traffic.TCP, traffic.UDP} {
			t.Run(fmt.Sprintf("%s, %d times none", transport, short), func(t *testing.T) {
				service := netip.AddrPortFrom(ip, freePort())
				full := &unwatched{}
				full.after.Store(1) // the bell's
				full.short.Store(short)
				split := newSplit("mx", service, startServer(t, ip, greeter('o')), nil)
				if transport == traffic.UDP {
					split = ofUDP(newSplit("mx", service, answersAnywhere(t, ip, "old").at, nil))
				}
				r := startRelay(t, Options{Workers: 1, edge: func() edge { return full }}, split)
				if transport == traffic.UDP {
					speak(t, service).wantFrom("old")
				} else if letter, err := greeting(service); letter != 'o' {
					t.Errorf("the client got %q, %v", letter, err)
				}
				if got := r.Faults().Accepts; got != uint64(short) {
					t.Errorf("%d times there was no watch, want %d", got, short)
				}
			})
		}
	}
}

// deafTo has no room for one listener, until it has.
type deafTo struct {
	system
	added    atomic.Int64
	listener atomic.Int64 // the first that is to be watched besides the bell
	room     atomic.Bool
}

func (d *deafTo) watch(epoll, operation, descriptor int, event unix.EpollEvent) syscall.Errno {
	if operation == unix.EPOLL_CTL_ADD {
		if d.added.Add(1) == 2 {
			d.listener.Store(int64(descriptor))
		}
		if d.listener.Load() == int64(descriptor) && !d.room.Load() {
			return unix.ENOSPC
		}
	}
	return d.system.watch(epoll, operation, descriptor, event)
}

func TestAListenerThatCannotBeWatchedKeepsNoOtherFromItsClients(t *testing.T) {
	ip := families()["IPv4"]
	deaf, other := netip.AddrPortFrom(ip, freePort()), netip.AddrPortFrom(ip, freePort())
	server, full := startServer(t, ip, greeter('o')), &deafTo{}
	r := startRelay(t, Options{Workers: 1, edge: func() edge { return full }}, newSplit("deaf", deaf, server, nil))
	r.apply(newSplit("deaf", deaf, server, nil), newSplit("mx", other, server, nil))
	waits := dial(t, deaf)
	nettest.Eventually(t, "it was tried again and again", func() bool {
		if letter, err := greeting(other); letter != 'o' {
			t.Fatalf("a client of the other got %q, %v", letter, err)
		}
		return r.Faults().Accepts >= 4
	})
	full.room.Store(true)
	if _, err := waits.Read(make([]byte, 1)); err != nil {
		t.Errorf("who has waited got %v", err)
	}
}

// fs.epoll.max_user_watches is all programs' of a user.
func TestLackOfEpollWatchesIsThisHostsFaultAndPasses(t *testing.T) {
	ip := families()["IPv4"]
	service := netip.AddrPortFrom(ip, freePort())
	full := &unwatched{}
	split := newSplit("mx", service, startServer(t, ip, greeter('o')), map[string]candidate{"new": {startServer(t, ip, greeter('n')), traffic.Whole}})
	r := startRelay(t, Options{Workers: 1, edge: func() edge { return full }}, split)
	r.inspect(func(*worker) {}) // it listens
	full.short.Store(1)
	if letter, err := greeting(service); !isReset(err) {
		t.Errorf("without a watch for the client it got %q, %v, want a reset", letter, err)
	}
	if f := r.Faults(); r.noFiles() != 1 || f.Accepts != 1 {
		t.Errorf("%d were counted as refused, and %d accept errors, want 1 and 1", r.noFiles(), f.Accepts)
	}
	full.after.Store(1)
	full.short.Store(1)
	if letter, err := greeting(service); letter != 'o' {
		t.Errorf("without a watch for the candidate the client got %q, %v, want the primary", letter, err)
	}
	if f := r.Faults(); r.numbers("new").Failed != 0 || f.Dials != 1 {
		t.Errorf("%d failures of the candidate and %d faults, want 0 and 1", r.numbers("new").Failed, f.Dials)
	}
	if letter, err := greeting(service); letter != 'n' {
		t.Errorf("afterwards the client got %q, %v, want the candidate", letter, err)
	}
}

func TestAServiceThatGoesTakesNoFilesThatThereAreNot(t *testing.T) {
	ip := families()["IPv4"]
	service := netip.AddrPortFrom(ip, freePort())
	r := startRelay(t, Options{Workers: 1}, newSplit("mx", service, startServer(t, ip, echo), nil))
	r.leaveRoomFor(0)
	c := dial(t, service)
	nettest.Eventually(t, "the relay rests", func() bool { return r.Faults().Accepts > 0 })
	r.apply()
	if _, err := c.Read(make([]byte, 1)); !isReset(err) {
		t.Errorf("who waited got %v, want a reset", err)
	}
	if n := r.openFlows(); n != 0 {
		t.Errorf("%d flows were made", n)
	}
}

func TestListenersAndWorkersHaveTheirFilesBeforeFlows(t *testing.T) {
	f := &files{most: 100, limit: 20}
	f.own.Store(10)
	f.used.Store(8)
	if f.short(2, false) || !f.short(3, false) {
		t.Errorf("of 20, 10 are the relay's own and 8 of flows: short of 2: %t, of 3: %t", f.short(2, false), f.short(3, false))
	}
	ip := families()["IPv4"]
	split := newSplit("mx", netip.AddrPortFrom(ip, freePort()), closedPort(ip), nil)
	split.Service.Ports = append(split.Service.Ports, traffic.Port{Number: freePort(), Transport: traffic.TCP})
	r := startRelay(t, Options{Workers: 2}, split)
	if n := r.files.own.Load(); n != 2*filesOfWorker+2*2 {
		t.Errorf("%d files are counted for 2 workers with 2 listeners each", n)
	}
	r.apply()
	if n := r.files.own.Load(); n != 2*filesOfWorker {
		t.Errorf("%d files are counted for 2 workers without listeners", n)
	}
}

// floodedEdge has connections without end that are gone when they are accepted.
type floodedEdge struct{ system }

func (f *floodedEdge) accept(listener int) (int, netip.AddrPort, syscall.Errno) {
	socket, client, errno := f.system.accept(listener)
	if errno == unix.EAGAIN {
		errno = unix.ECONNABORTED
	}
	return socket, client, errno
}

func TestAServiceIsRemovedThoughConnectionsComeWithoutEnd(t *testing.T) {
	ip := families()["IPv4"]
	r := startRelay(t, Options{Workers: 1, edge: func() edge { return &floodedEdge{} }}, newSplit("mx", netip.AddrPortFrom(ip, freePort()), closedPort(ip), nil))
	removed := make(chan error, 1)
	go func() { removed <- r.Apply(t.Context(), nil) }()
	select {
	case err := <-removed:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(testPatience):
		t.Error("the service is still there")
	}
}

// fullEdge has no file for what is accepted, but for those that are given up, when it
// is armed.
type fullEdge struct {
	system
	armed atomic.Bool
	room  int
}

func (f *fullEdge) close(descriptor int) {
	f.room++
	f.system.close(descriptor)
}

func (f *fullEdge) accept(listener int) (int, netip.AddrPort, syscall.Errno) {
	if !f.armed.Load() {
		return f.system.accept(listener)
	}
	if f.room == 0 {
		return 0, netip.AddrPort{}, unix.EMFILE
	}
	f.room--
	return f.system.accept(listener)
}

// On a small host memory is what flows would be short of, and files may be all the same.
func TestWhoIsResetAfterWaitingIsCountedForWhatWasShort(t *testing.T) {
	ip := families()["IPv4"]
	for name, test := range map[string]struct {
		short func(r *testRelay, e *fullEdge)
		want  traffic.Refusal
	}{
		"files, of a small host": {func(_ *testRelay, e *fullEdge) { e.armed.Store(true) }, traffic.RefusedNoFiles},
		"memory": {func(r *testRelay, _ *fullEdge) {
			r.inspect(func(*worker) { r.files.most = r.files.used.Load() })
		}, traffic.RefusedNoMemory},
	} {
		t.Run(name, func(t *testing.T) {
			service, e := netip.AddrPortFrom(ip, freePort()), &fullEdge{}
			r := startRelay(t, Options{Workers: 1, edge: func() edge { return e }}, newSplit("mx", service, startServer(t, ip, echo), nil))
			r.inspect(func(*worker) { r.files.lack, e.room = unix.ENOMEM, 0 })
			test.short(r, e)
			awaitReset(t, dial(t, service))
			nettest.Eventually(t, "it is counted", func() bool { return len(r.Refusals()["mx"]) > 0 })
			if diff := cmp.Diff(map[traffic.Refusal]uint64{test.want: 1}, r.Refusals()["mx"]); diff != "" {
				t.Errorf("refusals (-want +got):\n%s", diff)
			}
		})
	}
}
