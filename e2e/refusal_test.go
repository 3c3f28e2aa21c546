package e2e

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
)

// Who refuses an upload answers, and closes before he has read it: the kernel resets the
// connection behind the answer, which clients get without splitd too.
func TestTheAnswerToAnUploadThatIsRefusedReachesTheClient(t *testing.T) {
	const uploads = 30
	v := emptyVault(t)
	v.old = &mailer{name: "old.example", tls: v.backend()}
	v.router.Serve("tcp4", "127.0.0.1:2526", v.old.serve)
	why := strings.Repeat("too large. ", 1800)
	served := shop("")
	v.router.Serve("tcp4", "127.0.0.1:8444", v.inside(v.backend(), func(c net.Conn) {
		head := bufio.NewReader(c)
		if method, err := head.Peek(4); err != nil || string(method) == "GET " {
			served(ahead{c, head})
			return
		}
		_, _ = fmt.Fprintf(c, "HTTP/1.1 413 Content Too Large\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s", len(why), why)
	}))
	v.configure(tlsConfig)
	v.start()
	v.isSeen()
	for range uploads {
		c := tls.Client(v.plain("10.1.0.1:8443"), v.trusting("shop.example"))
		if _, err := io.WriteString(c, "POST /big HTTP/1.1\r\nHost: shop.example\r\nTransfer-Encoding: chunked\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		if s := c.ConnectionState(); !v.byUs(s) {
			t.Fatal("the flow is not seen into")
		}
		go func() {
			for chunk := "8000\r\n" + strings.Repeat("x", 0x8000) + "\r\n"; ; {
				if _, err := io.WriteString(c, chunk); err != nil {
					return
				}
			}
		}()
		answer, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil {
			t.Fatalf("the answer does not come: %v", err)
		}
		if body, err := io.ReadAll(answer.Body); answer.StatusCode != http.StatusRequestEntityTooLarge || string(body) != why {
			t.Fatalf("of %s %d of %d bytes come: %v", answer.Status, len(body), len(why), err)
		}
		_ = c.Close()
	}
}

// ahead is a connection of which something was read ahead.
type ahead struct {
	net.Conn
	from io.Reader
}

func (a ahead) Read(b []byte) (int, error) { return a.from.Read(b) }
