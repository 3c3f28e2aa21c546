package terminator

import (
	"bytes"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/splitd/splitd/internal/certs"
	"github.com/splitd/splitd/shadow"
	"github.com/splitd/splitd/traffic"
)

// passesThrough fails unless a flow was passed through unseen, for a reason.
func passesThrough(t *testing.T, s *stand, flow *carried, reason string) {
	t.Helper()
	if flow.err != nil || flow.opaque != reason || len(flow.said) > 0 || flow.opened != nil || flow.end == "" {
		t.Errorf("flow: %v, opaque %q, told %q, %v, end %q", flow.err, flow.opaque, flow.said, flow.opened, flow.end)
	}
	if s.Numbers().PassedThrough[reason] == 0 {
		t.Errorf("numbers: %+v", s.Numbers())
	}
}

func TestHTTP2ThatThePrimaryChoosesPassesThrough(t *testing.T) {
	a := newAuthority(t)
	theirs := a.sign(t, newKey(t), "a.test")
	s := newStand(t, a, set{protocol: "http", serve: echoes(&tls.Config{Certificates: []tls.Certificate{theirs}, NextProtos: []string{"h2", "http/1.1"}})})
	config := s.asks("a.test", "h2", "http/1.1")
	s.knows(config)
	answer, state, flow := s.through(config, "hello")
	if answer != "HELLO" || state.NegotiatedProtocol != "h2" || !sameKeys(state.PeerCertificates, theirs) {
		t.Errorf("answer %q with %q", answer, state.NegotiatedProtocol)
	}
	passesThrough(t, s, flow, http2)
	// Who does not offer it is seen.
	config = s.asks("a.test", "http/1.1")
	s.knows(config)
	if _, state, flow = s.through(config, "hello"); state.NegotiatedProtocol != "http/1.1" || flow.opaque != "" {
		t.Errorf("with %q, opaque %q", state.NegotiatedProtocol, flow.opaque)
	}
}

func TestHTTP2IsSeenWhereBytesAreCompared(t *testing.T) {
	a := newAuthority(t)
	s := newStand(t, a, set{protocol: "raw", serve: echoes(&tls.Config{Certificates: []tls.Certificate{a.sign(t, newKey(t), "a.test")}, NextProtos: []string{"h2"}})})
	config := s.asks("a.test", "h2")
	s.knows(config)
	if _, state, flow := s.through(config, "hello"); state.NegotiatedProtocol != "h2" || flow.opaque != "" || len(flow.said) != 2 {
		t.Errorf("with %q, opaque %q, told %q", state.NegotiatedProtocol, flow.opaque, flow.said)
	}
}

func TestAClientAuthenticatesToThePrimaryByItsCertificate(t *testing.T) {
	a := newAuthority(t)
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		t.Run(tls.VersionName(version), func(t *testing.T) {
			s := newStand(t, a, set{protocol: "http", serve: echoes(&tls.Config{
				Certificates: []tls.Certificate{a.sign(t, newKey(t), "a.test")}, MaxVersion: version,
				ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: a.pool(),
			})})
			config := s.asks("a.test")
			config.Certificates = []tls.Certificate{a.sign(t, newKey(t), "client.test")}
			s.knows(config)
			answer, _, flow := s.through(config, "hello")
			if answer != "HELLO" {
				t.Errorf("answer %q", answer)
			}
			passesThrough(t, s, flow, asksClient)
		})
	}
}

func TestAPrimaryThatBeginsToAskForCertificatesIsNotAnsweredInTheClientsPlace(t *testing.T) {
	a := newAuthority(t)
	config := &tls.Config{Certificates: []tls.Certificate{a.sign(t, newKey(t), "a.test")}}
	s := newStand(t, a, set{protocol: "http", serve: echoes(config)})
	s.knows(s.asks("a.test"))
	asking := config.Clone()
	asking.ClientAuth, asking.ClientCAs = tls.VerifyClientCertIfGiven, a.pool()
	s.serves(echoes(asking))
	mine := s.asks("a.test")
	mine.Certificates = []tls.Certificate{a.sign(t, newKey(t), "client.test")}
	conn, flow := s.connect()
	if err := tls.Client(conn, mine).Handshake(); err == nil {
		t.Error("it was opened without the client's certificate")
	}
	<-flow.done
	if flow.opened == nil || flow.opened.Failed == "" || s.Numbers().FailedPrimary != 1 {
		t.Errorf("told %+v, numbers %+v", flow.opened, s.Numbers())
	}
	_, _, flow = s.through(mine, "hello")
	passesThrough(t, s, flow, asksClient)
}

