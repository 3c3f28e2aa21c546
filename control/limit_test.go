package control_test

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
	"testing/synctest"
	"time"

	"github.com/splitd/splitd/control"
)

// queue is a listener whose connections are made by the test.
type queue chan net.Conn

func (q queue) Accept() (net.Conn, error) {
	c, ok := <-q
	if !ok {
		return nil, errors.New("no more")
	}
	return c, nil
}
func (q queue) Close() error   { return nil }
func (q queue) Addr() net.Addr { return nil }

func TestLimitBoundsTheConnectionsThatAreOpen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		waiting := make(queue, 5)
		for range cap(waiting) {
			_, c := net.Pipe()
			waiting <- c
		}
		l := control.Limit(waiting, 2)
		accepted := make(chan net.Conn, cap(waiting))
		ended := make(chan error, 1)
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					ended <- err
					return
				}
				accepted <- c
			}
		}()
		for free := 3; free > 0; free-- {
			synctest.Wait()
			if open := len(accepted); open != 2 || len(waiting) != free {
				t.Fatalf("%d accepted and %d waiting, want 2 and %d", open, len(waiting), free)
			}
			c := <-accepted
			for range 3 { // more than once gives one place back
				_ = c.Close()
			}
		}
		synctest.Wait()
		if err := l.Close(); err != nil {
			t.Error(err)
		}
		if err := <-ended; !errors.Is(err, net.ErrClosed) {
			t.Errorf("Accept after Close, while it waits for a place = %v, want net.ErrClosed", err)
		}
	})
}

func TestAFailedAcceptTakesNoPlace(t *testing.T) {
	waiting := make(queue)
	close(waiting)
	l := control.Limit(waiting, 1)
	for range 3 {
		if _, err := l.Accept(); err == nil || errors.Is(err, net.ErrClosed) {
			t.Errorf("Accept = %v, want the listener's own error", err)
		}
	}
}

func TestALimitedServerAnswersThoseWhoWaited(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewUnstartedServer(control.ReadOnly(operatorOf(split("mx", "new"))))
	_ = server.Listener.Close()
	server.Listener = control.Limit(listener, 1)
	server.Config.ReadHeaderTimeout = 50 * time.Millisecond
	server.Start()
	t.Cleanup(server.Close)
	idle, err := net.Dial("tcp", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = idle.Close() }()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, server.URL+"/v1/splits", nil)
	if err != nil {
		t.Fatal(err)
	}
	answer, err := server.Client().Do(request)
	if err != nil {
		t.Fatal(err)
	}
	_ = answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		t.Errorf("status %d", answer.StatusCode)
	}
}
