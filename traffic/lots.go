package traffic

import "net/netip"

// Lots draws for client networks with AffinitySource. The kernel plane has
// nft's jhash do the same, so a client has one side, whichever plane carries the
// split.
type Lots struct {
	prefix AffinityPrefix
	seed   uint32
}

// Lots are those of the split. They do not change with its weights.
func (s Split) Lots() Lots { return Lots{prefix: s.AffinityPrefix, seed: s.Seed()} }

// SampleLots are those of the split's sample: what a client's network has drawn of
// one tells nothing of the other.
func (s Split) SampleLots() Lots { return Lots{prefix: s.AffinityPrefix, seed: s.SampleSeed()} }

// Number is what the client's network has drawn, of Whole.
func (l Lots) Number(client netip.Addr) Weight { return Weight(l.draw(client, 0, uint32(Whole))) }

// Address says which of n addresses the client's network has drawn: the first
// by one of n numbers, the second by one of n-1 of another draw, and so on.
func (l Lots) Address(client netip.Addr, n int) int {
	for i := range n - 1 {
		if l.draw(client, uint32(i)+1, uint32(n-i)) == 0 {
			return i
		}
	}
	return n - 1
}

// draw makes a number below modulus of the leading bytes of the address; those
// of another salt tell nothing of it.
func (l Lots) draw(client netip.Addr, salt, modulus uint32) uint32 {
	network := l.network(client)
	whole := network.Addr().As16()
	key := whole[:]
	if client.Is4() {
		key = whole[12:]
	}
	return draw(key[:(network.Bits()+7)/8], l.seed+salt, modulus)
}

// network is the client's.
func (l Lots) network(client netip.Addr) netip.Prefix {
	bits := l.prefix.IPv4
	if client.Is6() {
		bits = l.prefix.IPv6
	}
	network, err := client.Prefix(bits)
	if err != nil || bits == 0 {
		return netip.PrefixFrom(client, client.BitLen())
	}
	return network
}
