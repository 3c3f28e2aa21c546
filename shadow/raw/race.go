package raw

import (
	"hash"
	"hash/fnv"
)

// context is how many bytes around the first difference are told of each side.
const context = 64

// nobody leads where both servers have said the same.
const nobody = -1

// A race is how far two servers say the same. It holds what the one that is ahead
// has said beyond the other, and the last bytes before that.
type race struct {
	same int64       // bytes that both have said, and alike
	sum  hash.Hash64 // of them
	tail []byte      // the last of them

	leader  int
	ahead   []byte // what the leader alone has said, from the gone-th byte on
	gone    int
	parted  bool      // they differ behind the same
	differs [2][]byte // what each says from there on, as far as it matters
}

func newRace() race { return race{sum: fnv.New64a()} }

func (r *race) rest() []byte { return r.ahead[r.gone:] }

func (r *race) length() int { return len(r.ahead) - r.gone }

func (r *race) leads() int {
	if r.length() == 0 {
		return nobody
	}
	return r.leader
}

func (r *race) held() int { return cap(r.ahead) + cap(r.tail) }

// say takes what a server says, unless they have parted already. The bytes are not
// kept but for copies.
func (r *race) say(who int, said []byte) {
	if r.leads() == 1-who {
		rest := r.rest()
		n := common(rest, said)
		r.take(said[:n])
		r.gone += n
		if n < len(rest) && n < len(said) {
			r.parted = true
			r.differs[who], r.differs[1-who] = clip(said[n:]), clip(rest[n:])
			return
		}
		said = said[n:]
	}
	if len(said) > 0 {
		r.leader = who
		r.room()
		r.ahead = append(r.ahead, said...)
	}
}

// room moves what is left to the front where most is gone, so that each byte is
// moved but once or twice, however small the steps of the other server are.
func (r *race) room() {
	if r.gone > len(r.ahead)/2 {
		r.ahead = r.ahead[:copy(r.ahead, r.rest())]
		r.gone = 0
	}
}

// take counts bytes that both have said.
func (r *race) take(alike []byte) {
	r.same += int64(len(alike))
	_, _ = r.sum.Write(alike) // never fails
	if len(alike) < context {
		keep := min(len(r.tail), context-len(alike))
		r.tail = append(r.tail[:0], r.tail[len(r.tail)-keep:]...)
	} else {
		r.tail, alike = r.tail[:0], alike[len(alike)-context:]
	}
	r.tail = append(r.tail, alike...)
}

// common is how many bytes two begin with alike.
func common(a, b []byte) int {
	n := min(len(a), len(b))
	for i := range n {
		if a[i] != b[i] {
			return i
		}
	}
	return n
}

func clip(b []byte) []byte { return append([]byte(nil), b[:min(len(b), context)]...) }
