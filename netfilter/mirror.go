package netfilter

import (
	"fmt"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"

	"github.com/splitd/splitd/traffic"
)

// A mirror copies the datagrams that clients send in a share of the UDP flows
// to a collector, with nft_dup, which only tables of family ip and ip6 can. A
// copy is made before any translation: its destination is the service's. Whether
// a flow is copied is a hash of the client's address and port, so it is copied
// whole or not at all, and a raised sample only adds. No rule owns a set, so a
// table is replaced in one transaction.
const (
	// TableMirror is the name of two tables, of the families ip and ip6.
	TableMirror = "splitd_mirror"
	chainCopy   = "copy"
	// priorityMirror is mangle: before the destination is translated.
	priorityMirror = -150
)

// mirrors are both tables for the splits.
func mirrors(splits []traffic.Split) []wholeTable {
	copied := map[bool][]rule{} // by whether the collector has an IPv6 address
	for _, s := range traffic.SortSplits(withMirrors(splits)) {
		copied[s.Mirror.To.Is6()] = append(copied[s.Mirror.To.Is6()], copies(s)...)
	}
	return []wholeTable{
		mirrorTable(nftables.TableFamilyIPv4, copied[false]), mirrorTable(nftables.TableFamilyIPv6, copied[true]),
	}
}

// mirrorTable is not wanted when there is nothing to copy.
func mirrorTable(family nftables.TableFamily, rules []rule) wholeTable {
	t := wholeTable{name: TableMirror, family: family}
	if len(rules) > 0 {
		t.chains = []chain{{name: chainCopy, hook: &hook{kind: kindFilter, name: hookPrerouting, priority: priorityMirror}, rules: rules}}
	}
	return t
}

// withMirrors are those of the splits that have a mirror, mostly none.
func withMirrors(splits []traffic.Split) []traffic.Split {
	var with []traffic.Split
	for i := range splits {
		if splits[i].Mirror.Sample > 0 && splits[i].Mirror.To.IsValid() {
			with = append(with, splits[i])
		}
	}
	return with
}

func copies(s traffic.Split) []rule {
	var rules []rule
	for _, ip := range s.Service.Addresses {
		for _, port := range s.Service.Ports {
			if ip.Is6() != s.Mirror.To.Is6() || port.Transport != traffic.UDP {
				continue
			}
			r := rule{comment: s.Name, statements: []statement{destinationHere{ip: ip}, destinationPorts{port: port}}}
			if s.Mirror.Sample < traffic.Whole {
				r.statements = append(r.statements, sampleFlows{six: ip.Is6(), seed: s.SampleSeed(), below: s.Mirror.Sample})
			}
			r.statements = append(r.statements, copyTo{ip: s.Mirror.To})
			rules = append(rules, r)
		}
	}
	return rules
}

// mirrorText is the text of both.
func mirrorText(splits []traffic.Split) string {
	var b strings.Builder
	for _, t := range mirrors(splits) {
		b.WriteString(t.text())
	}
	return b.String()
}

// The statements of mirrors.
type (
	// destinationHere is destination in a table of one family, which needs no
	// condition for that.
	destinationHere destination
	// destinationPorts is destinationPort, or a run of them.
	destinationPorts destinationPort
	// sampleFlows holds for flows whose hash is below, of the million.
	sampleFlows struct {
		six   bool
		seed  uint32
		below traffic.Weight
	}
	// copyTo sends a copy of the packet by the route to the address.
	copyTo destination
)

func (s destinationHere) text() string { return destination(s).text() }

func (s destinationHere) expressions() []expr.Any {
	withFamily := destination(s).expressions()
	return withFamily[len(ofFamily(s.ip.Is6())):]
}

func (s destinationPorts) text() string {
	text := destinationPort(s).text()
	if s.port.IsRange() {
		text += fmt.Sprintf("-%d", s.port.Last)
	}
	return text
}

func (s destinationPorts) expressions() []expr.Any {
	single := destinationPort(s).expressions()
	if !s.port.IsRange() {
		return single
	}
	bound := func(op expr.CmpOp, port uint16) expr.Any {
		return &expr.Cmp{Op: op, Register: register1, Data: binaryutil.BigEndian.PutUint16(port)}
	}
	return append(slices.Clone(single[:len(single)-1]), bound(expr.CmpOpGte, s.port.Number), bound(expr.CmpOpLte, s.port.Last))
}

func (s sampleFlows) text() string {
	family := "ip"
	if s.six {
		family = "ip6"
	}
	return fmt.Sprintf("jhash %s saddr . udp sport mod %d seed 0x%x < %d", family, traffic.Whole, s.seed, s.below)
}

// The port lies behind the address, in the next word of 4 bytes, which is
// hashed whole.
func (s sampleFlows) expressions() []expr.Any {
	const portBehind4, portBehind6, word = 13, 3, 4
	offset, length, port := uint32(offsetSource4), uint32(4), uint32(portBehind4)
	if s.six {
		offset, length, port = offsetSource6, 16, portBehind6
	}
	return []expr.Any{
		&expr.Payload{DestRegister: register2, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: length},
		loadTransport(port, 0, 2),
		&expr.Hash{
			SourceRegister: register2, DestRegister: register1, Length: length + word,
			Modulus: uint32(traffic.Whole), Seed: s.seed, Type: expr.HashTypeJenkins,
		},
		&expr.Byteorder{SourceRegister: register1, DestRegister: register1, Op: expr.ByteorderHton, Len: 4, Size: 4},
		&expr.Cmp{Op: expr.CmpOpLt, Register: register1, Data: binaryutil.BigEndian.PutUint32(uint32(s.below))},
	}
}

func (s copyTo) text() string { return "dup to " + s.ip.String() }

func (s copyTo) expressions() []expr.Any {
	return []expr.Any{
		&expr.Immediate{Register: register1, Data: s.ip.AsSlice()},
		&expr.Dup{RegAddr: register1},
	}
}
