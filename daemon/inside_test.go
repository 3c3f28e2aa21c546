package daemon

import (
	"bufio"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/splitd/splitd/control"
	"github.com/splitd/splitd/control/api"
	"github.com/splitd/splitd/internal/certs"
	"github.com/splitd/splitd/internal/nettest"
	"github.com/splitd/splitd/splitter"
	"github.com/splitd/splitd/terminator"
	"github.com/splitd/splitd/traffic"
)

// secureSite answers each request with a body, inside TLS.
func secureSite(t *testing.T, body string) netip.AddrPort {
	t.Helper()
	s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, body)
	}))
	t.Cleanup(s.Close)
	return s.Listener.Addr().(*net.TCPAddr).AddrPort()
}

// insideSplit is a split whose flows are seen into by a pair of files.
func insideSplit(t *testing.T, old, candidate netip.AddrPort) traffic.Split {
	t.Helper()
	s := shadowedSplit("web", candidate, traffic.Whole)
	s.Primary.Addresses = []traffic.Address{{IP: old.Addr(), Port: old.Port()}}
	s.Shadow.TLS = traffic.TLS{Certificates: []traffic.Certificate{pairOfFiles(t)}, ToPrimary: traffic.Trust{Report: true}, ToCandidate: traffic.Trust{Report: true}}
	return s
}

// opens has the relay tell of a flow of web.
func opens(d *Daemon, old netip.AddrPort) splitter.Tap {
	return d.shadows.tee.Open(splitter.Opened{
		BackendKey: traffic.BackendKey{Split: "web", Backend: "old"},
		Client:     netip.MustParseAddrPort("127.0.0.9:4000"), Service: netip.MustParseAddrPort("127.0.0.1:8443"), Server: old, At: time.Now(),
	})
}

// browse has a client ask for a page in a flow that is carried, and says whether it was.
func browse(t *testing.T, d *Daemon, old netip.AddrPort) (carried bool) {
	t.Helper()
	tap := opens(d, old)
	if tap == nil {
		return false
	}
	by, ok := tap.(splitter.Carrier)
	if !ok {
		t.Fatalf("a flow is not carried, but told of to a %T", tap)
	}
	ours, theirs := connection(t)
	primary, err := net.Dial("tcp", old.String())
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() {
		err := by.Carry(t.Context(), theirs, primary)
		if errors.Is(err, splitter.ErrUnseen) { // the relay goes on
			go func() { _, _ = io.Copy(primary, theirs); _ = primary.(*net.TCPConn).CloseWrite() }()
			_, _ = io.Copy(theirs, primary)
		}
		_, _ = theirs.Close(), primary.Close()
		ended <- err
	}()
	c := tls.Client(ours, &tls.Config{InsecureSkipVerify: true, ServerName: "example.com"})
	if _, err := io.WriteString(c, "GET / HTTP/1.1\r\nHost: example.com\r\nConnection: close\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	reply, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(reply.Body)
	if string(body) != `{"n":1}` || err != nil {
		t.Errorf("a client is told %q, %v", body, err)
	}
	_ = c.Close()
	<-ended
	return true
}

// connection is one of TCP, by both ends.
func connection(t *testing.T) (one, other net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close() //nolint:errcheck // it has served
	if one, err = net.Dial("tcp", l.Addr().String()); err == nil {
		other, err = l.Accept()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = one.Close(), other.Close() })
	return one, other
}

func TestFlowsInTLSAreSeenIntoAndCompared(t *testing.T) {
	old := secureSite(t, `{"n":1}`)
	w := newWorld(t, insideSplit(t, old, secureSite(t, `{"n":2}`)))
	w.now = time.Now()
	d := w.mustBoot()
	nettest.Eventually(t, "a flow is seen into", func() bool {
		browse(t, d, old)
		s, _ := shadowOf(t, d)
		return s.TLS != nil && s.TLS.Terminated > 0
	})
	nettest.Eventually(t, "what was said is compared", func() bool {
		n := d.shadows.find("web").numbers()
		return n.Mismatch > 0 && n.Open == 0
	}, func() any { return reportFrom(t, d, "web").NotCompared })
	s, warnings := shadowOf(t, d)
	if s.State != api.ShadowOn || warnings != "" || s.TLS.FailedClient+s.TLS.FailedPrimary > 0 || len(s.TLS.Certificates) != 1 {
		t.Errorf("status has %+v, %+v and warns %q", s, s.TLS, warnings)
	}
	m := d.Sample(t.Context()).Splits[0].Shadow.TLS
	if m == nil || m.Seen != s.TLS.Terminated || m.Expires != s.TLS.Certificates[0].NotAfter {
		t.Errorf("the metrics have %+v", m)
	}
	if c := reportFrom(t, d, "web").Cover; !c.AddsUp() {
		t.Errorf("coverage is %+v", c)
	}
}