// records is a primary that hears a number of bytes and answers.
func records(n int, heard chan<- []byte) func(net.Conn) {
	return func(conn net.Conn) {
		b := make([]byte, n)
		if _, err := io.ReadFull(conn, b); err == nil {
			heard <- b
		}
		_, _ = io.WriteString(conn, "answer")
	}
}

// saysRaw says bytes and returns what is heard.
func (s *stand) saysRaw(b []byte) (string, *carried) {
	s.Helper()
	conn, flow := s.connect()
	_, err := conn.Write(b)
	check(s, err)
	answer, err := io.ReadAll(conn)
	check(s, err)
	check(s, conn.Close())
	<-flow.done
	return string(answer), flow
}

// A primary may refuse all that a client offers of TLS 1.3, where it takes something else that we
// do; in crypto/tls suites of TLS 1.3 cannot be left out.
func TestWhoDoesNotOfferTheSuiteThatThePrimaryTookOfUsIsPassedThrough(t *testing.T) {
	a := newAuthority(t)
	theirs := a.sign(t, newKey(t), "a.test")
	s := newStand(t, a, set{protocol: "raw", serve: echoes(&tls.Config{Certificates: []tls.Certificate{theirs}})})
	config := s.asks("a.test")
	s.knows(config)
	conn, flow := s.connect()
	_ = tls.Client(&offering{Conn: conn, suite: tls.TLS_AES_256_GCM_SHA384}, config).Handshake() // it does not know what it has said
	_ = conn.Close()
	<-flow.done
	if flow.opaque != unspoken {
		t.Errorf("opaque %q, opened %v, want %q", flow.opaque, flow.opened, unspoken)
	}
}

// offering writes a ClientHello that offers one suite of TLS 1.3, and none that Go prefers.
type offering struct {
	net.Conn
	suite uint16
	said  bool
}

func (o *offering) Write(b []byte) (int, error) {
	if !o.said {
		o.said = true
		b = bytes.Clone(b)
		const session = 5 + 4 + 2 + 32 // record, message, version, random
		list := b[session+1+int(b[session]):]
		for list = list[2:][:binary.BigEndian.Uint16(list)]; len(list) > 0; list = list[2:] {
			if list[0] == 0x13 {
				binary.BigEndian.PutUint16(list, o.suite)
			}
		}
	}
	return o.Conn.Write(b)
}

func TestWhatAClientHelloAloneHasPassedThrough(t *testing.T) {
	a := newAuthority(t)
	plain := helloOf(t, &tls.Config{ServerName: "a.test", InsecureSkipVerify: true})
	for name, c := range map[string]struct {
		bytes  []byte
		reason string
	}{
		"early data":              {withExtension(plain, extensionEarlyData), earlyData},
		"no certificate":          {helloOf(t, &tls.Config{ServerName: "other.test", InsecureSkipVerify: true}), uncovered},
		"a check of ACME":         {helloOf(t, &tls.Config{ServerName: "a.test", NextProtos: []string{"acme-tls/1"}, InsecureSkipVerify: true}), acmeTLS},
		"garbage in a record":     {[]byte("\x16\x03\x01\x00\x08\x01\x00\x00\x04abcd"), noHello},
		"what is not known yet":   {plain, unknownYet},
		"a GREASE of ECH as well": {withExtension(plain, 0xfe0d), unknownYet},
		"what curl offers always": {withExtension(plain, 49), unknownYet}, // post_handshake_auth
	} {
		t.Run(name, func(t *testing.T) {
			heard := make(chan []byte, 10)
			s := newStand(t, a, set{protocol: "http", serve: records(len(c.bytes), heard), unprobed: true})
			answer, flow := s.saysRaw(c.bytes)
			if got := <-heard; answer != "answer" || !bytes.Equal(got, c.bytes) {
				t.Errorf("the primary has heard %x, the client %q", got, answer)
			}
			passesThrough(t, s, flow, c.reason)
		})
	}
}

