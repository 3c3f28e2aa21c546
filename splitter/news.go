package splitter

import (
	"net/netip"
	"time"

	"github.com/splitd/splitd/traffic"
)

// A FlowLog is told of flows. Workers call it, several at once, between the
// bytes of other flows: it must not wait.
type FlowLog interface {
	// Wants says whether flows of the client are told of.
	Wants(client netip.AddrPort) bool
	Tell(news FlowNews)
}

// FlowNews is the beginning or the end of a flow. A connection that nobody could
// serve has an end alone, and the backend that was tried last: none where a PROXY
// header was wanted and did not come.
type FlowNews struct {
	traffic.BackendKey
	Transport               traffic.Transport
	Generation              traffic.Generation // whose weights were drawn with
	Client, Service, Server netip.AddrPort
	// Via is who told of the client by a PROXY header; the zero one: nobody.
	Via netip.AddrPort
	// Why is what decided, But what kept it from the candidate Meant.
	Why   traffic.Why
	But   traffic.But
	Meant string
	At    time.Time
	// Connect is how long it took until the backend was connected, attempts to
	// others included; 0 when none was.
	Connect time.Duration
	Ends    bool

	// The following are of ends alone. End is closed, reset, gone, refused, unanswered,
	// short, idle, silent, failed, killed, stopped, fault, bad_header, late_header or
	// no_header; By is client, backend or splitd, and Code two letters: see codeOf.
	End, By, Code     string
	Lived             time.Duration // since the client was accepted
	BytesIn, BytesOut uint64        // that reached the backend, and the client
	// DatagramsIn and DatagramsOut did; of UDP alone.
	DatagramsIn, DatagramsOut uint64
}

// line is what is known of a flow that the log wants.
type line struct {
	client, service netip.AddrPort
	via             netip.AddrPort
	why             reason
	accepted        time.Time
	connect         time.Duration
	bytes           [2]uint64
}

// ending is how a flow ends.
type ending uint8

const (
	endWhole      ending = iota // both sides have sent their FIN, and all of it was passed on
	endReset                    // by a side
	endGone                     // a side has acknowledged nothing for too long
	endRefused                  // by the last backend that was tried
	endUnanswered               // by it, in time
	endShort                    // this host lacks ports, file descriptors or memory, or forbids it
	endIdle                     // no byte has moved for too long
	endSilent                   // the backend's first byte has not come in time
	endFailed                   // who carries it could not go on, and has told both sides
	endKilled                   // on request
	endStopped                  // the relay stops
	endFault                    // of ours
	endBadHeader                // the PROXY header is none
	endLateHeader               // it has not come in time
	endNoHeader                 // the client has ended before it
)

func (e ending) String() string {
	return [...]string{
		endWhole: "closed", endReset: "reset", endGone: "gone", endRefused: "refused", endUnanswered: "unanswered", endShort: "short",
		endIdle: "idle", endSilent: "silent", endFailed: "failed", endKilled: "killed", endStopped: "stopped", endFault: "fault",
		endBadHeader: string(traffic.RefusedBadHeader), endLateHeader: string(traffic.RefusedLateHeader), endNoHeader: string(traffic.RefusedNoHeader),
	}[e]
}

// by is who ended a flow; the side is that of a FIN or an RST, or that is gone.
func (e ending) by(s side) string {
	switch e {
	case endWhole, endReset, endGone:
		return [...]string{client: "client", backend: "backend"}[s]
	case endRefused, endUnanswered:
		return "backend"
	case endNoHeader:
		return "client"
	case endShort, endIdle, endSilent, endFailed, endKilled, endStopped, endFault, endBadHeader, endLateHeader:
	}
	return "splitd"
}

// codeOf is how a flow ended in two letters, as HAProxy has them (termination
// states, configuration manual, section 8.5). The first is who: C, S a reset of
// the client, of the backend; c, s that one was silent for too long; R this host
// lacked something; K it was ended on request, or by a stop; I a fault of ours; P
// what was said is not as it has to be. The second is when: R before the client was known, C
// while a backend was being connected, H before its first byte, D while bytes
// could go both ways, L after one side had ended. A whole flow is "--".
func codeOf(e ending, stage stage, s stream, whose side) string {
	when := "D"
	switch {
	case stage == awaiting:
		when = "R"
	case stage != relaying:
		when = "C"
	case s.halfClosed():
		when = "L"
	}
	switch e {
	case endWhole:
		return "--"
	case endReset:
		return [...]string{client: "C", backend: "S"}[whose] + when
	case endGone:
		return [...]string{client: "c", backend: "s"}[whose] + when
	case endRefused:
		return "SC"
	case endUnanswered:
		if stage == relaying { // of UDP, where silence refuses nothing
			return "sH"
		}
		return "sC"
	case endShort:
		return "R" + when
	case endIdle:
		return [...]string{client: "c", backend: "s"}[whose] + when
	case endSilent:
		return "sH"
	case endKilled, endStopped:
		return "K" + when
	case endFailed, endBadHeader:
		return "P" + when
	case endLateHeader:
		return "c" + when
	case endNoHeader:
		return "C" + when
	case endFault:
	}
	return "I" + when
}

