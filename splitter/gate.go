package splitter

import (
	"hash/maphash"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/splitd/splitd/traffic"
)

// gate counts the flows of a split that are open, whoever accepted them, and
// lets no more in than may be. It outlives the definitions of its split (forget.go).
type gate struct {
	left
	tcp, udp  room
	newcomers []queueOf // by worker, see crowd.go

	tees teeCounts
	// Refused, by reason.
	maxFlows, maxClientFlows, noFiles, noMemory, noPorts     shut
	crowdedOut, badHeader, lateHeader, noHeader, otherFamily atomic.Uint64
}

// shut counts who is shut out by a limit or for lack of something, and knows when the
// newest was.
type shut struct {
	atomic.Uint64
	newest atomic.Int64 // Unix time in nanoseconds
}

func (s *shut) another() {
	s.Add(1)
	s.newest.Store(time.Now().UnixNano())
}

// room counts the flows of one transport: whoever sends datagrams may claim to be
// anybody, and would else keep others' connections out.
type room struct {
	open    atomic.Int64
	clients clients
}

func (g *gate) room(of traffic.Transport) *room {
	if of == traffic.UDP {
		return &g.udp
	}
	return &g.tcp
}

func (g *gate) idle() bool { return g.tcp.open.Load() == 0 && g.udp.open.Load() == 0 }

// refusals are what was refused, by reason; none are left out.
func (g *gate) refusals() map[traffic.Refusal]uint64 {
	all := map[traffic.Refusal]uint64{
		traffic.RefusedMaxFlows:       g.maxFlows.Load(),
		traffic.RefusedMaxClientFlows: g.maxClientFlows.Load(),
		traffic.RefusedNoFiles:        g.noFiles.Load(),
		traffic.RefusedNoMemory:       g.noMemory.Load(),
		traffic.RefusedNoPorts:        g.noPorts.Load(),
		traffic.RefusedCrowdedOut:     g.crowdedOut.Load(),
		traffic.RefusedBadHeader:      g.badHeader.Load(),
		traffic.RefusedLateHeader:     g.lateHeader.Load(),
		traffic.RefusedNoHeader:       g.noHeader.Load(),
		traffic.RefusedOtherFamily:    g.otherFamily.Load(),
	}
	for reason, n := range all {
		if n == 0 {
			delete(all, reason)
		}
	}
	return all
}

// shutOut says when the newest was shut out by limits and for lack of something, by
// reason; what is none is left out.
func (g *gate) shutOut() map[traffic.Refusal]time.Time {
	newest := map[traffic.Refusal]time.Time{}
	for reason, s := range map[traffic.Refusal]*shut{
		traffic.RefusedMaxFlows: &g.maxFlows, traffic.RefusedMaxClientFlows: &g.maxClientFlows,
		traffic.RefusedNoFiles: &g.noFiles, traffic.RefusedNoMemory: &g.noMemory, traffic.RefusedNoPorts: &g.noPorts,
	} {
		if at := s.newest.Load(); at != 0 {
			newest[reason] = time.Unix(0, at)
		}
	}
	return newest
}

// lack counts one that is refused for lack of files, or of memory.
func (g *gate) lack(of syscall.Errno) {
	if of == unix.ENOMEM {
		g.noMemory.another()
		return
	}
	g.noFiles.another()
}

// enter lets a flow in, or refuses and counts it, and says why. A flow that is let
// in has to leave with what enter has returned. Where the client is not known yet,
// the zero Addr, recognize counts it when it is.
func (c *choice) enter(client netip.Addr) (counted netip.Addr, refused traffic.Refusal) {
	room, most := c.gate.room(c.transport), c.proxy.MaxFlows
	if open := room.open.Add(1); most > 0 && open > int64(most) {
		room.open.Add(-1)
		c.gate.maxFlows.another()
		return netip.Addr{}, traffic.RefusedMaxFlows
	}
	if counted, refused = c.recognize(client); refused != "" {
		room.open.Add(-1)
	}
	return counted, refused
}

// recognize counts a flow that is in for its client, or refuses it, and says why: it
// leaves with what recognize has returned.
func (c *choice) recognize(client netip.Addr) (counted netip.Addr, refused traffic.Refusal) {
	most := c.proxy.MaxClientFlows
	if most <= 0 || !client.IsValid() {
		return netip.Addr{}, ""
	}
	if !c.gate.room(c.transport).clients.add(client, most) {
		c.gate.maxClientFlows.another()
		return netip.Addr{}, traffic.RefusedMaxClientFlows
	}
	return client, ""
}

// leave takes back what enter has counted.
func (c *choice) leave(counted netip.Addr) {
	room := c.gate.room(c.transport)
	room.open.Add(-1)
	if counted.IsValid() {
		room.clients.remove(counted)
	}
}

// clients counts flows by client address, in parts that rarely meet.
type clients struct {
	once  sync.Once
	seed  maphash.Seed
	parts [32]struct {
		mu    sync.Mutex
		flows map[netip.Addr]int
	}
}

// add counts a flow of the client unless it has so many already.
func (c *clients) add(client netip.Addr, most int) bool {
	c.once.Do(func() { c.seed = maphash.MakeSeed() })
	part := &c.parts[maphash.Comparable(c.seed, client)%uint64(len(c.parts))]
	part.mu.Lock()
	defer part.mu.Unlock()
	if part.flows[client] >= most {
		return false
	}
	if part.flows == nil {
		part.flows = map[netip.Addr]int{}
	}
	part.flows[client]++
	return true
}

func (c *clients) remove(client netip.Addr) {
	part := &c.parts[maphash.Comparable(c.seed, client)%uint64(len(c.parts))]
	part.mu.Lock()
	defer part.mu.Unlock()
	if part.flows[client]--; part.flows[client] <= 0 {
		delete(part.flows, client)
	}
}
