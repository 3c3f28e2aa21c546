package raw

type answer uint8

const (
	no answer = iota
	perhaps
	yes
)

// tls says whether a turn of a client begins with a ClientHello: a record of type
// handshake, of version 3.0 to 3.4, that begins with message 1 (RFC 8446, sections
// 4 and 5.1). Bytes that are too few to say may be.
func tls(turn []byte) answer {
	fits := [...]func(byte) bool{
		func(b byte) bool { return b == 22 },
		func(b byte) bool { return b == 3 },
		func(b byte) bool { return b <= 4 },
		func(b byte) bool { return b <= 0x41 }, // at most 2^14 bytes and some, in two bytes
		func(byte) bool { return true },
		func(b byte) bool { return b == 1 },
	}
	for i, fit := range fits {
		if i == len(turn) {
			return perhaps
		}
		if !fit(turn[i]) {
			return no
		}
	}
	return yes
}
