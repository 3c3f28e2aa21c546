package splitter

import (
	"net/netip"

	"github.com/splitd/splitd/traffic"
)

// introduce has the backend told whose the flow is, where the split says so. The
// header stands in the worker's buffer, as if it had been read from the client;
// the pump that follows sends it, or keeps what the backend does not take.
func (w *worker) introduce(f *flow) {
	header := w.headerOf(f)
	if len(header) == 0 {
		return
	}
	w.fresh = w.buffer[:copy(w.buffer, header)]
	f.preamble = uint8(len(w.fresh)) // 104 at most
	f.stream = f.stream.preceded(len(w.fresh))
}

// headerOf is what the backend is told, nothing where the split does not say so.
func (w *worker) headerOf(f *flow) []byte {
	version := f.choice.proxy.SendProxy
	if version == "" {
		return nil
	}
	return preamble(version, f.client, f.service())
}

// service is the address that the client has connected to. Only where the front
// has all addresses does the kernel have to be asked.
func (f *flow) service() netip.AddrPort {
	if f.proxied != nil && f.proxied.service.IsValid() {
		return f.proxied.service
	}
	if f.choice.inlet != nil {
		return askedOf(int(f.sockets[client]), f.target.at)
	}
	if at := f.choice.service; !at.Addr().IsUnspecified() {
		return at
	}
	return localAddress(int(f.sockets[client]))
}

// preamble is the header of the PROXY protocol.
func preamble(version traffic.SendProxy, client, service netip.AddrPort) []byte {
	return []byte(version.Header(client, service))
}
