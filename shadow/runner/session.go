package runner

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"github.com/splitd/splitd/shadow"
)

// session is a driver and its connection to the candidate, or to the control. It
// belongs to its flow's goroutine.
type session struct {
	flow    *flow
	control bool
	connect func(context.Context, Flow) (net.Conn, error)
	driver  shadow.Driver

	turn     int // of the connection: news of an earlier one are old
	cancel   context.CancelFunc
	conn     net.Conn      // nil: it does not stand
	secures  chan securing // asks the connection's reader for a handshake
	out      *outbox
	deadline time.Time // when the candidate's patience is over; zero: it owes nothing
	dialling bool
	securing bool // a handshake is on its way on a connection that stands
	owed     bool
	answered bool            // it has said something
	said     int64           // bytes that it has said on this connection
	heard    int64           // bytes that the primary has said
	ahead    chan<- struct{} // what waits to read on; nil: nobody does
	failure  string          // how it failed
	over     bool
}

// news are what the goroutines of a connection tell the flow's.
type news struct {
	session *session
	turn    int
	conn    net.Conn          // it stands
	tls     *shadow.Handshake // it is secured, or could not be
	bytes   []byte            // lent until taken gets something
	end     shadow.End
	cause   error
	taken   chan<- struct{} // has room for one
}

// failure says why an end is one. What a candidate has in it, as the names of a certificate,
// may be of any length.
func (n news) failure() string {
	return shadow.Clean(fmt.Sprintf("%s: %v", n.end, n.cause), longestFailure)
}

const longestFailure = 256

// securing is a handshake that is to be made, when all that goes before it is written.
type securing struct {
	asked shadow.Handshake
	turn  *crossing
}

func newSession(f *flow, control bool, connect func(context.Context, Flow) (net.Conn, error)) *session {
	o := f.runner.options
	s := &session{
		flow: f, control: control, connect: connect, out: newOutbox(f.queue.ring),
		driver: o.Driver(shadow.Session{Client: f.of.Client, Service: f.of.Service, Keep: o.Keep, Control: control, Again: o.Again}),
	}
	if f.of.TLS != nil {
		s.driver = shadow.Inside(s.driver)
	}
	return s
}

// dial begins a connection in place of the one that there may be.
func (s *session) dial() {
	s.hangUp()
	s.turn++
	ctx, cancel := context.WithCancel(s.flow.runner.ctx)
	s.cancel, s.dialling, s.securing = cancel, true, false
	s.out, s.said, s.ahead = newOutbox(s.flow.queue.ring), 0, nil
	s.secures = make(chan securing, 1)
	s.await()
	c := &conversation{session: s, ctx: ctx, cancel: cancel, turn: s.turn, out: s.out, secures: s.secures}
	s.flow.runner.connections.Go(c.converse)
}

// hangUp ends the connection.
func (s *session) hangUp() {
	s.conn = nil
	if s.cancel != nil {
		s.cancel()
		s.cancel = nil
	}
}

// await begins the candidate's patience anew, if it owes anything.
func (s *session) await() {
	s.deadline = time.Time{}
	if s.dialling || s.securing || s.owed {
		s.deadline = s.flow.runner.options.Now().Add(s.flow.runner.options.Patience)
	}
}

// refusal is how a candidate failed that could not be connected.
func refusal(err error) shadow.End {
	if errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, context.DeadlineExceeded) {
		return shadow.TimedOut
	}
	return shadow.Refused
}

// endOf is how a candidate ended what it had to say.
func endOf(err error) shadow.End {
	if errors.Is(err, io.EOF) {
		return shadow.Closed
	}
	if op, ok := errors.AsType[*net.OpError](err); ok && op.Op == "remote error" {
		return shadow.Unsecured // by an alert: with TLS 1.3 that is how our half of a handshake is refused
	}
	return shadow.Reset
}

// told takes news of a connection.
func (s *session) told(n news) {
	if n.turn != s.turn {
		return // its goroutine hears that from its context
	}
	if n.taken != nil {
		s.said += int64(len(n.bytes))
		s.ahead = n.taken
		defer s.goOn()
	}
	switch {
	case s.over && n.end != shadow.Open && n.end != shadow.Closed:
		s.hangUp()
	case s.over:
	case n.tls != nil:
		s.secured(n)
	case n.conn != nil:
		s.dialling, s.conn = false, n.conn
		s.await()
		s.hear(shadow.Event{From: shadow.Candidate, At: s.flow.runner.options.Now()})
	case s.securing && len(n.bytes) > 0:
		// It was read before the candidate could have begun: whoever takes it for said inside
		// can be told anything by who is in between (CVE-2011-0411).
		s.secured(s.failed("it has said more in clear before the handshake"))
	case n.end != shadow.Open:
		if n.end == shadow.Unsecured && s.said > 0 { // by an alert, behind an answer
			n.end = shadow.Reset
		}
		s.dialling, s.securing = false, false
		if n.end != shadow.Closed {
			s.failure = n.failure()
			s.hangUp() // it takes nothing any more
		}
		s.hear(shadow.Event{From: shadow.Candidate, End: n.end, At: s.flow.runner.options.Now()})
	default:
		s.answered, s.failure = true, ""
		s.hear(shadow.Event{From: shadow.Candidate, Bytes: n.bytes, At: s.flow.runner.options.Now()})
	}
}

