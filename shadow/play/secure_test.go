package play

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"io"
	"log/slog"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/splitd/splitd/internal/certs"
	"github.com/splitd/splitd/shadow"
	"github.com/splitd/splitd/shadow/report"
	"github.com/splitd/splitd/shadow/tally"
	"github.com/splitd/splitd/traffic"
)

// certified is a certificate of these names that signs itself, and the file of roots that
// it is.
func certified(t *testing.T, until time.Time, names ...string) (tls.Certificate, string) {
	t.Helper()
	c, err := certs.Sign(&x509.Certificate{
		SerialNumber: big.NewInt(1), // a long one is more than who refuses it reads of a pipe, and both would wait
		NotBefore:    time.Unix(0, 0), NotAfter: until, DNSNames: names, IsCA: true, BasicConstraintsValid: true,
	}, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "roots.pem")
	if err := os.WriteFile(file, certs.PEM(c), 0o600); err != nil {
		t.Fatal(err)
	}
	return c, file
}

// late is a time that is far from now, also in a bubble of synctest.
var late = time.Date(2400, 1, 1, 0, 0, 0, 0, time.UTC)

// encrypted has a server speak TLS from the first byte on.
func encrypted(c tls.Certificate, serve func(net.Conn)) func(net.Conn) {
	return func(conn net.Conn) {
		inside := tls.Server(conn, &tls.Config{Certificates: []tls.Certificate{c}, NextProtos: []string{"http/1.1"}})
		if inside.Handshake() == nil {
			serve(inside)
			_ = inside.CloseWrite()
		}
	}
}

// starttls has a mail server offer STARTTLS, and greet and serve inside as serve does.
func starttls(c tls.Certificate, serve func(net.Conn)) func(net.Conn) {
	return func(conn net.Conn) {
		lines := bufio.NewReader(conn)
		_, _ = io.WriteString(conn, "220 new.example ESMTP\r\n")
		for {
			line, err := lines.ReadString('\n')
			switch {
			case err != nil:
				return
			case strings.HasPrefix(line, "EHLO"):
				_, _ = io.WriteString(conn, "250-new.example\r\n250 STARTTLS\r\n")
				continue
			case line != "STARTTLS\r\n":
				_, _ = io.WriteString(conn, "250 2.0.0 Ok\r\n")
				continue
			}
			_, _ = io.WriteString(conn, "220 2.0.0 Ready to start TLS\r\n")
			encrypted(c, func(inside net.Conn) { serve(greeted{inside}) })(conn)
			return
		}
	}
}

// greeted is a connection on which the greeting goes to nobody: it was said in clear.
type greeted struct{ net.Conn }

func (g greeted) Write(b []byte) (int, error) {
	if bytes.HasPrefix(b, []byte("220 ")) {
		return len(b), nil
	}
	return g.Conn.Write(b)
}

func seesInto(trust, primary traffic.Trust) traffic.TLS {
	return traffic.TLS{Certificates: []traffic.Certificate{{Cert: "c", Key: "k"}}, ToCandidate: trust, ToPrimary: primary}
}

// shown is the handshake of a primary whose certificate is of the name that the client asks for.
func shown() *shadow.Handshake {
	return &shadow.Handshake{
		ServerName: "www.example.com", Protocols: []string{"http/1.1"}, Least: tls.VersionTLS12, Most: tls.VersionTLS13,
		Version: tls.VersionTLS13, Cipher: tls.TLS_AES_128_GCM_SHA256, Protocol: "http/1.1",
		Certificate: shadow.Shown{Names: []string{"www.example.com"}, After: late.AddDate(1, 0, 0), Kind: "ECDSA P-256"},
	}
}

