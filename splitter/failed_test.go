package splitter

import (
	"context"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/splitd/splitd/internal/nettest"
	"github.com/splitd/splitd/traffic"
)

// fail has the worker's next wait for events fail, as by a mistake of ours.
func (w *worker) fail() {
	w.post(func() { _ = unix.Dup3(w.poller.bell, w.poller.epoll, unix.O_CLOEXEC) })
}

// What knows the numbers of its listeners may set options on whoever would have them
// next.
func TestAWorkerThatFailsLeavesItsClientsToTheOthersAndItsSocketsNumbersToNobody(t *testing.T) {
	ip := families()["IPv4"]
	service, files := netip.AddrPortFrom(ip, freePort()), 0
	server := startServer(t, ip, greeter('o'))
	other := netip.AddrPortFrom(ip, freePort())
	answers := answersAnywhere(t, ip, "old")
	nettest.Eventually(t, "this process opens no more files", func() bool {
		before := files
		files = len(openFiles(t))
		return files == before
	})
	r := New(Options{Workers: 2})
	if err := r.Apply(t.Context(), []traffic.Split{newSplit("mx", service, server, nil), ofUDP(newSplit("udp", other, answers.at, nil))}); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- r.Run(context.Background()) }()

	r.mu.Lock() // so that nothing stops yet
	var listeners []int
	for _, f := range r.fronts {
		listeners = append(listeners, f.sockets[0])
	}
	was := identities(t, listeners)
	r.workers[0].fail()
	<-r.workers[0].ended
	late := r.openFront(t, tcpSpot(netip.AddrPortFrom(ip, freePort())), r.fronts[tcpSpot(service)].choice.Load())
	for range 20 {
		for _, at := range []netip.AddrPort{service, late} {
			if letter, err := greeting(at); letter != 'o' {
				t.Errorf("while one worker has failed a client of %s got %q, %v", at, letter, err)
			}
		}
	}
	for i, now := range identities(t, listeners) {
		if now != was[i] {
			t.Errorf("number %d was the listener's and is somebody else's, or nobody's", listeners[i])
		}
	}
	r.mu.Unlock()
	if err := <-ended; err == nil {
		t.Error("Run() = nil, want why a worker has failed")
	}
	nettest.Eventually(t, "no file is left", func() bool { return len(openFiles(t)) <= files }, func() any { return openFiles(t) })
}

// openFront is what Apply does for another address; r.mu is held.
func (r *Relay) openFront(t *testing.T, at spot, c *choice) netip.AddrPort {
	t.Helper()
	sockets, err := listen(at, len(r.workers), false)
	if err != nil {
		t.Fatal(err)
	}
	f := &front{address: at, sockets: sockets}
	f.choice.Store(c)
	r.fronts[at] = f
	r.open(f)
	return at.AddrPort
}

// identities are the inodes of files, 0 of numbers that are none's.
func identities(t *testing.T, files []int) []uint64 {
	t.Helper()
	var all []uint64
	for _, file := range files {
		var stat unix.Stat_t
		_ = unix.Fstat(file, &stat)
		all = append(all, stat.Ino)
	}
	return all
}
