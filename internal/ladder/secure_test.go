package ladder

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"
)

func certificates(t *testing.T) *Certificates {
	t.Helper()
	c, err := NewCertificates()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func clientOf(t *testing.T, c *Certificates) *tls.Config {
	t.Helper()
	config, err := c.client()
	if err != nil {
		t.Fatal(err)
	}
	return config
}

func TestEveryBehaviourOverTLSIsWhatItSays(t *testing.T) {
	over := certificates(t)
	config := clientOf(t, over)
	for _, tc := range []struct {
		b               Behaviour
		handshake, says string // an error of the handshake, or else how the answer begins
	}{
		{Healthy, "", "HTTP/1.1 200 OK\r\nVia: 1.1 candidate"},
		{Dead, "connection refused", ""},
		{Refusing, "", "HTTP/1.1 503"},
		{Blackholed, "timeout", ""},
		{Hanging, "timeout", ""},
		{Dripping, "", "H"},
		{Flooding, "", "HTTP/1.1 200 OK"},
		{Resetting, "", ""},
		{Differing, "", "HTTP/1.1 200 OK\r\nVia: 1.1 candidate"},
		{Garbling, "does not look like a TLS handshake", ""},
		{Trickling, "timeout", ""},
		{Expired, "expired", ""},
	} {
		candidate, err := NewCandidate(tc.b, here(), 1, over)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(candidate.Close)
		if tc.b.About() == "" {
			t.Errorf("%s is not explained", tc.b)
		}
		err = func() error {
			c, err := net.DialTimeout("tcp", candidate.Address().String(), unanswered)
			if err != nil {
				return err
			}
			defer func() { _ = c.Close() }()
			if tc.handshake != "" {
				_ = c.SetDeadline(time.Now().Add(unanswered))
			}
			inside := tls.Client(c, config)
			if err := inside.HandshakeContext(t.Context()); err != nil || tc.says == "" {
				return err
			}
			if _, err := io.WriteString(inside, tc.b.Page().request()); err != nil {
				return err
			}
			heard := make([]byte, len(tc.says))
			if _, err := io.ReadFull(inside, heard); err != nil || string(heard) != tc.says {
				t.Errorf("%s says %q: %v", tc.b, heard, err)
			}
			return nil
		}()
		if got := errorText(err); tc.handshake == "" && err != nil || !strings.Contains(got, tc.handshake) {
			t.Errorf("%s: %v, want %q", tc.b, err, tc.handshake)
		}
		if tc.b.connects() != (candidate.Taken() > 0) {
			t.Errorf("%s has taken %d connections", tc.b, candidate.Taken())
		}
	}
	if _, err := NewCandidate("charming", here(), 1, over); err == nil {
		t.Error("one that is not known stands")
	}
}

func errorText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

func TestACandidateOverTLSResetsInTheMiddle(t *testing.T) {
	over := certificates(t)
	candidate, err := NewCandidate(Resetting, here(), 1, over)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(candidate.Close)
	for cut := 0; cut == 0; {
		c, err := tls.Dial("tcp", candidate.Address().String(), clientOf(t, over))
		if err != nil {
			t.Fatal(err)
		}
		_, err = io.WriteString(c, request)
		err = errors.Join(err, c.CloseWrite()) // the reset may be there first
		text, readErr := io.ReadAll(c)
		switch err = errors.Join(err, readErr); {
		case errors.Is(err, syscall.ECONNRESET):
			cut++
		case err != nil || !bytes.Equal(text, []byte(candidateReply)):
			t.Fatalf("%q, %v", text, err)
		}
		_ = c.Close()
	}
}

// splices relays bytes as they are.
func splices(primary netip.AddrPort) talking {
	return func(ctx context.Context, c net.Conn) {
		p, err := net.Dial("tcp", primary.String())
		if err != nil {
			return
		}
		defer context.AfterFunc(ctx, func() { _ = p.Close() })()
		go func() { _, _ = io.Copy(p, c); _ = p.Close() }()
		_, _ = io.Copy(c, p)
	}
}

// standsIn relays what is inside TLS.
func standsIn(t *testing.T, over *Certificates, primary netip.AddrPort) talking {
	t.Helper()
	own, err := over.server(over.Service())
	if err != nil {
		t.Fatal(err)
	}
	asked := clientOf(t, over)
	return secured(own, func(ctx context.Context, c net.Conn) {
		p, err := tls.Dial("tcp", primary.String(), asked)
		if err != nil {
			return
		}
		defer func() { _ = p.Close() }()
		defer context.AfterFunc(ctx, func() { _ = p.Close() })()
		for from := bufio.NewReader(c); readRequest(from) == nil && passes(p, nil, c) == nil; {
		}
	})
}

func TestALadderOverTLSHoldsOnlyWhereSomebodyStandsIn(t *testing.T) {
	over := certificates(t)
	for _, tc := range []struct {
		name     string
		relays   func(primary netip.AddrPort) talking
		standsIn bool
	}{
		{"bytes are relayed", splices, false},
		{"what is inside is relayed", func(primary netip.AddrPort) talking { return standsIn(t, over, primary) }, true},
	} {
		o := options(func(_ context.Context, primary, _ netip.AddrPort) (Subject, error) {
			s, err := serve(here(), tc.relays(primary))
			r := &relay{server: s, resident: func() (int64, error) { return ResidentOf(os.Getpid()) }}
			r.shadowed.Add(1)
			return r, err
		}, Dead)
		o.TLS, o.Rate = over, 200
		l, err := Climb(t.Context(), o)
		if err != nil {
			t.Fatal(err)
		}
		r := l.Rungs[0]
		if r.Failed > 0 || r.Requests == 0 || len(r.On) != 1 || r.On[0].P99 <= 0 || (r.StoodIn > 0) != tc.standsIn {
			t.Errorf("%s: %+v", tc.name, r)
		}
		_, broken, _ := r.Judge()
		if seen := strings.Contains(strings.Join(broken, "\n"), "nothing was seen into"); seen == tc.standsIn {
			t.Errorf("%s: it is said to be broken by %q", tc.name, broken)
		}
	}
}

func TestAClientOverTLSSeesTheCandidatesBytes(t *testing.T) {
	over := certificates(t)
	candidate, err := NewCandidate(Healthy, here(), 1, over)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(candidate.Close)
	l := Load{At: candidate.Address(), TLS: clientOf(t, over), Clients: 2, Patience: time.Minute}
	o, err := l.Paced(t.Context(), 50*time.Millisecond, 100)
	if err != nil || o.Strays != 5 || o.Failed != 5 || !strings.Contains(errorText(o.Why), "candidate's bytes") {
		t.Errorf("%+v, %v", o, err)
	}
}

func TestTheProcessOfACandidateSpeaksTLSToo(t *testing.T) {
	over := certificates(t)
	h, err := StartHost(t.Context(), Self(candidateWord), Healthy, here(), 1, over)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := h.Close(); err != nil {
			t.Error(err)
		}
	}()
	c, err := tls.Dial("tcp", h.Address().String(), clientOf(t, over))
	if err != nil {
		t.Fatal(err)
	}
	_ = c.Close()
}

func TestADaemonOverTLSIsToldOfItsCertificates(t *testing.T) {
	over := certificates(t)
	text := Config("/run", Limits{TLS: over}, netip.MustParseAddrPort("127.0.0.1:1"), netip.MustParseAddrPort("127.0.0.1:2"), netip.MustParseAddrPort("127.0.0.1:3"))
	for _, want := range []string{"cert: \"" + over.Service(), "to_primary: {ca: \"" + over.Roots(), "to_candidate: {ca: "} {
		if !strings.Contains(text, want) {
			t.Errorf("the configuration lacks %q:\n%s", want, text)
		}
	}
}
