package terminator

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/tls"
	"encoding/binary"
	"encoding/hex"
	"io"
	"net"
	"testing"

	"github.com/splitd/splitd/shadow"
)

// A primary of TLS 1.2 that asks for a new handshake in the middle, as for a certificate of the
// client for some of its pages, ends one flow; the next is passed through.
func TestAPrimaryThatAsksForANewHandshakeIsNotStoodInForAgain(t *testing.T) {
	a := newAuthority(t)
	config := &tls.Config{
		Certificates: []tls.Certificate{a.sign(t, newKey(t), "a.test")}, MaxVersion: tls.VersionTLS12,
		CipherSuites: []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256}, SessionTicketsDisabled: true,
	}
	s := newStand(t, a, set{protocol: "http", serve: echoes(config)})
	s.knows(s.asks("a.test"))
	s.serves(asksAgain(config))
	conn, flow := s.connect()
	inside := tls.Client(conn, s.asks("a.test"))
	_, err := io.WriteString(inside, "GET /private")
	check(t, err)
	if b, _ := io.ReadAll(inside); len(b) > 0 {
		t.Errorf("the client hears %q", b)
	}
	_ = conn.Close()
	<-flow.done
	if !failsWith(flow.err, shadow.Primary) || !renegotiates(flow.err) || flow.opaque != "" {
		t.Errorf("flow: %v, opaque %q", flow.err, flow.opaque)
	}
	s.serves(echoes(config))
	_, _, flow = s.through(s.asks("a.test", "http/1.1"), "hello") // whoever asks
	passesThrough(t, s, flow, asksAnew)
}

// asksAgain is a primary that answers by a HelloRequest (RFC 5246, 7.4.1.1), which crypto/tls
// never does.
func asksAgain(config *tls.Config) func(net.Conn) {
	return func(conn net.Conn) {
		r := &eavesdropper{Conn: conn}
		logging := config.Clone()
		logging.KeyLogWriter = &r.keys
		inside := tls.Server(r, logging)
		if _, err := inside.Read(make([]byte, 100)); err != nil {
			return
		}
		if b, err := r.sealed(22, []byte{0, 0, 0, 0}); err == nil {
			_, _ = conn.Write(b)
		}
		_, _ = io.Copy(io.Discard, conn)
	}
}

// eavesdropper is the server's end of a connection inside TLS 1.2, by whose keys others can write.
type eavesdropper struct {
	net.Conn
	said bytes.Buffer
	keys bytes.Buffer // "CLIENT_RANDOM client's random, master secret"
}

func (e *eavesdropper) Write(b []byte) (int, error) {
	e.said.Write(b)
	return e.Conn.Write(b)
}

// sealed is the server's second record, behind its Finished, with AES-128-GCM (RFC 5288, 3).
func (e *eavesdropper) sealed(kind byte, plain []byte) ([]byte, error) {
	words := bytes.Fields(e.keys.Bytes())
	client, secret := make([]byte, 32), make([]byte, 48)
	if _, err := hex.Decode(client, words[1]); err != nil {
		return nil, err
	}
	if _, err := hex.Decode(secret, words[2]); err != nil {
		return nil, err
	}
	server := e.said.Bytes()[5+4+2:][:32] // behind record, message and version
	block := expanded(secret, append(append([]byte("key expansion"), server...), client...), 40)
	aead, err := aes.NewCipher(block[16:32])
	if err != nil {
		return nil, err
	}
	gcm, err := cipher.NewGCM(aead)
	if err != nil {
		return nil, err
	}
	number := binary.BigEndian.AppendUint64(nil, 1)
	nonce := append(append([]byte(nil), block[36:40]...), number...)
	about := append(append([]byte(nil), number...), kind, 3, 3, 0, byte(len(plain)))
	body := append(append([]byte(nil), number...), gcm.Seal(nil, nonce, plain, about)...)
	return append([]byte{kind, 3, 3, 0, byte(len(body))}, body...), nil
}

// expanded are n bytes of P_SHA256 (RFC 5246, 5).
func expanded(secret, seed []byte, n int) []byte {
	of := func(text ...[]byte) []byte {
		mac := hmac.New(sha256.New, secret)
		for _, b := range text {
			mac.Write(b)
		}
		return mac.Sum(nil)
	}
	var all []byte
	for a := of(seed); len(all) < n; a = of(a) {
		all = append(all, of(a, seed)...)
	}
	return all[:n]
}
