//go:build e2ereal

package real

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"time"
)

// patience bounds one request or one connection.
const patience = 10 * time.Second

// browser is an HTTP client with one keep-alive connection. It does without
// http.Transport, which makes another connection in silence when it likes to.
type browser struct {
	base   string
	conn   net.Conn
	reader *bufio.Reader
	source netip.Addr // the client's own address
}

// service is a way into the service from one of the client's addresses.
type service struct {
	address string
	source  netip.Addr
}

func (c *client) services() []service {
	return []service{{serviceV4, c.v4}, {"[" + serviceV6 + "]", c.v6}}
}

// browse opens a connection.
func browse(c *client, to service) (*browser, error) {
	b := &browser{base: "http://" + to.address, source: to.source}
	err := c.NS.NS.Do(func() (err error) {
		b.conn, err = net.DialTimeout("tcp", to.address+":80", patience)
		return err
	})
	if err != nil {
		return nil, err
	}
	b.reader = bufio.NewReader(b.conn)
	return b, nil
}

// close closes the connection, from this side first.
func (b *browser) close() { _ = b.conn.Close() }

// local is the client's address and port of the connection.
func (b *browser) local() netip.AddrPort { return b.conn.LocalAddr().(*net.TCPAddr).AddrPort() }

// answer is who answered a request.
type answer struct {
	backend    string // "old" or "new"
	connection string // as that backend counts them
}

// ask makes a request and checks that it came from the client's own address.
func (b *browser) ask() (answer, error) {
	body, err := b.fetch("/")
	if err != nil {
		return answer{}, err
	}
	fields := strings.Fields(body)
	if len(fields) != 3 || fields[2] != b.source.String() {
		return answer{}, fmt.Errorf("request from %s to %s: answered %q", b.source, b.base, body)
	}
	return answer{fields[0], fields[1]}, nil
}

// askAgain makes a request that must be answered as the first one was.
func (b *browser) askAgain(first answer) error {
	again, err := b.ask()
	if err == nil && again != first {
		err = fmt.Errorf("a connection from %s moved from %v to %v", b.local(), first, again)
	}
	return err
}

// download fetches a file of some size.
func (b *browser) download() error {
	body, err := b.fetch("/file")
	if err == nil && body != theFile() {
		err = fmt.Errorf("the file came with %d other bytes from %s", len(body), b.base)
	}
	return err
}

func (b *browser) fetch(path string) (string, error) {
	request, err := http.NewRequest(http.MethodGet, b.base+path, nil)
	if err != nil {
		return "", err
	}
	if err := errors.Join(b.conn.SetDeadline(time.Now().Add(patience)), request.Write(b.conn)); err != nil {
		return "", fmt.Errorf("ask from %s: %w", b.local(), err)
	}
	response, err := http.ReadResponse(b.reader, request)
	if err != nil {
		return "", fmt.Errorf("read answer to %s: %w", b.local(), err)
	}
	body, err := io.ReadAll(response.Body)
	if err = errors.Join(err, response.Body.Close()); err != nil {
		return "", fmt.Errorf("read answer to %s: %w", b.local(), err)
	}
	if response.StatusCode != http.StatusOK || response.Close {
		return "", fmt.Errorf("%s answered %s to %s, and closes: %v", b.base, response.Status, b.local(), response.Close)
	}
	return string(body), nil
}
