package configs_test

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/splitd/splitd/configs"
)

// thousandSplits is a text of splits at one address, with a port of their own
// and a range between those of their neighbours.
func thousandSplits(from int) []byte {
	var b strings.Builder
	b.WriteString("splits:\n")
	for i := from; i < from+1000; i++ {
		fmt.Fprintf(&b, `  - {name: s%d, service: {addresses: [192.0.2.%d], ports: [%d/tcp, %d-%d/udp]}, primary: {name: old, addresses: [local]}, candidates: [{name: new, addresses: [10.0.0.12]}]}`+"\n",
			i, 1+i/6000, 1+i%6000, 10*(i%6000), 10*(i%6000)+9)
	}
	return []byte(strings.Replace(b.String(), " 0-9/udp", " 1-9/udp", 1))
}

// manyNetworks is a text of one split with so many networks in a group.
func manyNetworks(n int) []byte {
	var b strings.Builder
	b.WriteString(`splits:
  - name: mx
    service: {addresses: [192.0.2.25], ports: [25/tcp]}
    primary: {name: old, addresses: [local]}
    candidates:
      - name: new
        addresses: [10.0.0.12]
        clients:
          always:
`)
	for i := range n {
		network := netip.PrefixFrom(netip.AddrFrom4([4]byte{byte(11 + i>>16), byte(i >> 8), byte(i), 0}), 24)
		fmt.Fprintf(&b, "          - %s\n", network)
	}
	return []byte(b.String())
}

func BenchmarkParseAThousandSplits(b *testing.B) {
	text := thousandSplits(1)
	for b.Loop() {
		if _, err := configs.ParseDefinition("a.yaml", text); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkParseAHundredThousandNetworks(b *testing.B) {
	text := manyNetworks(100_000)
	b.SetBytes(int64(len(text)))
	for b.Loop() {
		if _, err := configs.ParseDefinition("a.yaml", text); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkRefuseTheLastByteOfAHundredThousandNetworks(b *testing.B) {
	text := append(manyNetworks(100_000), "   x: ["...)
	for b.Loop() {
		if _, err := configs.ParseDefinition("a.yaml", text); err == nil {
			b.Fatal("accepted")
		}
	}
}