func TestAClientHelloThatComesInPiecesIsOne(t *testing.T) {
	a := newAuthority(t)
	s := newStand(t, a, set{protocol: "http", serve: echoes(&tls.Config{Certificates: []tls.Certificate{a.sign(t, newKey(t), "a.test")}})})
	config := s.asks("a.test")
	s.knows(config)
	conn, flow := s.connect()
	inside := tls.Client(dribble{conn}, config)
	check(t, inside.Handshake())
	_ = conn.Close()
	<-flow.done
	if flow.opaque != "" || flow.opened == nil {
		t.Errorf("opaque %q, told %v", flow.opaque, flow.opened)
	}
}

// dribble writes byte by byte, in segments of their own.
type dribble struct{ *net.TCPConn }

func (d dribble) Write(b []byte) (int, error) {
	for i := range b {
		if _, err := d.TCPConn.Write(b[i : i+1]); err != nil {
			return i, err
		}
	}
	return len(b), nil
}

func TestAPrimaryThatIsNotTrustedPassesThroughWithAWarning(t *testing.T) {
	a := newAuthority(t)
	theirs := newAuthority(t).sign(t, newKey(t), "a.test")
	s := newStand(t, a, set{protocol: "http", serve: echoes(&tls.Config{Certificates: []tls.Certificate{theirs}})})
	config := &tls.Config{InsecureSkipVerify: true, ServerName: "a.test"}
	s.knows(config)
	_, state, flow := s.through(config, "hello")
	if !sameKeys(state.PeerCertificates, theirs) {
		t.Error("the client was not shown the primary's certificate")
	}
	passesThrough(t, s, flow, untrusted)
	if n := strings.Count(s.logged.String(), "primary's TLS cannot be opened"); n != 1 || !strings.Contains(s.logged.String(), "x509") {
		t.Errorf("logged %d times: %s", n, s.logged)
	}
}

func TestWhereAnyCertificateIsTakenWhatIsWrongIsTold(t *testing.T) {
	a := newAuthority(t)
	theirs := newAuthority(t).sign(t, newKey(t), "a.test")
	s := newStand(t, a, set{protocol: "http", trust: &traffic.Trust{Report: true}, serve: echoes(&tls.Config{Certificates: []tls.Certificate{theirs}})})
	s.knows(s.asks("a.test"))
	if _, _, flow := s.through(s.asks("a.test"), "hello"); flow.opened == nil || !strings.Contains(flow.opened.Certificate.Distrust, "unknown authority") {
		t.Errorf("told %+v", flow.opened)
	}
}

func TestAPrimaryWithoutTLSIsItsOwnFailure(t *testing.T) {
	a := newAuthority(t)
	s := newStand(t, a, set{protocol: "http", serve: func(conn net.Conn) {
		_, _ = conn.Read(make([]byte, 1))
		_, _ = io.WriteString(conn, "HTTP/1.1 400 Bad Request\r\n\r\n")
	}})
	config := s.asks("a.test")
	s.knows(config)
	conn, flow := s.connect()
	err := tls.Client(conn, config).Handshake()
	if header, ok := errors.AsType[tls.RecordHeaderError](err); !ok || string(header.RecordHeader[:]) != "HTTP/" {
		t.Errorf("the client sees %v", err)
	}
	_ = conn.Close()
	<-flow.done
	if flow.opaque != unopened {
		t.Errorf("opaque %q", flow.opaque)
	}
}

