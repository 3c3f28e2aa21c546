package splitter

import (
	"net/netip"
	"sync"

	"github.com/splitd/splitd/traffic"
)

// ClientFlow is an open flow of a client.
type ClientFlow struct {
	traffic.BackendKey
	Transport               traffic.Transport
	Generation              traffic.Generation // whose weights were drawn with
	Client, Service, Server netip.AddrPort
	Via                     netip.AddrPort // who told of the client by a PROXY header; the zero one: nobody
	// HalfOpen says that the backend has not been connected yet, or of a flow of UDP
	// that it has not answered.
	HalfOpen bool
}

// FlowsOf lists the open flows of a client, of the split of that name or of all
// with "", up to so many, in no order. It may be called from many goroutines and
// waits for the workers alone.
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
	if f.stage == probing || f.choice.inlet != nil || f.target == nil || f.client.Addr() != ip {
		return ClientFlow{}, false
	}
	flow := ClientFlow{
		BackendKey: traffic.BackendKey{Split: f.choice.split, Backend: f.target.name}, Transport: f.choice.transport, Generation: f.choice.generation,
		Client: f.client, Via: f.via(), Server: f.target.at,
	}
	if f.udp() {
		flow.Service, flow.HalfOpen = f.talk.serviceAddress(), !f.heard
	} else {
		flow.Service, flow.HalfOpen = localAddress(int(f.sockets[client])), f.stage == connecting
	}
	return flow, true
}
