package demo

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/mail"
	"net/netip"

	server "github.com/emersion/go-smtp"
)

// mx is a mail server that takes mail behind STARTTLS alone. A faulty one is as a new one often is: an alias of the old
// one is missing, so that it knows the recipient not, and it takes smaller mails.
type mx struct {
	name   string
	faulty bool
	cert   tls.Certificate
	lines  *lineWriter
}

// The recipients of mails, and which of them a faulty MX does not know.
const (
	someone    = "someone@service.example"
	forgotten  = "postmaster@service.example"
	sizeMost   = 10 << 20
	sizeFaulty = 1 << 20
)

// mendLine is the line by which a faulty MX is mended.
const mendLine = "mend"

// takeMending closes mend when it is told to, and ends the host with its input.
func takeMending(stdin io.Reader, mend chan<- struct{}, end context.CancelFunc) {
	defer end()
	for lines := bufio.NewScanner(stdin); lines.Scan(); {
		if lines.Text() == mendLine && mend != nil {
			close(mend)
			mend = nil
		}
	}
}

// serveMX serves mail on the addresses until ctx ends. Once it is mended it is
// started again, on the same addresses and without its faults.
func serveMX(ctx context.Context, m mx, addresses []string, mend <-chan struct{}) error {
	for {
		listeners, err := listenOn(ctx, addresses)
		if err != nil {
			return err
		}
		s, failed := m.server(), make(chan error, len(listeners))
		var listening []netip.AddrPort
		for i, l := range listeners {
			at := l.Addr().(*net.TCPAddr).AddrPort()
			listening, addresses[i] = append(listening, at), at.String()
			go func() { failed <- s.Serve(l) }()
		}
		if err := m.lines.write(event{Listening: listening}); err != nil {
			return err
		}
		select {
		case err := <-failed:
			return fmt.Errorf("serve mail: %w", err)
		case <-ctx.Done():
			return s.Close()
		case <-mend:
			if err := s.Close(); err != nil {
				return err
			}
			m.faulty, mend = false, nil
		}
	}
}

func listenOn(ctx context.Context, addresses []string) ([]net.Listener, error) {
	var listeners []net.Listener
	for _, address := range addresses {
		l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", address)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("listen on %q: %w", address, err), closeAll(listeners))
		}
		listeners = append(listeners, l)
	}
	return listeners, nil
}

func closeAll(listeners []net.Listener) error {
	var errs []error
	for _, l := range listeners {
		errs = append(errs, l.Close())
	}
	return errors.Join(errs...)
}

func (m mx) server() *server.Server {
	s := server.NewServer(server.BackendFunc(func(c *server.Conn) (server.Session, error) {
		return &session{mx: m, conn: c}, nil
	}))
	s.Domain = m.name + ".mx.example"
	s.TLSConfig = &tls.Config{Certificates: []tls.Certificate{m.cert}, MinVersion: tls.VersionTLS12}
	s.ReadTimeout, s.WriteTimeout = mailTimeout, mailTimeout
	s.MaxMessageBytes = sizeMost
	if m.faulty {
		s.MaxMessageBytes = sizeFaulty
	}
	return s
}

// session is one SMTP session at an MX.
type session struct {
	mx
	conn *server.Conn
}

// Data takes a mail in: it is written to the ledger's side before the client
// is told so.
func (s *session) Data(r io.Reader) error {
	text, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	received, err := mail.ReadMessage(bytes.NewReader(text))
	if err != nil {
		return fmt.Errorf("parse mail: %w", err)
	}
	client, err := netip.ParseAddrPort(s.conn.Conn().RemoteAddr().String())
	if err != nil {
		return fmt.Errorf("parse client address: %w", err)
	}
	return s.lines.write(event{Arrived: &arrivedMail{ID: received.Header.Get("Message-Id"), Client: client.Addr().Unmap()}})
}

// Mail refuses what is not encrypted (RFC 3207, section 4).
func (s *session) Mail(string, *server.MailOptions) error {
	if _, encrypted := s.conn.TLSConnectionState(); !encrypted {
		return &server.SMTPError{Code: 530, EnhancedCode: server.EnhancedCode{5, 7, 0}, Message: "Must issue a STARTTLS command first"}
	}
	return nil
}

// Rcpt accepts any recipient, but for a fault.
func (s *session) Rcpt(to string, _ *server.RcptOptions) error {
	if s.faulty && to == forgotten {
		return &server.SMTPError{Code: 550, EnhancedCode: server.EnhancedCode{5, 1, 1}, Message: "no such user here"}
	}
	return nil
}

// Reset forgets nothing, because nothing is kept.
func (*session) Reset() {}

// Logout ends the session.
func (*session) Logout() error { return nil }
