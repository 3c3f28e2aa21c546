package ladder

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// The small page as it goes over the wire.
const (
	request        = "GET /ladder HTTP/1.1\r\nHost: ladder.test\r\n\r\n"
	reply          = "HTTP/1.1 200 OK\r\nVia: 1.1 primary\r\nContent-Type: text/plain\r\nContent-Length: 3\r\n\r\nok\n"
	candidateReply = "HTTP/1.1 200 OK\r\nVia: 1.1 candidate\r\nContent-Type: text/plain\r\nContent-Length: 3\r\n\r\nok\n"
)

// serveBy is a server of this test's in the primary's place.
func serveBy(t *testing.T, talk func(*net.TCPConn)) netip.AddrPort {
	t.Helper()
	s, err := serve(here(), func(_ context.Context, c net.Conn) { talk(c.(*net.TCPConn)) })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.close)
	return s.address()
}

// answers answers each request with the same.
func answers(c net.Conn, with string) {
	from := bufio.NewReader(c)
	for readRequest(from) == nil {
		if _, err := io.WriteString(c, with); err != nil {
			return
		}
	}
}

func primaryOf(t *testing.T) *Primary {
	t.Helper()
	p, err := NewPrimary(here(), Small, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	return p
}

func TestEveryRequestThatIsDueIsMadeAndTimed(t *testing.T) {
	p := primaryOf(t)
	l := Load{At: p.Address(), Clients: 4, Flow: 10, Patience: time.Minute}
	o, err := l.Paced(t.Context(), 200*time.Millisecond, 1000)
	if err != nil {
		t.Fatal(err)
	}
	if o.Answered != 200 || o.Failed != 0 || len(o.Took) != 200 {
		t.Errorf("%d answered, %d failed, %d timed, want 200, 0, 200: %v", o.Answered, o.Failed, len(o.Took), o.Why)
	}
	if o.Flows < 20 {
		t.Errorf("%d flows of 10 requests at most, want 20", o.Flows)
	}
}

func TestClientsAskAgainAsSoonAsTheyAreAnswered(t *testing.T) {
	p := primaryOf(t)
	o, err := Load{At: p.Address(), Clients: 4, Patience: time.Minute}.Full(t.Context(), 50*time.Millisecond)
	if err != nil || o.Failed != 0 || o.Answered == 0 || o.Flows != 4 || o.Rate() <= 0 {
		t.Errorf("%d answered, %d failed in %d flows: %v, %v", o.Answered, o.Failed, o.Flows, o.Why, err)
	}
}

func TestTheFirstRequestsAreForWarmingUp(t *testing.T) {
	p := primaryOf(t)
	o, err := Load{At: p.Address(), Clients: 4, Warm: 100 * time.Millisecond, Patience: time.Minute}.Paced(t.Context(), 200*time.Millisecond, 1000)
	if err != nil || o.Answered != 200 || len(o.Took) != 101 {
		t.Errorf("%d answered, %d timed, want 200 and 101: %v", o.Answered, len(o.Took), err)
	}
}

// A stall of the server is in the times of all requests that were due meanwhile,
// not of those alone that were under way.
func TestAStallIsInTheTimesOfAllThatWaited(t *testing.T) {
	goOn := make(chan struct{})
	at := serveBy(t, func(c *net.TCPConn) {
		from := bufio.NewReader(c)
		for readRequest(from) == nil {
			<-goOn
			if _, err := io.WriteString(c, reply); err != nil {
				return
			}
		}
	})
	r, err := Load{At: at, Clients: 1, Patience: time.Minute}.begin(200*time.Millisecond, 200)
	if err != nil {
		t.Fatal(err)
	}
	defer r.close()
	release := sync.OnceFunc(func() { close(goOn) })
	defer release()
	var wentOn time.Time
	stalled := 0
	for !r.over() {
		if err := r.step(); err != nil {
			t.Fatal(err)
		}
		if stalled == 0 && r.made >= 30 {
			stalled, wentOn = r.made, time.Now()
			release()
		}
	}
	o := r.end()
	if o.Failed > 0 || len(o.Took) != 40 {
		t.Fatalf("%d of 40 requests timed, %d failed: %v", len(o.Took), o.Failed, o.Why)
	}
	for i, took := range o.Took[:stalled] { // of one client, in their order
		if due := r.began.Add(time.Duration(i+1) * r.interval); took < wentOn.Sub(due) {
			t.Errorf("request %d was due %v before the server went on, and took %v", i, wentOn.Sub(due), took)
		}
	}
}

func TestWhatGoesWrongIsCountedWithItsReason(t *testing.T) {
	for _, tc := range []struct {
		name  string
		talk  func(*net.TCPConn)
		stray bool
		why   string
	}{
		{"silence", func(c *net.TCPConn) { _, _ = io.Copy(io.Discard, c) }, false, "no answer"},
		{"an end", func(c *net.TCPConn) { _ = readRequest(bufio.NewReader(c)) }, false, "unexpected EOF"},
		{"a reset", func(c *net.TCPConn) { _ = c.SetLinger(0) }, false, "connection reset"},
		{"the candidate's bytes", func(c *net.TCPConn) { answers(c, candidateReply) }, true, "the candidate's bytes reached a client"},
		{"more than the reply", func(c *net.TCPConn) { answers(c, reply+"x") }, true, "not the primary's"},
		{"another status", func(c *net.TCPConn) { answers(c, strings.Replace(reply, "200", "502", 1)) }, true, "not the primary's"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			o, err := Load{At: serveBy(t, tc.talk), Clients: 2, Patience: 50 * time.Millisecond}.Paced(t.Context(), 50*time.Millisecond, 200)
			if err != nil {
				t.Fatal(err)
			}
			if o.Answered != 0 || o.Failed < 10 || o.Why == nil || !strings.Contains(o.Why.Error(), tc.why) || (o.Strays > 0) != tc.stray {
				t.Errorf("%d answered, %d failed, %d strays, because %v", o.Answered, o.Failed, o.Strays, o.Why)
			}
		})
	}
}

