package traffic

import (
	"encoding/binary"
	"math/bits"
)

// jhash is the kernel's hash of a key (include/linux/jhash.h, after Bob
// Jenkins' lookup3), which nft's jhash uses. Words are read in the machine's
// byte order, as the kernel does.
func jhash(key []byte, seed uint32) uint32 {
	const initial = 0xdeadbeef
	a := initial + uint32(len(key)) + seed
	b, c := a, a
	for ; len(key) > 12; key = key[12:] {
		a += binary.NativeEndian.Uint32(key)
		b += binary.NativeEndian.Uint32(key[4:])
		c += binary.NativeEndian.Uint32(key[8:])
		a, b, c = jhashMix(a, b, c)
	}
	if len(key) == 0 {
		return c
	}
	// What is left is read byte by byte, lowest first, whatever the machine.
	var rest [12]byte
	copy(rest[:], key)
	a += binary.LittleEndian.Uint32(rest[0:])
	b += binary.LittleEndian.Uint32(rest[4:])
	c += binary.LittleEndian.Uint32(rest[8:])
	return jhashFinal(a, b, c)
}

// jhashMix is __jhash_mix: six times the same line, each time with the words'
// names turned by one.
func jhashMix(a, b, c uint32) (uint32, uint32, uint32) {
	for _, n := range [...]int{4, 6, 8, 16, 19, 4} {
		a -= c
		a ^= bits.RotateLeft32(c, n)
		c += b
		a, b, c = b, c, a
	}
	return a, b, c
}

// jhashFinal is __jhash_final, which is made likewise.
func jhashFinal(a, b, c uint32) uint32 {
	for _, n := range [...]int{14, 11, 25, 16, 4, 14, 24} {
		c ^= b
		c -= bits.RotateLeft32(b, n)
		a, b, c = b, c, a
	}
	return b
}

// draw is the number below modulus that nft's `jhash ... mod` makes of a key
// (reciprocal_scale, include/linux/math.h).
func draw(key []byte, seed, modulus uint32) uint32 {
	return uint32(uint64(jhash(key, seed)) * uint64(modulus) >> 32)
}
