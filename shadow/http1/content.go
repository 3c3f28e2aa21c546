package http1

import (
	"fmt"

	"github.com/cespare/xxhash/v2"
)

// A content is what there is of a body: its beginning and its length, and of a body
// that is longer than what is kept a hash of all. The hash is a fast one: it is to
// tell replies apart, and nobody gains by two that are alike.
type content struct {
	kept []byte
	size int64
	sum  *xxhash.Digest // nil while all is kept
}

// uncounted as what may be kept says that nobody will look at the body.
const uncounted = -1

func (c *content) add(b []byte, keep int) {
	c.size += int64(len(b))
	if keep == uncounted {
		return
	}
	if c.sum == nil && len(c.kept)+len(b) > keep {
		c.sum = xxhash.New()
		c.sum.Write(c.kept) //nolint:errcheck // it has none
	}
	if c.sum != nil {
		c.sum.Write(b) //nolint:errcheck // it has none
	}
	c.kept = append(c.kept, b[:min(len(b), keep-len(c.kept))]...)
}

// isCut says that more came than was kept.
func (c *content) isCut() bool { return c.sum != nil }

// digest is the hash of all of it.
func (c *content) digest() string {
	if c.sum != nil {
		return fmt.Sprintf("%016x", c.sum.Sum64())
	}
	return digestOf(c.kept)
}

func digestOf(b []byte) string { return fmt.Sprintf("%016x", xxhash.Sum64(b)) }
