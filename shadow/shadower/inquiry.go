package shadower

import (
	"errors"
	"io"
	"net"
	"net/rpc"
	"slices"
	"sync"
	"syscall"
	"time"
)

var (
	// ErrLate says that the process has not answered in time.
	ErrLate = errors.New("the process that plays shadows does not answer in time: this host has no processor for it")
	// ErrGone says that there is none at this moment.
	ErrGone = errors.New("the process that plays shadows is not there at this moment")
)

// isGone says whether a question found no process, or one that ended.
func isGone(err error) bool {
	return slices.ContainsFunc([]error{
		ErrGone, rpc.ErrShutdown, io.ErrUnexpectedEOF, net.ErrClosed, syscall.EPIPE, syscall.ECONNRESET,
	}, func(gone error) bool { return errors.Is(err, gone) })
}

// An inquiry is a question that is under way once at a time, so that a process that is
// late is not asked more and more: who asks meanwhile hears the same answer.
type inquiry[T any] struct {
	mu   sync.Mutex
	open *asked[T]
}

// asked is a question without its answer.
type asked[T any] struct {
	over   chan struct{} // closed when the answer is there
	answer T
	err    error
	late   bool // somebody has given up waiting; under the inquiry's mu
}

// isLate says whether somebody has given up waiting for the answer that is under way.
func (q *inquiry[T]) isLate() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.open != nil && q.open.late
}

// ask asks the process behind all that it has been told, and waits so long for the
// answer. A question is asked to its end, however late that is.
func (q *inquiry[T]) ask(p *Process, patience time.Duration, question func(*rpc.Client) (T, error)) (none T, err error) {
	q.mu.Lock()
	a := q.open
	if a == nil {
		a = &asked[T]{over: make(chan struct{})}
		if !p.tell(func(c *rpc.Client) error {
			go func() {
				answer, err := question(c)
				q.mu.Lock()
				defer q.mu.Unlock()
				a.answer, a.err, q.open = answer, err, nil
				close(a.over)
			}()
			return nil
		}) {
			q.mu.Unlock()
			return none, ErrGone
		}
		q.open = a
	}
	q.mu.Unlock()
	late := time.NewTimer(patience)
	defer late.Stop()
	select {
	case <-a.over:
		return a.answer, a.err
	case <-late.C:
	case <-p.hurried:
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	a.late = true
	return none, ErrLate
}

// fetch asks for what a method says of a play. Where the process ends meanwhile it is
// the next one that answers.
func (q *inquiry[T]) fetch(p *Play, method string) (T, error) {
	for until := time.Now().Add(answerPatience); ; {
		answer, err := q.ask(p.process, max(time.Until(until), time.Millisecond), func(c *rpc.Client) (answer T, err error) {
			err = c.Call(method, p.id, &answer)
			return answer, err
		})
		if !isGone(err) || time.Until(until) < pauseFirst {
			return answer, err
		}
		select {
		case <-time.After(pauseFirst):
		case <-p.process.hurried:
			return answer, err
		}
	}
}
