package splitter

import (
	"maps"
	"net/netip"
	"time"
)

const (
	// leavePatience is how long a front that goes waits for the handshakes that
	// it has begun: the kernel repeats an answer that got lost after 1 s
	// (RFC 6298, section 2.1), and who has not acknowledged it then is no client.
	leavePatience = 3 * time.Second
	leaveLook     = 5 * time.Millisecond
	// leaveRest bounds what looking costs on a host with very many sockets.
	leaveRest = 10
)

// leave is what a front that goes still waits for: it accepts on until the
// handshakes that were under way have ended, because their clients may think
// themselves connected; then it turns others away, and waits for those who have
// come meanwhile.
type leave struct {
	clients map[netip.AddrPort]bool // whose they are; nil when the kernel cannot tell
	wanted  chan struct{}           // closed when the front is to stay after all

	*lingering // of UDP
}

// retireAll closes the fronts that do not stay. r.changing and r.mu are held.
func (r *Relay) retireAll(stays func(spot) bool) {
	var going []*front
	for address, f := range r.fronts {
		if !stays(address) {
			f.goes = true
			going = append(going, f)
		}
	}
	for _, f := range going {
		r.retire(f, r.coverOf(f, stays))
	}
}

// retire closes the front: now, or after those have come who are on their way
// in. Cover is another one that has its address from now on, if there is one.
// r.changing and r.mu are held.
func (r *Relay) retire(f, cover *front) {
	f.goes = true
	if f.udp() {
		r.linger(f, cover)
		return
	}
	if f.leave != nil {
		return // it goes already
	}
	clients, known := r.onTheirWay(f)
	if known && len(clients) == 0 {
		f.turnAway()
		if clients, known = r.onTheirWay(f); known && len(clients) == 0 {
			r.close(f)
			return
		}
	}
	l := &leave{clients: clients, wanted: make(chan struct{})}
	f.leave = l
	r.leaving.Go(func() { r.await(f, l) })
}

// onTheirWay are the clients whose handshakes the front has begun; false when the
// kernel does not say. r.changing and r.mu are held.
func (r *Relay) onTheirWay(f *front) (clients map[netip.AddrPort]bool, known bool) {
	r.aside(func() { clients, known = r.lookFor(f) })
	return clients, known
}

// lookFor is onTheirWay that needs no lock.
func (r *Relay) lookFor(f *front) (map[netip.AddrPort]bool, bool) {
	clients, err := handshakes(f.asked())
	if err != nil {
		r.log.Debug("see who is on the way in", "address", f.address.String(), "error", err)
	}
	return clients, err == nil
}

// stay takes back that the front goes, and says whether it went. Relay.mu is
// held.
func (f *front) stay() bool {
	if f.leave == nil {
		return false
	}
	close(f.leave.wanted)
	f.leave, f.goes = nil, false
	f.welcome()
	return true
}

// await closes the front when it has waited enough.
func (r *Relay) await(f *front, l *leave) {
	end := time.Now().Add(leavePatience)
	r.waitFor(l, f.asked(), end)
	r.mu.Lock()
	if f.leave == l {
		f.turnAway()
	}
	r.mu.Unlock()
	l.clients, _ = r.lookFor(f)
	r.waitFor(l, f.asked(), end)
	defer r.change()()
	if f.leave == l {
		r.close(f)
	}
}

// waitFor returns when the handshakes have ended, there is no more time, or the
// front is wanted after all.
func (r *Relay) waitFor(l *leave, address netip.AddrPort, end time.Time) {
	for rest := time.Duration(0); time.Now().Before(end); {
		select {
		case <-l.wanted:
			return
		case <-r.hurried.Done():
			return
		case <-time.After(rest):
		}
		look := time.Now()
		if l.over(address) {
			return
		}
		rest = max(leaveLook, leaveRest*time.Since(look))
	}
}

// over says whether the handshakes have ended. Those of clients that came later
// do not count, or it would never be so.
func (l *leave) over(address netip.AddrPort) bool {
	now, err := handshakes(address)
	if err != nil || l.clients == nil {
		return false
	}
	maps.DeleteFunc(l.clients, func(client netip.AddrPort, _ bool) bool { return !now[client] })
	return len(l.clients) == 0
}
