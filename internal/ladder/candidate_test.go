package ladder

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"
)

func here() netip.Addr { return netip.MustParseAddr("127.0.0.1") }

func stand(t *testing.T, b Behaviour) *Candidate {
	t.Helper()
	c, err := NewCandidate(b, here(), 1, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// ask connects and makes a request.
func ask(t *testing.T, at netip.AddrPort) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", at.String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	if _, err := io.WriteString(c, request); err != nil {
		t.Fatal(err)
	}
	return c
}

func TestEveryBehaviourSaysWhatItDoes(t *testing.T) {
	for _, b := range Behaviours() {
		if b.About() == "" {
			t.Errorf("%s is not explained", b)
		}
		stand(t, b)
	}
	if len(Behaviours()) != 9 {
		t.Errorf("%d behaviours, want 9", len(Behaviours()))
	}
	if _, err := NewCandidate("charming", here(), 1, nil); err == nil || !strings.Contains(err.Error(), `"charming"`) {
		t.Errorf("one that is not known: %v", err)
	}
}

func TestAHealthyCandidateAnswersInItsOwnName(t *testing.T) {
	candidate := stand(t, Healthy)
	from := bufio.NewReader(ask(t, candidate.Address()))
	r, err := http.ReadResponse(from, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = r.Body.Close() }()
	body, err := io.ReadAll(r.Body)
	if err != nil || r.StatusCode != http.StatusOK || string(body) != "ok\n" || r.Header.Get("Via") != "1.1 candidate" {
		t.Errorf("%d %q by %q: %v", r.StatusCode, body, r.Header.Get("Via"), err)
	}
	if candidate.Taken() != 1 {
		t.Errorf("%d connections, want 1", candidate.Taken())
	}
}

func TestADeadCandidateRefusesTheConnect(t *testing.T) {
	c, err := net.Dial("tcp", stand(t, Dead).Address().String())
	if !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("connected %v: %v", c, err)
	}
}

func TestARefusingCandidateSays503AndEnds(t *testing.T) {
	text, err := io.ReadAll(ask(t, stand(t, Refusing).Address()))
	if err != nil || !bytes.HasPrefix(text, []byte("HTTP/1.1 503 ")) {
		t.Errorf("%q, %v", text, err)
	}
}

func TestABlackholedCandidateAnswersNoConnect(t *testing.T) {
	at := stand(t, Blackholed).Address()
	for range 3 { // nobody who gives up makes room
		c, err := net.DialTimeout("tcp", at.String(), unanswered)
		if timeout, ok := errors.AsType[net.Error](err); !ok || !timeout.Timeout() {
			t.Errorf("connected %v: %v", c, err)
		}
	}
}

func TestAHangingCandidateReadsAndSaysNothing(t *testing.T) {
	c := ask(t, stand(t, Hanging).Address())
	// What it does not read fills both ends' buffers.
	_ = c.SetDeadline(time.Now().Add(unanswered))
	var err error
	for written := 0; err == nil && written < 64<<20; written += 1 << 20 {
		_, err = c.Write(make([]byte, 1<<20))
	}
	if timeout, ok := errors.AsType[net.Error](err); !ok || !timeout.Timeout() {
		t.Errorf("it took all: %v", err)
	}
	_ = c.SetDeadline(time.Now())
	if n, err := c.Read(make([]byte, 1)); n != 0 {
		t.Errorf("it said something: %v", err)
	}
}

func TestADrippingCandidateGivesAByteAtATime(t *testing.T) {
	c := ask(t, stand(t, Dripping).Address())
	heard := make([]byte, 64)
	for range 2 {
		if n, err := c.Read(heard); n != 1 {
			t.Errorf("%d bytes at once: %v", n, err)
		}
	}
}

func TestAFloodingCandidateAnnouncesAGigabyteAndSendsIt(t *testing.T) {
	r, err := http.ReadResponse(bufio.NewReader(ask(t, stand(t, Flooding).Address())), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = r.Body.Close() }()
	if n, err := io.CopyN(io.Discard, r.Body, 4<<20); r.ContentLength != 1<<30 || err != nil {
		t.Errorf("%d bytes announced, %d came: %v", r.ContentLength, n, err)
	}
}

func TestAResettingCandidateAnswersAndResets(t *testing.T) {
	at := stand(t, Resetting).Address()
	whole, cut := 0, 0
	for i := 0; (whole == 0 || cut == 0) && i < 1000; i++ {
		c := ask(t, at)
		_ = c.(*net.TCPConn).CloseWrite()
		text, err := io.ReadAll(c)
		switch {
		case string(text) == candidateReply && err == nil:
			whole++
		case errors.Is(err, syscall.ECONNRESET):
			cut++
		default:
			t.Fatalf("%q, %v", text, err)
		}
	}
	if whole == 0 || cut == 0 {
		t.Errorf("%d whole answers, %d resets", whole, cut)
	}
}
