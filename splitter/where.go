package splitter

import (
	"net/netip"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/splitd/splitd/traffic"
)

// ClientFlow is an open flow of a client.
type ClientFlow struct {
	traffic.BackendKey
	Transport               traffic.Transport
	Generation              traffic.Generation // whose weights were drawn with
	Client, Service, Server netip.AddrPort
	// HalfOpen says that the backend has not been connected yet, or of a flow of UDP
	// that it has not answered.
	HalfOpen bool
}

// FlowsOf lists the open flows of a client, of the split of that name or of all
// with "", up to so many, in no order. Whose a
// flow is the kernel is asked: it costs a call for each flow there is. It may be
// called from many goroutines and waits for the workers alone.
func (r *Relay) FlowsOf(client netip.Addr, split string, most int) []ClientFlow {
	r.mu.Lock()
	workers := r.workers
	r.mu.Unlock()
	var mu sync.Mutex
	var all []ClientFlow
	each(workers, func(w *worker, done func()) {
		w.walk(func(f *flow) {
			if split != "" && f.choice != nil && f.choice.split != split {
				return
			}
			if one, ok := f.of(client); ok {
				mu.Lock()
				if len(all) < most {
					all = append(all, one)
				}
				mu.Unlock()
			}
		}, done)
	})
	return all
}

// of describes the flow if it is that client's.
func (f *flow) of(ip netip.Addr) (ClientFlow, bool) {
	if f.stage == probing || f.target == nil {
		return ClientFlow{}, false
	}
	if f.udp() {
		from := f.talk.clientAddress()
		return ClientFlow{
			BackendKey: traffic.BackendKey{Split: f.choice.split, Backend: f.target.name}, Transport: traffic.UDP, Generation: f.choice.generation,
			Client: from, Service: f.talk.serviceAddress(), Server: f.target.at, HalfOpen: !f.heard,
		}, from.Addr() == ip
	}
	socket := int(f.sockets[client])
	from, err := unix.Getpeername(socket)
	if err != nil || addressOf(from).Addr() != ip {
		return ClientFlow{}, false // reset meanwhile, or somebody else's
	}
	return ClientFlow{
		BackendKey: traffic.BackendKey{Split: f.choice.split, Backend: f.target.name}, Transport: traffic.TCP, Generation: f.choice.generation,
		Client: addressOf(from), Service: localAddress(socket), Server: f.target.at, HalfOpen: f.stage == connecting,
	}, true
}