// failed are news of a handshake that has failed before it has begun.
func (s *session) failed(why string) news {
	now := s.flow.runner.options.Now()
	return news{session: s, turn: s.turn, tls: &shadow.Handshake{Failed: why, Began: now, Ended: now}, end: shadow.Unsecured, cause: errors.New(why)}
}

// secured takes what became of a handshake.
func (s *session) secured(n news) {
	s.dialling, s.securing = false, false
	if n.end == shadow.Open {
		s.conn = n.conn
		s.await()
		s.hear(shadow.Event{From: shadow.Candidate, TLS: n.tls, At: s.flow.runner.options.Now()})
		return
	}
	s.failure = n.failure()
	s.hangUp()
	s.await()
	s.hear(shadow.Event{From: shadow.Candidate, TLS: n.tls, At: s.flow.runner.options.Now()})
	s.hear(shadow.Event{From: shadow.Candidate, End: n.end, At: s.flow.runner.options.Now()})
}

// secure has a handshake made on the connection, behind all that was to be sent. Its reader
// makes it, when it has come back from what it waits for. False says that it has failed.
func (s *session) secure(asked shadow.Handshake) bool {
	if s.conn == nil || s.securing {
		s.secured(s.failed("there is no connection to secure"))
		return false
	}
	s.flow.fixed.Add(insideTLS) // before it is charged: it is no part of what the flow holds
	if !s.flow.runner.options.Budget.charge(s.flow, insideTLS) {
		s.flow.fixed.Add(-insideTLS)
		s.flow.drop(overBudget)
		return false
	}
	s.securing = true
	s.await()
	s.secures <- securing{asked, s.out.cross()} // it has room
	_ = s.conn.SetReadDeadline(time.Unix(1, 0)) // long ago: who reads comes back
	return true
}

// goOn has more of the candidate read, unless it is further ahead of the primary than
// a flow may hold: what comes then tells nothing that is not known, and to read a
// gigabyte takes a processor from the relay. The primary may catch up, or the
// candidate's patience ends.
func (s *session) goOn() {
	if s.ahead == nil || s.said-s.heard > s.flow.runner.options.FlowBudget {
		return
	}
	s.ahead <- struct{}{} // it has room
	s.ahead = nil
}

// hear takes an event to the driver, and does what that wants.
func (s *session) hear(e shadow.Event) {
	if e.From == shadow.Primary {
		s.heard += int64(len(e.Bytes))
		s.goOn()
	}
	if s.over {
		return
	}
	m := s.driver.Hear(e)
	if m.Redial {
		s.dial()
	}
	if len(m.Send) > 0 || m.FIN {
		s.out.put(m.Send, m.FIN)
	}
	s.tell(m.Exchanges)
	if m.Secure != nil && !s.secure(*m.Secure) {
		return
	}
	if m.Owed != s.owed || m.Owed && len(m.Send) > 0 {
		s.owed = m.Owed
		s.await()
	}
	if m.Done {
		s.leave()
	}
}

func (s *session) tell(exchanges []shadow.Exchange) {
	for _, x := range exchanges {
		if x.Verdict == shadow.CandidateError {
			s.failure = cmp.Or(s.failure, x.Reason, string(x.Verdict))
		}
	}
	if len(exchanges) > 0 {
		s.flow.runner.options.Sink.Exchanged(exchanges, s.control)
	}
}

// leave ends the session when what is to be said has been said, or the candidate
// does not take it in time: so long its flow stays, and what is held is charged.
func (s *session) leave() {
	s.over, s.deadline = true, time.Time{}
	s.out.finish()
	if s.dialling || s.securing { // nobody will hear what becomes of that
		s.hangUp()
	}
	if s.lingers() {
		s.deadline = s.flow.runner.options.Now().Add(s.flow.runner.options.Patience)
	}
}

// lingers says whether a session that is over has still to send something.
func (s *session) lingers() bool { return s.over && s.cancel != nil && s.out.holds() > 0 }

// stop ends the session early.
func (s *session) stop(why shadow.Verdict, reason string) {
	s.end()
	s.tell(s.driver.Stop(why, reason))
}

// end ends the session at once.
func (s *session) end() {
	s.over, s.deadline = true, time.Time{}
	s.hangUp()
}

// lags says whether the candidate keeps the shadow waiting.
func (s *session) lags() bool { return s.owed || s.dialling || s.out.holds() > 0 }

// lapse is the end of the candidate's patience.
func (s *session) lapse(now time.Time) {
	if s.over {
		s.end()
		return
	}
	s.failure = "it owed a reply for too long"
	switch {
	case s.securing:
		s.failure = "it has made no TLS handshake in time"
	case s.dialling && s.flow.of.TLS != nil:
		s.failure = "it could not be connected, or has made no TLS handshake, in time"
	case s.dialling:
		s.failure = "it could not be connected in time"
	}
	s.dialling, s.securing, s.owed = false, false, false
	s.hangUp()
	s.await()
	s.hear(shadow.Event{From: shadow.Candidate, End: shadow.TimedOut, At: now})
}
