//go:build e2ereal

package real

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"net/textproto"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// The ways in which clients send mail to a service, by programs that speak SMTP
// in different ways. Each session has seven exchanges: the greeting, HELO or EHLO,
// MAIL, RCPT, DATA and the content, or two chunks in their place, and QUIT.
const exchangesOfMail = 7

// everyWay has all clients send at the same time, by each of their ways into the
// service.
func (l *lab) everyWay(send func(*client, service)) {
	var clients sync.WaitGroup
	for _, c := range l.clients {
		for _, way := range c.services() {
			clients.Go(func() { send(c, way) })
		}
	}
	clients.Wait()
}

// ofEveryone is how often each of these stands in a count by client, where each of
// their addresses had it that often.
func (l *lab) ofEveryone(each map[string]int) map[string]int {
	all := map[string]int{}
	for _, address := range l.everyClient() {
		for what, n := range each {
			all[what+" from "+address] = n
		}
	}
	return all
}

// source sends messages by smtp-source, which says HELO.
func (l *lab) source(c *client, way service, port int, recipient string, args ...string) {
	l.t.Helper()
	target := fmt.Sprintf("inet:%s:%d", way.address, port)
	args = append([]string{"-M", c.Name + ".example", "-f", "sender@" + c.Name + ".example", "-t", recipient}, append(args, target)...)
	r, err := run(l.t.Context(), c.NS, nil, "smtp-source", args...)
	if err != nil || r.code != 0 || r.stdout+r.stderr != "" {
		l.t.Errorf("smtp-source %q from %s: %v, exit %d, %s%s", args, way.source, err, r.code, r.stdout, r.stderr)
	}
}

// post sends a message with this body by curl, which says EHLO and, to servers that
// offer SIZE, how large it is.
func (l *lab) post(c *client, way service, port int, recipient, body string) {
	l.t.Helper()
	id := fmt.Sprintf("%s-%s-%d-%s", c.Name, strings.Trim(way.address, "[]"), port, recipient)
	message := write(l.t, filepath.Join(l.dir, id), fmt.Sprintf("From: <curl@%s.example>\nTo: <%s>\nMessage-ID: <%s>\n\n%s\n", c.Name, recipient, id, body))
	r, err := run(l.t.Context(), c.NS, nil, "curl", "-sS", "--max-time", "30", "--noproxy", "*", "--globoff", "--crlf",
		"--mail-from", "curl@"+c.Name+".example", "--mail-rcpt", recipient, "--upload-file", message,
		fmt.Sprintf("smtp://%s:%d/%s.example", way.address, port, c.Name))
	if err != nil || r.code != 0 || r.stdout+r.stderr != "" {
		l.t.Errorf("curl from %s to %s: %v, exit %d, %s%s", way.source, recipient, err, r.code, r.stdout, r.stderr)
	}
}

// chunks sends a message in two chunks (RFC 3030), as none of Debian's clients does.
func (l *lab) chunks(c *client, way service, recipient string) {
	l.t.Helper()
	if err := sendChunks(c, way, recipient); err != nil {
		l.t.Errorf("chunks from %s to %s: %v", way.source, recipient, err)
	}
}

func sendChunks(c *client, way service, recipient string) (err error) {
	var conn net.Conn
	if err := c.NS.NS.Do(func() (err error) {
		conn, err = net.DialTimeout("tcp", way.address+":25", patience)
		return err
	}); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	replies := textproto.NewReader(bufio.NewReader(conn))
	header, body := fmt.Sprintf("To: <%s>\r\n\r\n", recipient), "in two\r\nchunks\r\n"
	for _, unit := range []string{
		"", "EHLO " + c.Name + ".example\r\n", "MAIL FROM:<chunks@" + c.Name + ".example>\r\n", "RCPT TO:<" + recipient + ">\r\n",
		fmt.Sprintf("BDAT %d\r\n%s", len(header), header), fmt.Sprintf("BDAT %d LAST\r\n%s", len(body), body), "QUIT\r\n",
	} {
		if _, err := conn.Write([]byte(unit)); err != nil {
			return err
		}
		if code, text, err := replies.ReadResponse(2); err != nil {
			return fmt.Errorf("%q: %d %s: %w", unit, code, text, err)
		}
	}
	return nil
}