// On a machine that has no time for them requests are due all the same.
func TestWhatWasDueAndNotBegunHasFailed(t *testing.T) {
	r, err := Load{At: serveBy(t, func(c *net.TCPConn) { _, _ = io.Copy(io.Discard, c) }), Clients: 2}.begin(50*time.Millisecond, 200)
	if err != nil {
		t.Fatal(err)
	}
	defer r.close()
	if o := r.end(); o.Failed != 10 || o.Answered != 0 || o.Why == nil {
		t.Errorf("of 10 requests that nobody has begun %d failed and %d were answered: %v", o.Failed, o.Answered, o.Why)
	}
}

func TestEveryRequestIsAnsweredHoweverItIsCut(t *testing.T) {
	two := request + request
	for i := range len(two) {
		first, had := endings([]byte(two[:i]), 0)
		second, left := endings([]byte(two[i:]), had)
		if first+second != 2 || left != 0 {
			t.Errorf("cut at %d: %d and %d requests, %d bytes left", i, first, second, left)
		}
	}
	c := ask(t, primaryOf(t).Address())
	if _, err := io.WriteString(c, request); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 2*len(reply))
	if _, err := io.ReadFull(c, got); err != nil || string(got) != reply+reply {
		t.Errorf("%q, %v", got, err)
	}
}

func TestAConnectThatIsRefusedIsAFailure(t *testing.T) {
	o, err := Load{At: stand(t, Dead).Address(), Clients: 2, Patience: time.Minute}.Paced(t.Context(), 20*time.Millisecond, 500)
	if err != nil || o.Failed != 10 || !errors.Is(o.Why, syscall.ECONNREFUSED) {
		t.Errorf("%d failed because %v, error %v; want 10", o.Failed, o.Why, err)
	}
}

func TestALoadEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := (Load{At: primaryOf(t).Address(), Clients: 1}).Full(ctx, time.Hour); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	if _, err := (Load{}).Paced(t.Context(), time.Second, 0); err == nil {
		t.Error("a rate of nothing was taken")
	}
}

func TestAReplyIsKnownHoweverItIsCut(t *testing.T) {
	// What nginx makes of it.
	proxied := "HTTP/1.1 200 OK\r\nServer: nginx/1.22.1\r\nContent-Type: text/plain\r\nContent-Length: 3\r\nConnection: keep-alive\r\nVia: 1.1 primary\r\n\r\nok\n"
	for _, text := range []string{reply, proxied} {
		for i := range len(text) {
			if whole, err := isReply(newSheet(Small, byPrimary), []byte(text[:i])); whole || err != nil {
				t.Errorf("%q: %v, %v", text[:i], whole, err)
			}
		}
		if whole, err := isReply(newSheet(Small, byPrimary), []byte(text)); !whole || err != nil {
			t.Errorf("%q: %v, %v", text, whole, err)
		}
	}
}

func FuzzNothingElseIsTakenForThePrimarysReply(f *testing.F) {
	f.Add([]byte(reply))
	f.Add([]byte(candidateReply))
	f.Add([]byte(reply + reply))
	f.Add([]byte("HTTP/1.1 200 OK\r\nVia: 1.1 primary\r\nContent-Length: 3\r\n\r\nno\n"))
	f.Fuzz(func(t *testing.T, heard []byte) {
		whole, err := isReply(newSheet(Small, byPrimary), heard)
		if whole && err != nil {
			t.Fatal("it is one and it is none")
		}
		if whole && (bytes.Contains(heard, []byte("candidate")) || !bytes.HasSuffix(heard, []byte("\r\n\r\nok\n")) || !bytes.Contains(heard, []byte("Via: 1.1 primary"))) {
			t.Errorf("%q is taken for the primary's", heard)
		}
	})
}