// first is the side that has ended first, or was reset.
func (s stream) first() side {
	if s.lost[backend] && !s.lost[client] || !s.lost[client] && s.ways[backend].shut {
		return backend
	}
	return client
}

// broken is how a stream ends of which a side is lost.
func (s stream) broken() ending {
	if s.gone[s.first()] {
		return endGone
	}
	return endReset
}

// note remembers what the log wants to know of a client that was accepted.
func (w *worker) note(f *flow) {
	log, wanted := w.relay.flowLog, false
	if log != nil {
		w.fenceLog(f, func() { wanted = log.Wants(f.client) })
	}
	if !wanted {
		return
	}
	f.line = &line{client: f.client, accepted: time.Now()}
	if f.udp() {
		f.line.service = f.talk.serviceAddress()
	} else {
		f.line.service = localAddress(int(f.sockets[client]))
	}
	if p := f.proxied; p != nil {
		f.line.accepted = p.accepted
		f.line.via = f.via()
	}
}

// because notes why the flow goes where it goes.
func (f *flow) because(why reason) {
	if f.line != nil {
		f.line.why = why
	}
}

// diverted notes that the flow goes to the primary instead of its target.
func (f *flow) diverted(but traffic.But) {
	if f.line != nil {
		f.line.why.but, f.line.why.meant = but, f.target.name
	}
}

// tellBegin tells the log that the flow has begun.
func (w *worker) tellBegin(f *flow) {
	if f.line == nil {
		return
	}
	now := time.Now()
	f.line.connect = now.Sub(f.line.accepted)
	w.fenceLog(f, func() { w.relay.flowLog.Tell(f.news(now)) })
}

// tellEnd tells it that it ends; its sockets are still there.
func (w *worker) tellEnd(f *flow, e ending) {
	if f.line == nil {
		return
	}
	if f.udp() && w.waiting > 0 {
		w.flush() // some may be its own
	}
	now := time.Now()
	whose := w.whose(f, e)
	n := f.news(now)
	n.Ends, n.End, n.By, n.Code = true, e.String(), e.by(whose), codeOf(e, f.stage, f.stream, whose)
	n.Lived, n.BytesIn, n.BytesOut = now.Sub(f.line.accepted), f.line.bytes[client], f.line.bytes[backend]
	if f.udp() {
		n.DatagramsIn, n.DatagramsOut = f.talk.moved[client], f.talk.moved[backend]
	}
	w.fenceLog(f, func() { w.relay.flowLog.Tell(n) })
}

// fenceLog calls the flow log for a flow. A panic in it costs the flow its lines
// alone.
func (w *worker) fenceLog(f *flow, call func()) {
	if w.fence("the flow log", f.choice.split, call) {
		return
	}
	w.relay.faults.panics.Add(1)
	f.line = nil
}

// whose is the side that ended the flow, or let it end.
func (w *worker) whose(f *flow, e ending) side {
	if e == endIdle {
		return w.silent(f)
	}
	return f.stream.first()
}

// silent is the side that was to send something: the one that has sent nothing
// for longer.
func (w *worker) silent(f *flow) side {
	if f.udp() {
		return f.talk.last.other()
	}
	heard := [2]time.Duration{client: -1, backend: -1}
	for s := range heard {
		if ago, ok := w.edge.heard(int(f.sockets[s])); ok {
			heard[s] = ago
		}
	}
	if heard[backend] > heard[client] {
		return backend
	}
	return client
}

// news is what beginning and end have in common.
func (f *flow) news(now time.Time) FlowNews {
	n := FlowNews{
		BackendKey: traffic.BackendKey{Split: f.choice.split}, Transport: f.choice.transport, Generation: f.choice.generation,
		Client: f.line.client, Service: f.line.service, Via: f.line.via,
		Why: f.line.why.why, But: f.line.why.but, Meant: f.line.why.meant, At: now, Connect: f.line.connect,
	}
	if f.target != nil {
		n.Backend, n.Server = f.target.name, f.target.at
	}
	return n
}
