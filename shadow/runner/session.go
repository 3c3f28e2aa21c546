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
	out      *outbox
	deadline time.Time // when the candidate's patience is over; zero: it owes nothing
	dialling bool
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
	conn    net.Conn // it stands
	bytes   []byte   // lent until taken gets something
	end     shadow.End
	cause   error
	taken   chan<- struct{} // has room for one
}

func newSession(f *flow, control bool, connect func(context.Context, Flow) (net.Conn, error)) *session {
	o := f.runner.options
	return &session{
		flow: f, control: control, connect: connect, out: newOutbox(f.queue.ring),
		driver: o.Driver(shadow.Session{Client: f.of.Client, Service: f.of.Service, Keep: o.Keep, Control: control, Again: o.Again}),
	}
}

// dial begins a connection in place of the one that there may be.
func (s *session) dial() {
	s.hangUp()
	s.turn++
	ctx, cancel := context.WithCancel(s.flow.runner.ctx)
	s.cancel, s.dialling = cancel, true
	s.out, s.said, s.ahead = newOutbox(s.flow.queue.ring), 0, nil
	s.await()
	turn, out, connections := s.turn, s.out, &s.flow.runner.connections
	connections.Go(func() { s.converse(ctx, cancel, turn, out) })
}

// hangUp ends the connection.
func (s *session) hangUp() {
	if s.cancel != nil {
		s.cancel()
		s.cancel = nil
	}
}

// await begins the candidate's patience anew, if it owes anything.
func (s *session) await() {
	s.deadline = time.Time{}
	if s.dialling || s.owed {
		s.deadline = s.flow.runner.options.Now().Add(s.flow.runner.options.Patience)
	}
}

// converse is the goroutine of a connection: it dials, and passes on what comes.
func (s *session) converse(ctx context.Context, cancel context.CancelFunc, turn int, out *outbox) {
	tell := func(n news) bool {
		n.session, n.turn = s, turn
		select {
		case s.flow.news <- n:
			return true
		case <-ctx.Done():
			return false
		}
	}
	conn, err := s.connect(ctx, s.flow.of)
	if err != nil {
		tell(news{end: refusal(err), cause: err})
		return
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	defer func() { _ = conn.Close() }()
	if !tell(news{conn: conn}) {
		return
	}
	s.flow.runner.connections.Go(func() { out.write(ctx, conn, cancel) })
	buffer, taken := make([]byte, 16<<10), make(chan struct{}, 1)
	for {
		n, err := conn.Read(buffer)
		if n > 0 {
			if !tell(news{bytes: buffer[:n], taken: taken}) {
				return
			}
			select {
			case <-taken:
			case <-ctx.Done():
				return
			}
		}
		if err != nil {
			tell(news{end: endOf(err), cause: err})
			<-ctx.Done() // what is to be written may still be
			return
		}
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
	case n.conn != nil:
		s.dialling = false
		s.await()
		s.hear(shadow.Event{From: shadow.Candidate, At: s.flow.runner.options.Now()})
	case n.end != shadow.Open:
		s.dialling = false
		if n.end != shadow.Closed {
			s.failure = fmt.Sprintf("%s: %v", n.end, n.cause)
			s.hangUp() // it takes nothing any more
		}
		s.hear(shadow.Event{From: shadow.Candidate, End: n.end, At: s.flow.runner.options.Now()})
	default:
		s.answered, s.failure = true, ""
		s.hear(shadow.Event{From: shadow.Candidate, Bytes: n.bytes, At: s.flow.runner.options.Now()})
	}
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
	if s.dialling {
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
	if s.dialling {
		s.failure = "it could not be connected in time"
	}
	s.dialling, s.owed = false, false
	s.hangUp()
	s.await()
	s.hear(shadow.Event{From: shadow.Candidate, End: shadow.TimedOut, At: now})
}
