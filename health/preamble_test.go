package health_test

import (
	"bufio"
	"io"
	"net"
	"testing"

	"github.com/pires/go-proxyproto"

	"github.com/splitd/splitd/health"
	"github.com/splitd/splitd/traffic"
)

// demanding serves who begins with the header of a connection of the proxy's own,
// and nobody else.
func demanding(version byte, broken chan<- error, serve func(net.Conn, *bufio.Reader)) func(net.Conn) {
	return func(c net.Conn) {
		from := bufio.NewReader(c)
		h, err := proxyproto.Read(from)
		switch {
		case err != nil:
			broken <- err
		case h.Version == version && h.Command == proxyproto.LOCAL || h.Version == 1 && h.TransportProtocol == proxyproto.UNSPEC:
			broken <- nil
			serve(c, from)
		}
	}
}

func TestChecksBeginAsABackendExpectsThatWantsAPROXYHeader(t *testing.T) {
	ns := place(t)
	greet := func(c net.Conn, from *bufio.Reader) {
		_, _ = io.WriteString(c, "220 hello\r\n")
		_, _ = from.ReadString('\n')
	}
	answer := func(c net.Conn, from *bufio.Reader) {
		for line := ""; line != "\r\n"; {
			var err error
			if line, err = from.ReadString('\n'); err != nil {
				return
			}
		}
		_, _ = io.WriteString(c, "HTTP/1.1 204 No Content\r\n\r\n")
	}
	for version, number := range map[traffic.SendProxy]byte{traffic.SendProxyV1: 1, traffic.SendProxyV2: 2} {
		for kind, serveKind := range map[traffic.Check]func(net.Conn, *bufio.Reader){
			traffic.CheckTCP: greet, traffic.CheckSMTP: greet, traffic.CheckHTTP: answer,
		} {
			broken := make(chan error, 1)
			target := at(serve(t, ns, demanding(number, broken, serveKind)), traffic.Health{Check: kind})
			target.SendProxy = version
			expect(t, string(version)+" "+string(kind), check(ns, target), health.Passed, "")
			if err := <-broken; err != nil {
				t.Errorf("%s %s: the server sees no header: %v", version, kind, err)
			}
		}
	}
}

func TestOnlyChecksOfTheRelaysPortsBeginWithAHeader(t *testing.T) {
	split := mx()
	split.Mode, split.Proxy.SendProxy = traffic.ModeProxy, traffic.SendProxyV2
	for name, test := range map[string]struct {
		change func(*traffic.Split)
		want   traffic.SendProxy
	}{
		"the ports of flows":      {func(*traffic.Split) {}, traffic.SendProxyV2},
		"a port for checks alone": {func(s *traffic.Split) { s.Health.Port = 8080 }, ""},
		"mode kernel":             {func(s *traffic.Split) { s.Mode = traffic.ModeKernel }, ""},
		"no header":               {func(s *traffic.Split) { s.Proxy.SendProxy = "" }, ""},
	} {
		s := split
		test.change(&s)
		targets := health.Targets(s, 0)
		if len(targets) == 0 {
			t.Fatal("nothing is checked")
		}
		for _, target := range targets {
			if target.SendProxy != test.want {
				t.Errorf("%s: a check of %s begins with %q, want %q", name, target.Endpoint(), target.SendProxy, test.want)
			}
		}
	}
}
