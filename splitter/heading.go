package splitter

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"

	"github.com/pires/go-proxyproto"
)

const (
	// textMost is the longest header of version 1, its line end included, and
	// headerMost the longest of version 2 that go-proxyproto takes.
	textMost   = 107
	headerMost = binaryFirst + 4096
	// binaryFirst is what a header of version 2 begins with; its last two bytes
	// say how long the rest is.
	binaryFirst = 16
)

// frame says how long the PROXY header is that the bytes begin with, 0 where not
// all of it is there: proxy-protocol.txt, sections 2.1 and 2.2. What stands in it
// is not looked at. The error is that there is none.
func frame(all []byte) (int, error) {
	switch {
	case begins(all, proxyproto.SIGV2):
		return frameBinary(all)
	case begins(all, proxyproto.SIGV1):
		return frameText(all)
	}
	return 0, errNotHeader
}

// begins says whether the bytes begin with others, or are a beginning of those.
func begins(all, with []byte) bool {
	n := min(len(all), len(with))
	return bytes.Equal(all[:n], with[:n])
}

func frameBinary(all []byte) (int, error) {
	if len(all) < binaryFirst {
		return 0, nil
	}
	switch length := binaryFirst + int(binary.BigEndian.Uint16(all[binaryFirst-2:])); {
	case length > headerMost:
		return 0, errLongHeader
	case length > len(all):
		return 0, nil
	default:
		return length, nil
	}
}

func frameText(all []byte) (int, error) {
	line := all[:min(len(all), textMost)]
	end := bytes.IndexByte(line, '\n')
	if end < 0 && len(line) == textMost {
		return 0, errLongHeader
	}
	return end + 1, nil
}

// heading is what a header tells: nothing where the connection is the proxy's own
// (LOCAL), or its client's address is unknown or none of IP.
type heading struct{ client, service netip.AddrPort }

// parseHeader reads a whole header.
func parseHeader(header []byte) (heading, error) {
	h, err := proxyproto.Read(bufio.NewReaderSize(bytes.NewReader(header), len(header)))
	if err != nil {
		return heading{}, fmt.Errorf("read PROXY header: %w", err)
	}
	from, to, ok := h.TCPAddrs()
	if h.Command == proxyproto.LOCAL || !ok {
		return heading{}, nil
	}
	said := heading{client: plain(from.AddrPort()), service: plain(to.AddrPort())}
	if said.client.Addr().IsUnspecified() {
		return heading{}, errNobody
	}
	return said, nil
}

// plain is an address as groups, limits and affinity want it: IPv4 that is
// written as IPv6 is IPv4.
func plain(at netip.AddrPort) netip.AddrPort { return netip.AddrPortFrom(at.Addr().Unmap(), at.Port()) }