func TestWhatIsSaidInsideTLSAndTheHandshakesAreCompared(t *testing.T) {
	same, roots := certified(t, late, "www.example.com")
	other, _ := certified(t, late, "staging.example.com")
	for name, test := range map[string]struct {
		shows tls.Certificate
		trust traffic.Trust
		want  []string
	}{
		"a certificate of the same names": {same, traffic.Trust{CA: roots}, []string{"5 GET /price body $.price: <integer> -> <integer>"}},
		"one that only pins would trust":  {same, traffic.Trust{Pins: []string{"AAAA"}}, []string{"5 TLS reply: a reply -> the TLS handshake fails: its certificate is not trusted: its key", "5 GET /price reply: a reply -> no answer: no TLS with it"}},
		"one of another name": {other, traffic.Trust{Report: true}, []string{
			"5 TLS name: www.example.com -> staging.example.com", "5 GET /price body $.price: <integer> -> <integer>",
		}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newStage(t, encrypted(test.shows, httpd(func(string) string { return `{"price":2345}` })))
				p := s.play(func(o *Options) {
					o.Split = mx(func(s *traffic.Split) {
						s.Protocol, s.Shadow.Mode, s.Shadow.TLS = "http", "", seesInto(test.trust, traffic.Trust{Report: true})
					})
				})
				inside := flow
				inside.TLS = shown()
				for range 5 {
					tap := p.Open(inside)
					if tap == nil {
						t.Fatal("no flow is played")
					}
					tap.Take(shadow.Client, []byte("GET /price HTTP/1.1\r\nHost: a\r\n\r\n"), false, time.Now())
					tap.Take(shadow.Primary, []byte(answer(`{"price":1234}`)), false, time.Now())
					synctest.Wait()
					tap.End(shadow.Closed, time.Now())
					synctest.Wait()
				}
				r := p.Report()
				got := listed(r.Differences)
				same := len(got) == len(test.want)
				for i := range test.want {
					same = same && strings.HasPrefix(got[i], test.want[i])
				}
				if !same || len(r.Suspects) > 0 || r.Cover.Eligible != 10 || r.SeenInside != 5 {
					t.Errorf("differences %q, want %q; %+v, %d seen inside", got, test.want, r.Cover, r.SeenInside)
				}
			})
		})
	}
}

func TestMailBehindSTARTTLSIsCompared(t *testing.T) {
	certificate, roots := certified(t, late, "www.example.com")
	synctest.Test(t, func(t *testing.T) {
		heard := &bookOf{}
		refuses := map[string]string{"RCPT TO:<bob@example.com>": "550 5.1.1 No such user"}
		s := newStage(t, starttls(certificate, mta(heard, refuses)))
		s.servers[primaryAt] = starttls(certificate, mta(io.Discard, nil))
		p := s.play(func(o *Options) {
			o.Split = mx(func(s *traffic.Split) {
				s.Shadow.TLS, s.Shadow.Control = seesInto(traffic.Trust{CA: roots}, traffic.Trust{CA: roots}), traffic.Control{}
			})
		})
		for range 5 {
			tap := p.Open(flow)
			say := func(turns ...turn) {
				for _, turn := range turns {
					if turn.says != "" {
						tap.Take(shadow.Client, []byte(turn.says), false, time.Now())
					}
					tap.Take(shadow.Primary, []byte(turn.answer), false, time.Now())
					synctest.Wait()
				}
			}
			say(turn{"", "220 old.example ESMTP\r\n"}, turn{"EHLO client.example\r\n", "250-old.example\r\n250 STARTTLS\r\n"}, turn{"STARTTLS\r\n", "220 2.0.0 Ready to start TLS\r\n"})
			tap.Secure(*shown(), time.Now())
			say(session()[1:]...)
			tap.End(shadow.Closed, time.Now())
			time.Sleep(time.Second)
			synctest.Wait()
		}
		r := p.Report()
		if diff := cmp.Diff([]string{"5 RCPT code: 250 -> 550"}, listed(r.Differences)); diff != "" {
			t.Errorf("differences (-want +got):\n%s\nsuspects %q, %+v", diff, listed(r.Suspects), r.Cover)
		}
		if r.SeenInside != 5 || r.Encrypted != 0 || r.Cover.Opaque != 0 || r.Cover.CandidateError != 0 || !strings.Contains(heard.String(), "RCPT TO:<alice@example.com>") || strings.Contains(heard.String(), "hello") {
			t.Errorf("%+v, the candidate has heard %q inside", r.Cover, heard)
		}
	})
}

// What is said in clear before STARTTLS says nothing of what is behind it.
func TestMailBehindSTARTTLSThatIsNotSeenIntoIsNotCalledTheSame(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t, mta(io.Discard, map[string]string{"EHLO client.example": "250-new.example\r\n250 STARTTLS"}))
		p := s.play(func(o *Options) {
			o.Split = mx(func(s *traffic.Split) {
				s.Shadow.TLS, s.Shadow.Control = seesInto(traffic.Trust{Report: true}, traffic.Trust{Report: true}), traffic.Control{}
			})
		})
		const mails = 236
		for range mails {
			tap := p.Open(flow)
			for _, turn := range []turn{
				{"", "220 old.example ESMTP\r\n"}, {"EHLO client.example\r\n", "250-old.example\r\n250 STARTTLS\r\n"}, {"STARTTLS\r\n", "220 2.0.0 Ready to start TLS\r\n"},
			} {
				tap.Take(shadow.Client, []byte(turn.says), false, time.Now())
				tap.Take(shadow.Primary, []byte(turn.answer), false, time.Now())
				synctest.Wait()
			}
			tap.Opaque("TLS is not seen into: the primary's TLS takes AES-256, and the client could get AES-128: allow_aes128 would let it", time.Now())
			tap.End(shadow.Closed, time.Now())
			synctest.Wait()
		}
		r := p.Report()
		d := report.Limits{MaxMismatch: 0.01, MinCompared: 300}.Decide(r)
		if r.Verdict != report.Undecided || d.ExitCode != 6 || r.Cover.Compared != 2*mails || r.Encrypted != mails || r.EncryptedOf != mails {
			t.Errorf("%+v, %d of %d unseen, a pipeline gets %+v\n%s", r.Cover, r.Encrypted, r.EncryptedOf, d, r.Summary)
		}
	})
}

