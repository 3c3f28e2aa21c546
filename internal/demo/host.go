package demo

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"net/smtp"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/splitd/splitd/internal/certs"
)

// The roles of a host: what `splitd demo-host ROLE` is.
const (
	roleMX       = "mx"
	roleFaultyMX = "faulty-mx"
	roleClients  = "clients"
)

// event is one line that a host writes on its standard output.
type event struct {
	Listening []netip.AddrPort `json:"listening,omitempty"` // an MX: it is ready, there
	Ready     bool             `json:"ready,omitempty"`     // the clients: they are ready
	Arrived   *arrivedMail     `json:"arrived,omitempty"`
	Answered  *answeredMail    `json:"answered,omitempty"`
}

// arrivedMail is written before the client is told that its mail is accepted.
type arrivedMail struct {
	ID     string     `json:"id"`
	Client netip.Addr `json:"client"`
}

type answeredMail struct {
	ID      string `json:"id"`
	Failure string `json:"failure,omitempty"`
}

// order asks the clients for one mail.
type order struct {
	ID   string         `json:"id"`
	From netip.AddrPort `json:"from"` // the client's own address; port 0: any
	To   netip.AddrPort `json:"to"`
	// Recipient is who the mail is for.
	Recipient string `json:"recipient"`
}

// Host is one machine of the demo, run as a process of its own in the
// machine's namespace: `mx NAME CERTIFICATE ADDRESS:PORT...` is a mail server,
// `faulty-mx` one that is not yet as it should be, `clients ROOTS` are mail clients
// that take orders. Hosts speak JSON lines with the demo and end with their standard
// input. It returns the process's exit code.
func Host(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
	defer stop()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	lines := &lineWriter{encoder: json.NewEncoder(stdout)}
	var err error
	switch {
	case len(args) >= 4 && (args[0] == roleMX || args[0] == roleFaultyMX):
		mend := make(chan struct{})
		go takeMending(stdin, mend, cancel)
		m := mx{name: args[1], faulty: args[0] == roleFaultyMX, lines: lines}
		if m.cert, err = certs.Read(args[2]); err == nil {
			err = serveMX(ctx, m, args[3:], mend)
		}
	case len(args) == 2 && args[0] == roleClients:
		var roots *x509.CertPool
		if roots, err = certs.Pool(args[1]); err == nil {
			err = serveClients(ctx, stdin, roots, lines)
		}
	default:
		_, _ = fmt.Fprint(stderr, "demo-host is a part of `splitd demo`: run that instead\n")
		return 2
	}
	if err != nil {
		_, _ = fmt.Fprintln(stderr, err)
		return 1
	}
	return 0
}

// lineWriter writes events from many goroutines.
type lineWriter struct {
	mu      sync.Mutex
	encoder *json.Encoder
}

func (w *lineWriter) write(e event) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.encoder.Encode(e)
}

// mailTimeout bounds one mail from the connect to the end of QUIT.
const mailTimeout = 10 * time.Second

// serveClients sends a mail for every order on stdin, each at once and over a
// connection of its own, and writes what the server answered. It ends with
// stdin, after the last mail, or with ctx.
func serveClients(ctx context.Context, stdin io.Reader, roots *x509.CertPool, lines *lineWriter) error {
	if err := lines.write(event{Ready: true}); err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() { ended <- takeOrders(ctx, stdin, roots, lines) }()
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
		return nil // the goroutine hangs in a read, and ends with the process
	}
}

func takeOrders(ctx context.Context, stdin io.Reader, roots *x509.CertPool, lines *lineWriter) error {
	var mails sync.WaitGroup
	defer mails.Wait()
	orders := bufio.NewScanner(stdin)
	for orders.Scan() {
		var o order
		if err := json.Unmarshal(orders.Bytes(), &o); err != nil {
			return fmt.Errorf("parse order %q: %w", orders.Text(), err)
		}
		mails.Go(func() {
			answer := answeredMail{ID: o.ID}
			if err := send(ctx, o, roots); err != nil {
				answer.Failure = reason(err)
			}
			_ = lines.write(event{Answered: &answer}) // the demo is gone: nobody to tell
		})
	}
	return orders.Err()
}

// message is a mail (RFC 5322) with its unique id.
const message = "From: sender@client.example\r\nTo: %s\r\n" +
	"Subject: splitd demo\r\nMessage-ID: %s\r\n\r\nA mail of the splitd demo.\r\n"

// send delivers one mail as a careful mail server does: a fresh connection, EHLO,
// STARTTLS with a certificate of the service's name or no mail at all, MAIL, RCPT,
// DATA, and QUIT before the connection is closed (RFC 5321, RFC 3207).
func send(ctx context.Context, o order, roots *x509.CertPool) error {
	ctx, cancel := context.WithTimeout(ctx, mailTimeout)
	defer cancel()
	dialer := &net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(o.From)}
	conn, err := dialer.DialContext(ctx, "tcp", o.To.String())
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	if deadline, ok := ctx.Deadline(); ok {
		if err := conn.SetDeadline(deadline); err != nil {
			return err
		}
	}
	c, err := smtp.NewClient(conn, o.To.Addr().String())
	if err != nil {
		return fmt.Errorf("read greeting: %w", err)
	}
	if err := c.Hello("client.example"); err != nil {
		return fmt.Errorf("say EHLO: %w", err)
	}
	if err := c.StartTLS(&tls.Config{ServerName: serviceName, RootCAs: roots, MinVersion: tls.VersionTLS12}); err != nil {
		return fmt.Errorf("say STARTTLS: %w", err)
	}
	if err := c.Mail("sender@client.example"); err != nil {
		return fmt.Errorf("say MAIL: %w", err)
	}
	if err := c.Rcpt(o.Recipient); err != nil {
		return fmt.Errorf("say RCPT: %w", err)
	}
	body, err := c.Data()
	if err != nil {
		return fmt.Errorf("say DATA: %w", err)
	}
	_, err = fmt.Fprintf(body, message, o.Recipient, o.ID)
	if err = errors.Join(err, body.Close()); err != nil {
		return fmt.Errorf("send DATA: %w", err)
	}
	// The mail is accepted; a server that fails now has it nevertheless.
	if err := quit(c); err != nil {
		return fmt.Errorf("say QUIT after the mail was accepted: %w", err)
	}
	return nil
}

// quit lets the server end first: its last word inside TLS, on the way to a client that has
// closed, would be answered with a reset, and the kernel forgets a flow that was reset in
// seconds, before it is counted.
func quit(c *smtp.Client) error {
	const closing = 221 // RFC 5321, section 4.2.3
	id, err := c.Text.Cmd("QUIT")
	if err != nil {
		return err
	}
	c.Text.StartResponse(id)
	defer c.Text.EndResponse(id)
	if _, _, err := c.Text.ReadResponse(closing); err != nil {
		return err
	}
	_, _ = io.Copy(io.Discard, c.Text.R)
	return nil
}

// reason is the text of an error without the client's ephemeral port, so that
// equal failures count as one kind.
func reason(err error) string {
	if op, ok := errors.AsType[*net.OpError](err); ok {
		return strings.Replace(err.Error(), op.Error(), fmt.Sprintf("%s %s: %s", op.Op, op.Addr, op.Err), 1)
	}
	return err.Error()
}
