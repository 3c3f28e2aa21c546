package netfilter

import (
	"github.com/google/nftables/expr"

	"github.com/splitd/splitd/traffic"
)

// The chain that keeps TCP segments small enough for the way to a backend.
//
// A flow that is sent elsewhere may pass a tunnel that carries less than the
// client's network does. Path MTU discovery (RFC 1191, RFC 8201) needs ICMP
// errors that firewalls love to drop; then short exchanges work and long ones
// stall. Both sides name their maximum segment size once, in the SYN and in its
// answer (RFC 9293 section 3.7.1), so lowering it there to what this host's
// routes to both ends carry is enough. It is never raised.
//
// The hooked chain has one rule, since all packets of the host pass it.
const (
	chainClamp        = "clamp"
	chainClampOpening = "clamp-opening"
)

// priorityClamp is mangle: before the source translation, so that the route to
// the client is found by its own address.
const priorityClamp = -150

// clampChains lower the maximum segment size of the flows that this host sends
// elsewhere, in both directions. Postrouting sees forwarded packets as well as
// those of local clients.
func clampChains(settings Settings, relays bool) []chain {
	classes := []markClass{classRemote, classMasquerade}
	if relays {
		classes = append(classes, classSampled, classSampledOut)
	}
	opening := chain{name: chainClampOpening}
	for _, class := range classes {
		opening.rules = append(opening.rules, rule{statements: []statement{
			marked{mask: settings.ClassMask(), value: settings.mark(class)}, clampSegments{},
		}})
	}
	return []chain{opening, {
		name:  chainClamp,
		hook:  &hook{kind: kindFilter, name: hookPostrouting, priority: priorityClamp},
		rules: []rule{{statements: []statement{opensTCP{}, jumpTo(chainClampOpening)}}},
	}}
}

type (
	// opensTCP holds for the TCP packets that carry a maximum segment size: a
	// SYN and its answer.
	opensTCP struct{}
	// clampSegments lowers the maximum segment size of a SYN to what the route
	// of the packet and the route back carry (nft_rt.c, get_tcpmss; it does
	// not raise it, nft_exthdr.c). Kernel 4.14.
	clampSegments struct{}
)

func (opensTCP) text() string { return "tcp flags syn / syn,rst" }

func (opensTCP) expressions() []expr.Any {
	return append(ofTransport(traffic.TCP),
		loadTransport(register1, offsetTCPFlags, 1),
		&expr.Bitwise{SourceRegister: register1, DestRegister: register1, Len: 1, Mask: []byte{tcpSyn | tcpRst}, Xor: []byte{0}},
		equal(tcpSyn))
}

func (clampSegments) text() string { return "tcp option maxseg size set rt mtu" }

// The option's kind and where its value stands (RFC 9293 section 3.2).
const (
	tcpOptionMSS                  = 2
	offsetOptionMSS, lengthOption = 2, 2
)

func (clampSegments) expressions() []expr.Any {
	return []expr.Any{
		&expr.Rt{Register: register1, Key: expr.RtTCPMSS},
		&expr.Byteorder{SourceRegister: register1, DestRegister: register1, Op: expr.ByteorderHton, Len: 2, Size: 2},
		&expr.Exthdr{SourceRegister: register1, Type: tcpOptionMSS, Offset: offsetOptionMSS, Len: lengthOption, Op: expr.ExthdrOpTcpopt},
	}
}