// The control is the primary, and so is judged as that is.
func TestTheControlIsJudgedAsThePrimary(t *testing.T) {
	certificate, roots := certified(t, late, "www.example.com")
	for want, trust := range map[string]traffic.Trust{"": {CA: roots}, "refused": {Pins: []string{"AAAA"}}} {
		synctest.Test(t, func(t *testing.T) {
			o := Options{Split: mx(func(s *traffic.Split) { s.Shadow.TLS = seesInto(traffic.Trust{Report: true}, trust) })}
			secures := o.withDefaults().secures()
			for _, control := range []bool{false, true} {
				ours, theirs := net.Pipe()
				go encrypted(certificate, func(net.Conn) {})(theirs)
				conn, h, err := secures(t.Context(), ours, *shown(), control)
				failed := control && want != ""
				if (err != nil) != failed || (h.Failed != "") != failed || (conn == nil) != failed {
					t.Errorf("control %v: %v, %+v", control, err, h)
				}
				if trust.CA != "" && h.Certificate.Distrust != "" {
					t.Errorf("control %v: by the roots of the primary %s", control, h.Certificate.Distrust)
				}
				_ = ours.Close()
			}
		})
	}
}

func TestAFlowThatCannotBeSeenIntoIsInTheReport(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t, mta(io.Discard, nil))
		p := s.play(nil)
		unseen := flow
		unseen.Opaque = "a certificate of the client is asked for"
		for range 3 {
			p.Open(unseen).End(shadow.Closed, time.Now())
		}
		synctest.Wait()
		r := p.Report()
		if want := (tally.Coverage{Eligible: 3, Opaque: 3}); r.Cover != want || len(s.asked()) > 0 {
			t.Errorf("%+v, dialled %q", r.Cover, s.asked())
		}
		want := []tally.Reason{{Verdict: shadow.Opaque, Reason: "a certificate of the client is asked for", Count: 3}}
		if diff := cmp.Diff(want, r.NotCompared); diff != "" {
			t.Errorf("not compared (-want +got):\n%s", diff)
		}
	})
}

// What is said in clear is played all the same, and what is inside TLS once they are there.
func TestRootsThatCannotBeReadYetTrustNobodyAndAreNamed(t *testing.T) {
	c, roots := certified(t, late, "www.example.com")
	text, err := os.ReadFile(roots)
	if err == nil {
		err = os.Remove(roots)
	}
	if err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		s := newStage(t, encrypted(c, httpd(func(string) string { return "same" })))
		p := s.play(func(o *Options) {
			o.Log = slog.New(slog.NewTextHandler(&log, nil))
			o.Split = mx(func(s *traffic.Split) {
				s.Protocol, s.Shadow.Mode, s.Shadow.TLS = "http", "", seesInto(traffic.Trust{CA: roots}, traffic.Trust{Report: true})
			})
		})
		if !strings.Contains(log.String(), roots) {
			t.Errorf("the log names no roots: %s", log.String())
		}
		asks := func() {
			inside := flow
			inside.TLS = shown()
			tap := p.Open(inside)
			tap.Take(shadow.Client, []byte("GET /price HTTP/1.1\r\nHost: a\r\n\r\n"), false, time.Now())
			tap.Take(shadow.Primary, []byte(answer("same")), false, time.Now())
			synctest.Wait()
			tap.End(shadow.Closed, time.Now())
			synctest.Wait()
		}
		asks()
		if c := p.Report().Cover; c.CandidateError != 2 || c.Compared != 0 {
			t.Errorf("without roots: %+v", c)
		}
		if err := os.WriteFile(roots, text, 0o600); err != nil {
			t.Error(err)
		}
		time.Sleep(2 * time.Second) // of the clock by which files are looked at
		asks()
		if c := p.Report().Cover; c.CandidateError != 2 || c.Compared != 2 {
			t.Errorf("with roots: %+v, %+v", c, p.Report().NotCompared)
		}
	})
}
