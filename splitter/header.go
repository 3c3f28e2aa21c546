package splitter

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"time"
)

// headerPatience is how long a connection may take for its PROXY header:
// proxy-protocol.txt, section 2, wants 3 s at least, for a segment that gets lost.
const headerPatience = 5 * time.Second

// proxied is what is known of a connection that begins with a PROXY header.
type proxied struct {
	front    *front
	peer     netip.AddrPort // who has connected
	accepted time.Time
	service  netip.AddrPort // where its client has connected to; the zero one: to us
}

// via is who told of the flow's client, if anybody did.
func (f *flow) via() netip.AddrPort {
	if f.proxied == nil || f.proxied.peer == f.client {
		return netip.AddrPort{}
	}
	return f.proxied.peer
}

// Why a connection that has to begin with a header is reset.
var (
	errNotHeader   = errors.New("the first bytes are those of none")
	errLongHeader  = errors.New("it is longer than headers are")
	errNobody      = errors.New("it names no client: the address is unspecified")
	errCut         = errors.New("the kernel gives a part of it")
	errLateHeader  = errors.New("it is not whole in time")
	errEndedBefore = errors.New("the connection has ended before it")
)

// await has a flow wait for the header. Meanwhile it is one of the split's and
// none of any client's.
func (w *worker) await(f *flow, at *front) {
	f.stage = awaiting
	f.proxied = &proxied{front: at, peer: f.client, accepted: time.Now()}
	f.times.connect = w.now + ticks(w.relay.header)
	w.appoint(f)
}

// readHeader reads the header when all of it is there, and no byte behind it:
// what follows is the client's, and may be spliced. Until then it stays in the
// socket, which is bound to tell of more.
func (w *worker) readHeader(f *flow) {
	from := f.stream.ways[client]
	if !from.readable {
		return
	}
	socket := int(f.sockets[client])
	there := w.edge.peek(socket, w.buffer[:headerMost])
	switch there.kind { //nolint:exhaustive // a socket can do no other
	case again:
		return
	case ended, failed:
		w.unannounced(f, endNoHeader, errEndedBefore)
		return
	}
	length, err := frame(w.buffer[:there.n])
	switch {
	case err != nil:
		w.unannounced(f, endBadHeader, err)
	case length > 0:
		w.takeHeader(f, length)
	case from.ending:
		w.unannounced(f, endNoHeader, errEndedBefore)
	}
}

// takeHeader takes so many bytes from the client, which are its header.
func (w *worker) takeHeader(f *flow, length int) {
	if o := w.edge.recv(int(f.sockets[client]), w.buffer[:length]); o.kind != moved || o.n != length {
		w.unannounced(f, endBadHeader, errCut)
		return
	}
	said, err := parseHeader(w.buffer[:length])
	if err != nil {
		w.unannounced(f, endBadHeader, err)
		return
	}
	if said.client.IsValid() {
		f.client, f.proxied.service = said.client, said.service
	}
	w.announced(f)
}

// announced has a flow served whose client is known now, by the choice that its
// front makes now.
func (w *worker) announced(f *flow) {
	next := f.proxied.front.choice.Load()
	if next.split != f.choice.split {
		next = f.choice.toPrimary() // the front is another split's by now
	}
	f.choice = next
	if next.proxy.Transparent && !next.shows(f.client.Addr()) {
		w.foreign(f)
		return
	}
	counted, refused := next.recognize(f.client.Addr())
	if refused != "" {
		w.tellRefused(next, f.client.Addr(), refused)
		w.abort(f, endStopped)
		return
	}
	f.stage, f.counted, f.times.connect = connecting, counted.IsValid(), 0
	w.appoint(f)
	w.note(f)
	w.serve(f)
}

// shows says whether backends can see the address as their client's.
func (c *choice) shows(client netip.Addr) bool { return client.Is4() == c.service.Addr().Is4() }

// foreign resets a connection whose client is of the other family than the address
// that was asked, where backends are to see its address.
func (w *worker) foreign(f *flow) {
	split, from := f.choice.split, f.client
	f.choice.gate.otherFamily.Add(1)
	w.note(f)
	w.abort(f, endShort)
	if left, ok := w.relay.quiet.allow("family of "+split, time.Now()); ok {
		w.relay.say(func(log *slog.Logger) {
			log.Warn("flow refused: the PROXY header names a client of the other family than the address that was asked, which backends cannot be shown (proxy.transparent)",
				"split", split, "client", from.String(), "left_out", left)
		})
	}
}

// unannounced resets a connection whose header is missed.
func (w *worker) unannounced(f *flow, how ending, cause error) {
	gate, split, peer := f.choice.gate, f.choice.split, f.client
	level := slog.LevelWarn
	switch how { //nolint:exhaustive // there are three
	case endBadHeader:
		gate.badHeader.Add(1)
	case endLateHeader:
		gate.lateHeader.Add(1)
	case endNoHeader:
		gate.noHeader.Add(1)
		level = slog.LevelDebug // so do checks that only connect
	}
	w.note(f)
	w.abort(f, how)
	if left, ok := w.relay.quiet.allow("header of "+split, time.Now()); ok {
		w.relay.say(func(log *slog.Logger) {
			log.Log(context.Background(), level, "flow refused: no PROXY header, which proxy.accept_proxy wants of this address",
				"split", split, "address", peer.String(), "error", cause, "left_out", left)
		})
	}
}