// siteRoots is a file with the certificate of every secureSite, which signs itself.
func siteRoots(t *testing.T) string {
	t.Helper()
	s := httptest.NewTLSServer(http.NotFoundHandler())
	defer s.Close()
	file := filepath.Join(t.TempDir(), "roots.pem")
	if err := os.WriteFile(file, certs.PEM(tls.Certificate{Certificate: [][]byte{s.Certificate().Raw}}), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func TestWhereAFileCannotBeUsedFlowsGoOnUnseenAndItIsSaid(t *testing.T) {
	old := secureSite(t, `{"n":1}`)
	for name, uses := range map[string]func(*traffic.TLS) (file string){
		"the key":              func(of *traffic.TLS) string { return of.Certificates[0].Key },
		"roots of the primary": func(of *traffic.TLS) string { of.ToPrimary = traffic.Trust{CA: siteRoots(t)}; return of.ToPrimary.CA },
		"roots of the candidate": func(of *traffic.TLS) string {
			of.ToCandidate = traffic.Trust{CA: siteRoots(t)}
			return of.ToCandidate.CA
		},
	} {
		t.Run(name, func(t *testing.T) {
			split := insideSplit(t, old, secureSite(t, `{"n":2}`))
			file := uses(&split.Shadow.TLS)
			text, err := os.ReadFile(file)
			if err == nil {
				err = os.WriteFile(file, []byte("nothing of that kind\n"), 0o600)
			}
			if err != nil {
				t.Fatal(err)
			}
			w := newWorld(t, split)
			w.now = time.Now()
			d := w.mustBoot()
			nettest.Eventually(t, "it is said", func() bool {
				s, warnings := shadowOf(t, d)
				return s.State == api.ShadowPaused && strings.Contains(s.Reason, file) && strings.Contains(warnings, file)
			})
			if opens(d, old) != nil {
				t.Error("a flow is told of")
			}
			nettest.Eventually(t, "it is counted", func() bool {
				r := reportFrom(t, d, "web")
				return r.Cover.Opaque == 1 && r.Cover.Eligible == 1 && r.Encrypted == 1
			})
			if s, _ := shadowOf(t, d); s.TLS.PassedThrough[terminator.Unready] != 1 {
				t.Errorf("show has %+v", s.TLS)
			}
			if err := os.WriteFile(file, text, 0o600); err != nil {
				t.Fatal(err)
			}
			if _, err := d.Apply(t.Context(), control.Actor{}, api.ApplyRequest{}); err != nil { // as SIGHUP
				t.Fatal(err)
			}
			nettest.Eventually(t, "flows are carried", func() bool { return browse(t, d, old) })
			if s, warnings := shadowOf(t, d); s.State != api.ShadowOn || warnings != "" {
				t.Errorf("status has %+v and warns %q", s, warnings)
			}
		})
	}
}

// Nobody stands in for a service when nobody would be told of it.
func TestFlowsThatWouldNotBePlayedAreNotCarried(t *testing.T) {
	old := secureSite(t, `{"n":1}`)
	w := newWorld(t, insideSplit(t, old, secureSite(t, `{"n":1}`)))
	w.now = time.Now()
	d := w.mustBoot()
	nettest.Eventually(t, "flows are carried", func() bool { return opens(d, old) != nil })
	if _, err := d.Shadow(t.Context(), control.Actor{}, "web", api.ShadowRequest{SamplePPM: new(0)}); err != nil {
		t.Fatal(err)
	}
	if opens(d, old) != nil {
		t.Error("at a sample of 0 a flow is carried")
	}
	if n := d.shadows.find("web").numbers(); n.Declined.Stopped == 0 {
		t.Errorf("it is not counted: %+v", n)
	}
}

func TestAFlowThatTheRelayCannotHaveCarriedIsCounted(t *testing.T) {
	old := secureSite(t, `{"n":1}`)
	w := newWorld(t, insideSplit(t, old, secureSite(t, `{"n":1}`)))
	w.now = time.Now()
	d := w.mustBoot()
	var tap splitter.Tap
	nettest.Eventually(t, "flows are carried", func() bool { tap = opens(d, old); return tap != nil })
	if tap.Take(splitter.Chunk{Bytes: []byte("x")}) {
		t.Error("it takes chunks")
	}
	tap.End(splitter.Ended{End: "closed", At: time.Now()})
	nettest.Eventually(t, "it is counted", func() bool { return reportFrom(t, d, "web").Cover.Opaque == 1 })
}

func TestACertificateThatIsOverOrWillBeIsWarnedOf(t *testing.T) {
	old := secureSite(t, `{"n":1}`)
	split := insideSplit(t, old, secureSite(t, `{"n":1}`))
	file := split.Shadow.TLS.Certificates[0].Cert
	for at, want := range map[time.Time]string{
		time.Date(2084, 1, 25, 0, 0, 0, 0, time.UTC): fmt.Sprintf("the certificate in %q expires on 2084-01-29", file),
		time.Date(2085, 1, 1, 0, 0, 0, 0, time.UTC):  fmt.Sprintf("the certificate in %q has expired on 2084-01-29", file),
	} {
		w := newWorld(t, split)
		w.now = at
		d := w.mustBoot()
		nettest.Eventually(t, "it is warned of", func() bool { _, warnings := shadowOf(t, d); return strings.Contains(warnings, want) },
			func() any { _, warnings := shadowOf(t, d); return warnings })
	}
}

// Whoever stands in for a service knows its primary, and has made sessions with its clients.
func TestWhoStandsInForAServiceGoesOnOverOtherRules(t *testing.T) {
	old := secureSite(t, `{"n":1}`)
	w := newWorld(t, insideSplit(t, old, secureSite(t, `{"n":1}`)))
	w.now = time.Now()
	d := w.mustBoot()
	nettest.Eventually(t, "a flow is seen into", func() bool {
		browse(t, d, old)
		s, _ := shadowOf(t, d)
		return s.TLS.Terminated > 0
	})
	apply := func() *insider {
		t.Helper()
		if _, err := d.Apply(t.Context(), control.Actor{}, api.ApplyRequest{}); err != nil {
			t.Fatal(err)
		}
		return d.shadows.find("web").inside
	}
	first := d.shadows.find("web").inside
	w.files.Splits[0].Shadow.Ignore = []string{"ignore body $.x"}
	if apply() != first {
		t.Error("by another rule another one stands in")
	}
	before := first.numbers().Terminated
	w.files.Splits[0].Shadow.TLS.Certificates = []traffic.Certificate{pairOfFiles(t)}
	if second := apply(); second == first || second.numbers().Terminated < before {
		t.Errorf("with another certificate %d flows were seen into, %d before", second.numbers().Terminated, before)
	}
	<-first.ended
	w.files.Splits[0].Shadow.TLS = traffic.TLS{}
	second := d.shadows.find("web").inside
	if apply() != nil {
		t.Error("without certificates somebody stands in")
	}
	<-second.ended
	if _, ok := opens(d, old).(shadowTap); !ok {
		t.Error("without certificates flows are not told of as they are")
	}
}

// A probe says of itself what the relay says of a client, where the primary wants that.
func TestAPrimaryThatWantsAHeaderHasOneOfAProbeToo(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close() //nolint:errcheck // it has served
	for mode, want := range map[traffic.Mode]string{traffic.ModeProxy: "PROXY TCP4 127.0.0.1 127.0.0.1 ", traffic.ModeKernel: "hello"} {
		split := shadowedSplit("web", netip.AddrPort{}, 0)
		split.Mode, split.Proxy.SendProxy = mode, traffic.SendProxyV1
		conn, err := dialerTo(0, wantsHeader(split))(t.Context(), l.Addr().(*net.TCPAddr).AddrPort())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(conn, "hello\r\n"); err != nil {
			t.Fatal(err)
		}
		there, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		line, err := bufio.NewReader(there).ReadString('\n')
		if !strings.HasPrefix(line, want) || err != nil {
			t.Errorf("in mode %s the primary hears %q, %v", mode, line, err)
		}
		_, _ = conn.Close(), there.Close()
	}
}

// Who is seen into takes memory and two goroutines of the daemon's: no more are than may be
// shadowed, and the rest is relayed as ever.
func TestNoMoreFlowsAreSeenIntoThanMayBeShadowed(t *testing.T) {
	old := secureSite(t, `{"n":1}`)
	split := insideSplit(t, old, secureSite(t, `{"n":1}`))
	split.Shadow.MaxFlows = 2
	w := newWorld(t, split)
	w.now = time.Now()
	d := w.mustBoot()
	var first splitter.Tap
	nettest.Eventually(t, "a flow is carried", func() bool {
		first, _ = opens(d, old).(splitter.Carrier)
		return first != nil
	})
	if _, carried := opens(d, old).(splitter.Carrier); !carried {
		t.Fatal("the second flow is not carried")
	}
	if tap := opens(d, old); tap != nil {
		t.Fatalf("a third one is told to a %T", tap)
	}
	nettest.Eventually(t, "it is counted", func() bool { return d.shadows.find("web").numbers().Declined.Full == 1 })
	first.End(splitter.Ended{End: "short", At: time.Now()}) // the relay could not lend it
	if !browse(t, d, old) {
		t.Error("none is carried after one has ended")
	}
	if !browse(t, d, old) {
		t.Error("none is carried after another one has been")
	}
}