func TestTheClientSeesTheAlertByWhichThePrimaryRefuses(t *testing.T) {
	a := newAuthority(t)
	for name, c := range map[string]struct {
		refuses *tls.Config
		alert   string
	}{
		"version":  {&tls.Config{MinVersion: tls.VersionTLS13}, "protocol version not supported"},
		"protocol": {&tls.Config{NextProtos: []string{"other"}}, "no application protocol"},
	} {
		t.Run(name, func(t *testing.T) {
			theirs := []tls.Certificate{a.sign(t, newKey(t), "a.test")}
			s := newStand(t, a, set{protocol: "raw", serve: echoes(&tls.Config{Certificates: theirs})})
			config := s.asks("a.test", "mine")
			config.MaxVersion = tls.VersionTLS12
			s.knows(config)
			c.refuses.Certificates = theirs
			s.serves(echoes(c.refuses))
			for _, reason := range []string{"", unopened} { // found by the flow, then known
				conn, flow := s.connect()
				err := tls.Client(conn, config).Handshake()
				if err == nil || !strings.Contains(err.Error(), "remote error: tls: "+c.alert) {
					t.Errorf("the client sees %v", err)
				}
				_ = conn.Close()
				<-flow.done
				if flow.opaque != reason {
					t.Errorf("opaque %q", flow.opaque)
				}
				if reason == "" && (!failsWith(flow.err, shadow.Primary) || flow.end != "reset by primary" || flow.opened == nil || flow.opened.Failed == "") {
					t.Errorf("flow: %v, %q, %+v", flow.err, flow.end, flow.opened)
				}
			}
		})
	}
}

