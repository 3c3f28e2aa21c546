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
	var udp, tcp []*front
	for address, f := range r.fronts {
		switch {
		case stays(address):
			continue
		case f.udp():
			udp = append(udp, f)
		default:
			tcp = append(tcp, f)
		}
		f.goes = true
	}
	for _, f := range udp {
		r.linger(f, r.coverOf(f, stays))
	}
	r.retire(tcp)
}

// retire closes fronts of TCP: now, or after those have come who are on their way in.
// The kernel is asked twice, however many they are. r.changing and r.mu are held.
func (r *Relay) retire(fronts []*front) {
	var going []*front
	for _, f := range fronts {
		f.goes = true
		if f.leave == nil { // else it goes already
			going = append(going, f)
		}
	}
	quiet := r.quietOf(going)
	for _, f := range quiet {
		f.turnAway()
	}
	for _, f := range r.quietOf(quiet) {
		r.close(f)
	}
}

// quietOf are the fronts to which nobody is on the way in. The others close when those
// have come, or when the kernel does not say whether there are any, a while later.
func (r *Relay) quietOf(fronts []*front) []*front {
	var asked []netip.AddrPort
	for _, f := range fronts {
		asked = append(asked, f.asked())
	}
	var coming incoming
	r.aside(func() { coming = r.lookFor(asked...) })
	var quiet []*front
	for _, f := range fronts {
		clients, known := coming[f.asked()]
		if known && len(clients) == 0 {
			quiet = append(quiet, f)
			continue
		}
		l := &leave{clients: clients, wanted: make(chan struct{})}
		f.leave = l
		r.leaving.Go(func() { r.await(f, l) })
	}
	return quiet
}

// lookFor asks the kernel who is on the way in; it says nothing where it fails.
func (r *Relay) lookFor(asked ...netip.AddrPort) incoming {
	coming, err := handshakes(asked...)
	if err != nil {
		r.log.Debug("see who is on the way in", "error", err)
	}
	return coming
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
	l.clients = r.lookFor(f.asked())[f.asked()]
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
	coming, err := handshakes(address)
	if err != nil || l.clients == nil {
		return false
	}
	maps.DeleteFunc(l.clients, func(client netip.AddrPort, _ bool) bool { return !coming[address][client] })
	return len(l.clients) == 0
}
