package splitter

import (
	"maps"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// usedUp are the addresses to which connections have all local ports of this host: a
// port that the kernel chooses is of one connection to an address alone. To find that
// there is none it looks at each (__inet_hash_connect in net/ipv4/inet_hashtables.c),
// for longer than all else about a flow takes, and the worker's other flows wait. So
// it is asked again when a connection to that address has ended, and now and then,
// because ports also come back from TIME_WAIT and from other programs. All workers
// share it: a flow of one gives a port to the next one of another.
type usedUp struct {
	pause int64       // in ticks, set before there are workers
	some  atomic.Bool // is looked at first: there are none, mostly

	mu    sync.Mutex
	until map[netip.AddrPort]int64 // ticks
}

// portsPause is how long no port is looked for otherwise.
const portsPause = 100 * time.Millisecond

// note says that there is no port for connections to the address.
func (u *usedUp) note(at netip.AddrPort, now int64) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.until == nil {
		u.until = map[netip.AddrPort]int64{}
	}
	maps.DeleteFunc(u.until, func(_ netip.AddrPort, until int64) bool { return until <= now })
	u.until[at] = now + u.pause
	u.some.Store(true)
}

// holds says whether it is known that there is no port for connections to the address.
func (u *usedUp) holds(at netip.AddrPort, now int64) bool {
	if !u.some.Load() {
		return false
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	return now < u.until[at]
}

// ended says that a connection to the address has.
func (u *usedUp) ended(at netip.AddrPort) {
	if !u.some.Load() {
		return
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	delete(u.until, at)
	u.some.Store(len(u.until) > 0)
}

// dialOwn begins to connect the flow to the target with an address of this host.
func (w *worker) dialOwn(f *flow, t *target) (socket int, errno syscall.Errno) {
	if w.relay.usedUp.holds(t.at, w.now) {
		return 0, unix.EADDRNOTAVAIL
	}
	if f.choice.masqueraded {
		socket, errno = w.edge.connectAs(unspecified(t.at), t.endpoint, w.relay.legMark)
	} else {
		socket, errno = w.edge.connect(t.endpoint)
	}
	if errno == unix.EADDRNOTAVAIL {
		w.relay.usedUp.note(t.at, w.now)
	}
	return socket, errno
}