func TestWhoSpeaksInClearIsPassedOnInClear(t *testing.T) {
	for name, c := range map[string]struct {
		protocol, says string
		serve          func(net.Conn)
	}{
		"client first": {"http", "GET / HTTP/1.0\r\n\r\n", records(len("GET / HTTP/1.0\r\n\r\n"), make(chan []byte, 1))},
		"server first": {"raw", "", func(conn net.Conn) { _, _ = io.WriteString(conn, "answer") }},
		"zero byte":    {"raw", "\x16\x02", records(2, make(chan []byte, 1))},
	} {
		t.Run(name, func(t *testing.T) {
			s := newStand(t, newAuthority(t), set{protocol: c.protocol, serve: c.serve})
			answer, flow := s.saysRaw([]byte(c.says))
			if answer != "answer" || flow.err != nil || flow.opaque != "" || flow.opened != nil || flow.end != "closed" {
				t.Errorf("answer %q: %v, %q, %v, %q", answer, flow.err, flow.opaque, flow.opened, flow.end)
			}
			want := slices.DeleteFunc([]string{"client: " + c.says, "primary: answer"}, func(s string) bool { return s == "client: " })
			if diff := cmp.Diff(want, flow.said); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestAFlowIsCarriedWhereNobodyListens(t *testing.T) {
	a := newAuthority(t)
	s := newStand(t, a, set{protocol: "http", serve: echoes(&tls.Config{Certificates: []tls.Certificate{a.sign(t, newKey(t), "a.test")}})})
	s.declines = true
	s.knows(s.asks("a.test"))
	if answer, _, _ := s.through(s.asks("a.test"), "hello"); answer != "HELLO" {
		t.Errorf("answer %q", answer)
	}
}

// helloOf is the ClientHello that a configuration makes.
func helloOf(t testing.TB, config *tls.Config) []byte {
	t.Helper()
	ours, theirs := net.Pipe()
	go func() {
		_ = tls.Client(theirs, config).Handshake()
		_ = theirs.Close()
	}()
	b := make([]byte, 16<<10)
	n, err := ours.Read(b)
	check(t, err)
	check(t, ours.Close())
	return b[:n]
}

// withExtension adds an empty extension to a ClientHello of one record.
func withExtension(b []byte, id uint16) []byte {
	b = slices.Clone(b)
	longer := func(at, size int) {
		n := make([]byte, 8)
		copy(n[8-size:], b[at:at+size])
		binary.BigEndian.PutUint64(n, binary.BigEndian.Uint64(n)+4)
		copy(b[at:], n[8-size:])
	}
	at := 9 + 2 + 32     // record, message, version, random
	at += 1 + int(b[at]) // session
	at += 2 + int(b[at])<<8 + int(b[at+1])
	at += 1 + int(b[at]) // compression
	longer(3, 2)
	longer(6, 3)
	longer(at, 2)
	added := binary.BigEndian.AppendUint16(nil, id)
	return slices.Insert(b, at+2, append(added, 0, 0)...)
}

func TestNothingIsLoggedOrToldOfKeys(t *testing.T) {
	a := newAuthority(t)
	file := t.TempDir() + "/tickets.key"
	own := a.sign(t, newKey(t), "a.test")
	s := newStand(t, a, set{protocol: "http", own: []tls.Certificate{own}, serve: echoes(&tls.Config{Certificates: []tls.Certificate{a.sign(t, newKey(t), "a.test")}})})
	check(t, os.WriteFile(file, []byte(ticketsHead+"\n2026-01-01T00:00:00Z secretsecret\n"), 0o600))
	tickets := NewTickets(file, nil, s.log)
	s.tickets = tickets
	s.knows(s.asks("a.test"))
	_, _, flow := s.through(s.asks("a.test"), "hello")
	key, err := os.ReadFile(s.own[0].Key)
	check(t, err)
	check(t, os.WriteFile(s.own[0].Cert, key, 0o600)) // an error about a file with a key in it
	s.Reload()
	kept, err := os.ReadFile(file)
	check(t, err)
	seen := s.logged.String() + strings.Join(flow.said, "")
	if !strings.Contains(seen, s.own[0].Cert) || !strings.Contains(seen, "ticket keys are replaced") {
		t.Errorf("logged: %s", seen)
	}
	for _, secret := range secretsIn(key, kept) {
		if strings.Contains(seen, secret) {
			t.Errorf("%q is seen", secret)
		}
	}
}

// secretsIn are the words of files of keys, whole and in parts, that nothing may show.
func secretsIn(files ...[]byte) []string {
	secrets := []string{"secretsecret", "PRIVATE KEY-----"}
	for _, f := range files {
		for word := range bytes.FieldsSeq(f) {
			for len(word) >= 24 && !bytes.Contains(word, []byte("-----")) {
				secrets = append(secrets, string(word[:24]))
				word = word[24:]
			}
		}
	}
	return secrets
}

func FuzzWhatIsHeardFirstIsReadAgain(f *testing.F) {
	f.Add(helloOf(f, &tls.Config{ServerName: "a.test"}))
	f.Add([]byte("GET / HTTP/1.1\r\n\r\n"))
	f.Add([]byte("\x16\x03\x01\x00\x08\x01\x00\x00\x04abcd"))
	f.Add([]byte("\x16\x03\x01"))
	f.Fuzz(func(t *testing.T, b []byte) {
		flow := &flow{client: &side{Conn: deaf{}, before: slices.Clone(b)}}
		h, muddled := flow.hear()
		if !bytes.Equal(flow.client.before, b) {
			t.Errorf("%x is read again of %x", flow.client.before, b)
		}
		if h != nil && (muddled || !bytes.HasPrefix(b, h.bytes)) || muddled && !begins(b) {
			t.Errorf("a ClientHello: %v, muddled: %v", h != nil, muddled)
		}
		if h != nil {
			_ = hopeless(h)
		}
	})
}

func TestAPrimaryThatBeginsToChooseHTTP2IsMirroredAndNotRead(t *testing.T) {
	a := newAuthority(t)
	config := &tls.Config{Certificates: []tls.Certificate{a.sign(t, newKey(t), "a.test")}}
	s := newStand(t, a, set{protocol: "http", serve: echoes(config)})
	asks := s.asks("a.test", "h2", "http/1.1")
	s.knows(asks)
	choosing := config.Clone()
	choosing.NextProtos = []string{"h2"}
	s.serves(echoes(choosing))
	answer, state, flow := s.through(asks, "hello")
	if answer != "HELLO" || state.NegotiatedProtocol != "h2" {
		t.Errorf("answer %q with %q", answer, state.NegotiatedProtocol)
	}
	passesThrough(t, s, flow, http2)
	if n := s.Numbers(); n.Terminated != 0 {
		t.Errorf("it counts as seen: %+v", n)
	}
	if _, state, _ = s.through(asks, "hello"); !sameKeys(state.PeerCertificates, config.Certificates[0]) {
		t.Error("the next flow is not passed through")
	}
}

func TestRootsAreReadAgain(t *testing.T) {
	a, other := newAuthority(t), newAuthority(t)
	theirs := other.sign(t, newKey(t), "a.test")
	s := newStand(t, a, set{protocol: "http", serve: echoes(&tls.Config{Certificates: []tls.Certificate{theirs}})})
	asks := &tls.Config{InsecureSkipVerify: true, ServerName: "a.test"}
	s.knows(asks)
	_, _, flow := s.through(asks, "hello")
	passesThrough(t, s, flow, untrusted)
	check(t, os.WriteFile(s.trust.CA, []byte("no roots"), 0o600))
	s.Reload()
	if !strings.Contains(s.logged.String(), "roots cannot be read again") || !strings.Contains(s.logged.String(), s.trust.CA) {
		t.Errorf("logged: %s", s.logged)
	}
	check(t, os.WriteFile(s.trust.CA, slices.Concat(certs.PEM(other.Certificate), certs.PEM(a.Certificate)), 0o600))
	s.Reload()
	s.knows(asks)
	if _, _, flow = s.through(asks, "hello"); flow.opaque != "" || flow.opened == nil {
		t.Errorf("opaque %q", flow.opaque)
	}
}

// The primary has a new certificate that was not brought here: whoever is sampled would be
// refused by what he refuses nowhere else.
func TestWithACertificateThatIsOverFlowsPassThroughWhileThePrimarysIsNot(t *testing.T) {
	a := newAuthority(t)
	over := a.signFor(t, newKey(t), time.Now().Add(-48*time.Hour), time.Now().Add(-time.Hour), "a.test")
	soon := a.signFor(t, newKey(t), time.Now().Add(time.Hour), time.Now().Add(48*time.Hour), "a.test")
	good := a.sign(t, newKey(t), "a.test")
	for name, test := range map[string]struct {
		ours, primarys tls.Certificate
		reason         string
	}{
		"over":             {over, good, outOfTime},
		"not begun":        {soon, good, outOfTime},
		"the primary's is": {over, over, ""},
		"in time":          {good, good, ""},
	} {
		t.Run(name, func(t *testing.T) {
			s := newStand(t, a, set{protocol: "http", own: []tls.Certificate{test.ours}, trust: &traffic.Trust{Report: true}, serve: echoes(&tls.Config{Certificates: []tls.Certificate{test.primarys}})})
			config := s.asks("a.test")
			config.InsecureSkipVerify = true
			s.knows(config)
			answer, _, flow := s.through(config, "hello")
			if answer != "HELLO" {
				t.Errorf("answer %q", answer)
			}
			if test.reason != "" {
				passesThrough(t, s, flow, test.reason)
			} else if flow.opaque != "" {
				t.Errorf("opaque: %q", flow.opaque)
			}
		})
	}
}

// A client that tries again with an older version says so (RFC 7507), and only the primary knows
// whether it need not have.
func TestAClientThatFallsBackIsAnsweredByThePrimary(t *testing.T) {
	a := newAuthority(t)
	s := newStand(t, a, set{protocol: "raw", serve: echoes(&tls.Config{Certificates: []tls.Certificate{a.sign(t, newKey(t), "a.test")}, MinVersion: tls.VersionTLS10})})
	for _, version := range []uint16{tls.VersionTLS11, tls.VersionTLS12} {
		config := s.asks("a.test")
		config.MinVersion, config.MaxVersion = tls.VersionTLS10, version
		says := fallingBack(t, config)
		s.saysRaw(says)
		s.known.running.Wait() // what the primary would answer to us is known
		answer, flow := s.saysRaw(says)
		if !strings.HasSuffix(answer, "\x00\x02\x02\x56") { // a fatal alert: inappropriate_fallback
			t.Errorf("%s: the client hears %x", tls.VersionName(version), answer)
		}
		passesThrough(t, s, flow, unspoken)
	}
}

// fallingBack is the ClientHello of a configuration, with TLS_FALLBACK_SCSV in the place of its
// last suite.
func fallingBack(t *testing.T, config *tls.Config) []byte {
	t.Helper()
	b := helloOf(t, config)
	const session = 5 + 4 + 2 + 32 // record, message, version, random
	list := b[session+1+int(b[session]):]
	binary.BigEndian.PutUint16(list[binary.BigEndian.Uint16(list):], tls.TLS_FALLBACK_SCSV)
	return b
}
