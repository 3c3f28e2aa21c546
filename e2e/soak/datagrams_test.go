//go:build soak

package soak

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"syscall"
	"time"
)

const (
	// forgotten is how long a flow of UDP may be silent.
	forgotten = 10 * time.Second
	// askAgain is how long an answer is waited for before a question is asked
	// again, as often as that: datagrams may get lost, as those that are on their
	// way to a candidate which ends.
	askAgain  = 2 * time.Second
	askAtMost = 5
	// asksOfFlow is how often a flow asks that goes on.
	asksOfFlow = 50
	// A question begins with its number; with what may follow, and the backend's
	// name, it fits a datagram on the way.
	numberSize   = 4
	questionMost = 1200
)

// serveQuestions answers every datagram with the backend's name and the datagram,
// until the end is called.
func serveQuestions(address, name string) (end func(), err error) {
	c, err := net.ListenPacket("udp", address)
	if err != nil {
		return nil, err
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for question := make([]byte, 2*questionMost); ; {
			n, from, err := c.ReadFrom(question)
			if err != nil {
				return
			}
			_, _ = c.WriteTo(append([]byte(name), question[:n]...), from)
		}
	}()
	return func() { _ = c.Close(); <-done }, nil
}

// asker is a client of UDP: one flow.
type asker struct {
	net.Conn
	load    *load
	who     string // answered last
	when    time.Time
	changes int64 // of the candidate, when it did
	number  uint32
}

func (l *load) asker(address string) (*asker, error) {
	c, err := net.DialTimeout("udp", address, patience)
	return &asker{Conn: c, load: l}, err
}

// question is a flow that asks once, and questions one that goes on.
func (l *load) question(address string) (string, error)  { return l.askTimes(address, 1) }
func (l *load) questions(address string) (string, error) { return l.askTimes(address, asksOfFlow) }

func (l *load) askTimes(address string, times int) (string, error) {
	a, err := l.asker(address)
	if err != nil {
		return "", err
	}
	defer func() { _ = a.Close() }()
	pace := time.NewTicker(10 * time.Millisecond)
	defer pace.Stop()
	for range times {
		if err := a.ask(askAtMost, askAgain); err != nil {
			return a.who, err
		}
		<-pace.C
	}
	return a.who, nil
}

// askingVisitor asks who may be gone: then it is refused, or hears nothing.
func (l *load) askingVisitor(address string) (string, error) {
	a, err := l.asker(address)
	if err != nil {
		return "", err
	}
	defer func() { _ = a.Close() }()
	err = a.ask(1, 300*time.Millisecond)
	if errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, os.ErrDeadlineExceeded) {
		err = errGone
	}
	return a.who, err
}

// ask asks a question until it is answered, so many times. Answers of who is not
// the flow's backend are wrong.
func (a *asker) ask(times int, wait time.Duration) error {
	a.number++
	question := pattern()[:numberSize+rand.IntN(questionMost)]
	question = append([]byte{byte(a.number >> 24), byte(a.number >> 16), byte(a.number >> 8), byte(a.number)}, question[numberSize:]...)
	var err error
	for range times {
		before := a.load.candidate.changes.Load()
		if _, err = a.Write(question); err != nil {
			return err
		}
		if err = a.hear(question, wait); !errors.Is(err, os.ErrDeadlineExceeded) {
			return err
		}
		// A host refuses once a second; who asks only once may find nobody.
		if c := a.load.candidate; times > 1 && !c.changed(before) && !c.refuses.Load() {
			a.load.unheard.Add(1)
		}
	}
	return fmt.Errorf("a question that was asked %d times: %w", times, err)
}

// hear waits for the answer. One of a question before, which was asked again, may
// come first.
func (a *asker) hear(question []byte, wait time.Duration) error {
	if err := a.SetReadDeadline(time.Now().Add(wait)); err != nil {
		return err
	}
	for answer := make([]byte, 2*questionMost); ; {
		n, err := a.Read(answer)
		if err != nil {
			return err
		}
		name, echo := splitAnswer(answer[:n])
		switch {
		case name == "":
			return fmt.Errorf("an answer of %d bytes that no backend has given", n)
		case bytes.Equal(echo, question):
			a.load.answered.Add(1)
			return a.served(name)
		case len(echo) < numberSize || bytes.Compare(echo[:numberSize], question[:numberSize]) >= 0:
			return fmt.Errorf("a question of %d bytes is answered with %d others", len(question), len(echo))
		}
	}
}

func splitAnswer(answer []byte) (name string, echo []byte) {
	for _, name := range []string{"old", "new"} {
		if echo, ok := bytes.CutPrefix(answer, []byte(name)); ok {
			return name, echo
		}
	}
	return "", nil
}

// served sees that a flow keeps its backend: unless the candidate has changed, and
// may have refused it, or the flow was silent for so long that it was forgotten.
func (a *asker) served(name string) error {
	before, moved := a.who, a.who != "" && a.who != name
	excused := a.load.candidate.changed(a.changes) || time.Since(a.when) > forgotten/2
	a.who, a.when = name, time.Now()
	a.changes = a.load.candidate.changes.Load()
	if moved && !excused {
		return fmt.Errorf("a flow of %q is answered by %q", before, name)
	}
	return nil
}
