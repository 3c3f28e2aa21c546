package ladder

import (
	"bytes"
	"fmt"
	"strings"
)

// Page is what clients ask for.
type Page int

// The pages. Of the small one there is nothing to compare: what is measured is what
// each request costs. The large one is 64 KiB of JSON, whose values are others each
// time: to decode and compare it costs most.
const (
	Small Page = iota
	Large
)

// request is how a client asks for the page.
func (p Page) request() string {
	if p == Large {
		return "GET /ladder/large HTTP/1.1\r\nHost: ladder.test\r\n\r\n"
	}
	return "GET /ladder HTTP/1.1\r\nHost: ladder.test\r\n\r\n"
}

// Who serves says in Via who he is, and in each part of a large page: so a client
// notices a byte that is not the primary's.
const (
	byPrimary   = "primary"
	byCandidate = "candidate"
)

// sheet is a page as one server writes it, over and over. It belongs to one thread.
type sheet struct {
	text   []byte // the whole reply
	body   []byte // its part behind the headers
	places []int  // of values in it, digits that are written anew
	served uint64
}

// largeBody is how long the large page is.
const largeBody = 64 << 10

// digits of a value. The first value of a page says all others.
const digits, between, values = 8, 7919, 100_000_000

func newSheet(p Page, server string) *sheet {
	kind, body := "text/plain", "ok\n"
	s := &sheet{}
	if p == Large {
		kind, body = "application/json", s.large(server)
	}
	head := fmt.Sprintf("HTTP/1.1 200 OK\r\nVia: 1.1 %s\r\nContent-Type: %s\r\nContent-Length: %d\r\n\r\n", server, kind, len(body))
	s.text = []byte(head + body)
	s.body = s.text[len(head):]
	return s
}

// large is a list of objects, as long as fits, and blanks.
func (s *sheet) large(server string) string {
	var b strings.Builder
	item := fmt.Sprintf(`{"key":"k%0[1]*[2]d","count":1%0[1]*[2]d,"by":%[3]q,"text":"as much as an API says of one thing"}`, digits, 0, server)
	zeros := strings.Repeat("0", digits)
	first, last := strings.Index(item, zeros), strings.LastIndex(item, zeros)
	for b.Len()+1+len(item) < largeBody {
		if b.Len() == 0 {
			b.WriteByte('[')
		} else {
			b.WriteByte(',')
		}
		s.places = append(s.places, b.Len()+first, b.Len()+last)
		b.WriteString(item)
	}
	b.WriteString(strings.Repeat(" ", largeBody-1-b.Len()) + "]")
	return b.String()
}

// next is the next reply, with values that those before it had not. It is there until
// the one after it.
func (s *sheet) next() []byte {
	// A factor that is no multiple of 2 or 5 has a hundred million of them follow
	// one another before one comes again.
	const factor = 7_654_321
	s.served++
	s.fill(s.served * factor % values)
	return s.text
}

// fill writes values, of which the first is given.
func (s *sheet) fill(value uint64) {
	for _, at := range s.places {
		for i, rest := digits-1, value; i >= 0; i, rest = i-1, rest/10 {
			s.body[at+i] = byte('0' + rest%10)
		}
		value = (value + between) % values
	}
}

// is says whether these bytes are a body that the sheet may have.
func (s *sheet) is(body []byte) bool {
	if len(body) == len(s.body) && len(s.places) > 0 {
		value := uint64(0)
		for _, digit := range body[s.places[0]:][:digits] {
			value = value*10 + uint64(digit-'0')
		}
		s.fill(value % values)
	}
	return bytes.Equal(body, s.body)
}
