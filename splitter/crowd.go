package splitter

import (
	"bytes"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Whoever sends datagrams may claim to be anybody, and each claim is a flow that has
// a file and one of this host's local ports. So flows of UDP have a share of both
// alone, and where it is used up those make room that have shown least: who has
// never been answered, or has said nothing since, and has been silent for longest. As
// connection tracking does (early_drop in net/netfilter/nf_conntrack_core.c) with
// what is not assured.

const (
	// filesShare and portsShare are what flows of UDP leave of this process's files
	// and of this host's ports: one of so many parts. The ports are also those of
	// other programs here, that ask name servers, say.
	filesShare = 2
	portsShare = 4
)

// crowding counts the flows of UDP, of all workers together.
type crowding struct {
	most int64 // set before there are workers
	open atomic.Int64
}

// crowdFor says how many flows of UDP there may be of so many files and ports.
func crowdFor(files, ports int64) int64 {
	return min(files-files/filesShare, ports-ports/portsShare)
}

func (c *crowding) full() bool { return c.open.Load() >= c.most }

// portsUsual is how many local ports Linux has where nobody says otherwise.
const portsUsual = 60999 - 32768 + 1

// localPorts is how many ports this host has for sockets that ask for any:
// ip_local_port_range in Documentation/networking/ip-sysctl.rst.
func localPorts() int64 {
	text, err := os.ReadFile("/proc/sys/net/ipv4/ip_local_port_range")
	var first, last int64
	if err == nil {
		_, err = fmt.Fscan(bytes.NewReader(text), &first, &last)
	}
	if err != nil || last < first {
		return portsUsual
	}
	return last - first + 1
}

// admits says whether there may be one more flow of a client, and counts it; what
// enter has returned is to be given back.
func (w *worker) admits(c *choice, from netip.Addr) (counted netip.Addr, ok bool) {
	if lack := w.lacks(); lack != 0 && !w.makeRoom(c) {
		if lack == unix.EAGAIN {
			c.gate.noPorts.another()
		} else {
			c.gate.lack(lack)
		}
		if left, ok := w.relay.quiet.allow("room for "+c.split, time.Now()); ok {
			w.relay.say(func(log *slog.Logger) {
				log.Warn("flow refused: flows of UDP have all the files, memory or local ports that they may", "split", c.split, "error", lack, "left_out", left)
			})
		}
		return netip.Addr{}, false
	}
	counted, refused := c.enter(from)
	if refused != "" {
		w.tellRefused(c, from, refused)
	}
	return counted, refused == ""
}

// lacks is what there is none of for another flow of UDP: EAGAIN of local ports (or
// of their share of all else), 0 of nothing.
func (w *worker) lacks() syscall.Errno {
	switch r := w.relay; {
	case r.files.short(filesOfTalk, false):
		return r.files.lack
	case r.crowd.full(), w.now < w.portless:
		return unix.EAGAIN
	}
	return 0
}

// makeRoom ends a flow that has shown little, for another one of the choice's split,
// and says whether there was one: of that split if possible, so that none suffers
// for what is sent to another.
func (w *worker) makeRoom(c *choice) bool {
	place := c.gate.newcomers[w.number].first
	if place == 0 {
		place = w.newcomers.first
	}
	if place == 0 {
		return false
	}
	f := w.flows.at(place)
	f.choice.gate.crowdedOut.Add(1)
	if left, ok := w.relay.quiet.allow("crowd of "+c.split, time.Now()); ok {
		w.relay.say(func(log *slog.Logger) {
			log.Warn("flows of UDP that were answered once at most make room for new ones: there are as many as may be", "split", c.split, "most", w.relay.crowd.most, "left_out", left)
		})
	}
	w.conclude(f, w.edge.close, endShort)
	return true
}

// noPort rests from what needs another local port: to look for one among so many
// that are taken costs more than all else about a flow.
func (w *worker) noPort() {
	if w.now < w.portless {
		return
	}
	w.portPause = nextPause(w.portPause)
	w.portless = w.now + ticks(w.portPause)
}

// isPortless says that all local ports are taken: udp(7) and connect(2).
func isPortless(errno syscall.Errno) bool { return errno == unix.EAGAIN || errno == unix.EADDRNOTAVAIL }

// queue is flows of UDP by their places in the slab, the one that has been silent for
// longest first; 0 is none.
type queue struct{ first, last int32 }

// queueOf is that of a worker's flows of a split, in a cache line of its own.
type queueOf struct {
	queue
	_ [64 - 8]byte
}

// neighbours are who is before and behind a flow in a queue.
type neighbours struct{ before, behind int32 }

// The queues that a flow is in while it is fresh.
const (
	amongAll     = iota // of the worker
	amongItsOwn         // of the split and the worker
	queuesOfFlow        // so many
)

// freshen puts the flow at the end of its queues: it has said something, or heard.
func (w *worker) freshen(f *flow) {
	w.settleIn(f)
	f.talk.fresh = true
	w.push(&w.newcomers, amongAll, f)
	w.push(&f.choice.gate.newcomers[w.number].queue, amongItsOwn, f)
}

// settleIn takes the flow out of its queues.
func (w *worker) settleIn(f *flow) {
	if !f.talk.fresh {
		return
	}
	f.talk.fresh = false
	w.pull(&w.newcomers, amongAll, f)
	w.pull(&f.choice.gate.newcomers[w.number].queue, amongItsOwn, f)
}

func (w *worker) push(q *queue, which int, f *flow) {
	f.talk.queues[which] = neighbours{before: q.last}
	if q.last == 0 {
		q.first = f.place
	} else {
		w.flows.at(q.last).talk.queues[which].behind = f.place
	}
	q.last = f.place
}

func (w *worker) pull(q *queue, which int, f *flow) {
	at := f.talk.queues[which]
	if at.before == 0 {
		q.first = at.behind
	} else {
		w.flows.at(at.before).talk.queues[which].behind = at.behind
	}
	if at.behind == 0 {
		q.last = at.before
	} else {
		w.flows.at(at.behind).talk.queues[which].before = at.before
	}
}
