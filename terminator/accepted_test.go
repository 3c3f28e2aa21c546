package terminator

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"io"
	"slices"
	"testing"
	"time"

	"github.com/splitd/splitd/internal/certs"
	"github.com/splitd/splitd/traffic"
)

// Who trusts the primary's certificate and not the one here would be refused nothing by the
// primary: whether a chain is not whole or of somebody else.
func TestAPairThatWouldNotBeTrustedWhereThePrimarysIsIsNotShown(t *testing.T) {
	a, other := newAuthority(t), newAuthority(t)
	of := template()
	of.IsCA, of.BasicConstraintsValid, of.ExtKeyUsage = true, true, nil
	between, err := certs.Sign(of, &a.Certificate, nil)
	check(t, err)
	whole := (&authority{between}).sign(t, newKey(t), "a.test")
	whole.Certificate = [][]byte{whole.Certificate[0], between.Certificate[0]}
	alone := whole
	alone.Certificate = whole.Certificate[:1]
	theirs := other.sign(t, newKey(t), "a.test")
	for name, test := range map[string]struct {
		own    tls.Certificate
		trust  *traffic.Trust
		reason string
	}{
		"its chain is whole":                      {whole, nil, ""},
		"its chain is not":                        {alone, nil, disbelieved},
		"it is of another authority":              {theirs, nil, disbelieved},
		"the primary's is known by its key":       {theirs, &traffic.Trust{Pins: []string{pinOf(whole)}}, ""},
		"the primary's may be any, and is nobody": {theirs, &traffic.Trust{Report: true}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			s := newStand(t, a, set{protocol: "http", own: []tls.Certificate{test.own}, trust: test.trust, serve: echoes(&tls.Config{Certificates: []tls.Certificate{whole}})})
			asks := &tls.Config{InsecureSkipVerify: true, ServerName: "a.test"}
			s.knows(asks)
			answer, _, flow := s.through(asks, "hello")
			if answer != "HELLO" {
				t.Errorf("answer %q", answer)
			}
			switch {
			case test.reason != "":
				passesThrough(t, s, flow, test.reason)
			case flow.opaque != "" || flow.opened == nil:
				t.Errorf("opaque %q", flow.opaque)
			}
			distrusted := s.Served()[0].Distrust != nil
			if distrusted != (test.reason != "") {
				t.Errorf("status has %v", s.Served()[0].Distrust)
			}
		})
	}
}

// Clients know best whom they trust: what some refuse no more are shown, but for one now and
// then, until it is another.
func TestAPairThatClientsRefuseRests(t *testing.T) {
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		a, other := newAuthority(t), newAuthority(t)
		now := time.Now()
		s := newStand(t, a, set{
			protocol: "http", own: []tls.Certificate{other.sign(t, newKey(t), "a.test")}, trust: &traffic.Trust{Report: true},
			serve: echoes(&tls.Config{Certificates: []tls.Certificate{a.sign(t, newKey(t), "a.test")}}), now: func() time.Time { return now },
		})
		asks := s.asks("a.test") // and trusts the primary's authority alone
		asks.MaxVersion = version
		s.knows(asks)
		seen := func() (accepted, opaque bool) {
			conn, flow := s.connect()
			inside := tls.Client(conn, asks)
			_, err := io.WriteString(inside, "hello")
			if err == nil && inside.CloseWrite() == nil {
				_, err = io.ReadAll(inside)
			}
			_ = conn.Close()
			<-flow.done
			return err == nil, flow.opaque == refused
		}
		expect := func(what string, wantAccepted, wantOpaque bool) {
			t.Helper()
			if accepted, opaque := seen(); accepted != wantAccepted || opaque != wantOpaque {
				t.Errorf("TLS %x, %s: accepted %v, opaque %v", version, what, accepted, opaque)
			}
		}
		for range mostRefused {
			expect("at first", false, false)
		}
		if !s.Served()[0].Refused {
			t.Error("nobody is told")
		}
		expect("as it rests", true, true)
		now = now.Add(firstRest)
		s.knows(asks) // what is known of the primary is of then, and takes the trial
		expect("as it rests again", true, true)
		save(t, s.own[0], a.sign(t, newKey(t), "a.test"))
		s.Reload()
		s.knows(asks)
		expect("as it is mended", true, false)
		if s.Served()[0].Refused {
			t.Error("it is still said")
		}
	}
}

func TestHowLongAPairRests(t *testing.T) {
	at := time.Unix(0, 0)
	judged := 0
	a := acceptance{now: func() time.Time { return at }, judge: func(*tls.Certificate) error { judged++; return errors.New("no") }}
	c, err := certs.Sign(&x509.Certificate{NotAfter: time.Unix(1, 0)}, nil, nil)
	check(t, err)
	show := func(refuses bool) (begins bool) {
		t.Helper()
		if !a.tries(&c) {
			t.Fatal("it rests")
		}
		if refuses {
			return a.refused(&c)
		}
		a.took(&c)
		return false
	}
	// Most clients look at no certificate, and some that do are too many.
	for i := range lastClients {
		if show(i%lastClients == 0 || i%lastClients == 9) {
			t.Error("it rests before enough have refused it")
		}
	}
	show(true) // the first of them is forgotten by now
	for range 7 {
		show(false)
	}
	if a.rests(&c) || !show(true) || !a.rests(&c) {
		t.Error("it does not rest though three of the last have refused it")
	}
	a.took(&c)
	if a.refused(&c) || !a.rests(&c) {
		t.Error("those count that were shown it before it began to rest")
	}
	var rests []time.Duration
	from := at
	for range 9 {
		for !a.tries(&c) {
			at = at.Add(time.Second)
		}
		rests = append(rests, at.Sub(from))
		from = at
		if a.tries(&c) {
			t.Fatal("two are tried at once")
		}
		for range 2 { // the second was under way
			if a.refused(&c) {
				t.Error("it is said again")
			}
		}
	}
	if want := []time.Duration{1, 2, 4, 8, 16, 32, 60, 60, 60}; !slices.EqualFunc(rests, want, func(got, minutes time.Duration) bool { return got == minutes*time.Minute }) {
		t.Errorf("it rests for %v", rests)
	}
	at = at.Add(longestRest)
	if show(false); a.rests(&c) {
		t.Error("it rests though one has accepted it")
	}
	for range mostRefused {
		show(true)
	}
	if at = at.Add(firstRest); a.tries(&c) {
		t.Error("it rests for as short as at first, and was refused until just now")
	}
	at = at.Add(longestRest)
	for range lastClients + 1 {
		show(false)
	}
	for range mostRefused {
		show(true)
	}
	if at = at.Add(firstRest); !a.tries(&c) {
		t.Error("it rests for long, and was good in between")
	}
	for range 2 {
		if a.distrust(&c) == nil || judged != 1 {
			t.Errorf("it was judged %d times", judged)
		}
	}
	at = at.Add(chainsJudged)
	if _ = a.distrust(&c); judged != 2 {
		t.Errorf("it was judged %d times", judged)
	}
	a.judgeAgain()
	if _ = a.distrust(&c); judged != 3 {
		t.Errorf("with other roots it was judged %d times", judged)
	}
}

// pinOf is what `pins` has of a certificate.
func pinOf(c tls.Certificate) string {
	sum := sha256.Sum256(c.Leaf.RawSubjectPublicKeyInfo)
	return base64.StdEncoding.EncodeToString(sum[:])
}
