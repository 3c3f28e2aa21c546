package smtp

import (
	"bytes"
	"fmt"
	"strings"
	"time"
)

// replyLine is how much of a line of a reply is kept: RFC 5321, 4.5.3.1.5, allows
// 512 bytes, and servers are more generous.
const replyLine = 2048

// perLine is what a kept line costs beside its bytes.
const perLine = 24

// A reply is a server's answer (RFC 5321, 4.2).
type reply struct {
	code        int
	lines       []string // without codes
	cost        int      // of the lines
	cut         bool     // lines or parts of them are left out
	bytes       int64
	first, last time.Time
}

// accepts says whether it goes on as asked: 2yz and 3yz.
func (r *reply) accepts() bool { return r.code < 400 }

// text is all of its lines.
func (r *reply) text() string { return strings.Join(r.lines, " ") }

// closing is the reply that may come at any time: the server closes (RFC 5321, 3.8).
const closing = 421

// A replies cuts a server's bytes into replies. It holds no more than keep bytes of
// one.
type replies struct {
	keep   int
	offset int64 // of the byte that comes next
	line   []byte
	length int // of the line, with what is not kept
	before byte
	now    reply
}

// held is how many bytes it holds.
func (r *replies) held() int { return len(r.line) + r.now.cost }

// feed takes bytes and gives each whole reply to got, which returns false to take
// no more. What is no reply is an error: nothing after it can be understood.
func (r *replies) feed(b []byte, at time.Time, got func(*reply) bool) error {
	for len(b) > 0 {
		if r.now.bytes == 0 {
			r.now.first = at
		}
		i := bytes.IndexByte(b, '\n')
		part := b
		if i >= 0 {
			part = b[:i+1]
		}
		b = b[len(part):]
		r.take(part, i >= 0)
		if i < 0 {
			return nil
		}
		last, err := r.end()
		if err != nil {
			return err
		}
		if !last {
			continue
		}
		whole := r.now
		whole.last = at
		r.now = reply{}
		if !got(&whole) {
			return nil
		}
	}
	return nil
}

// take adds a part of a line; the LF itself is not kept.
func (r *replies) take(part []byte, ends bool) {
	r.offset += int64(len(part))
	r.now.bytes += int64(len(part))
	r.length += len(part)
	if ends {
		part = part[:len(part)-1]
	}
	if len(part) == 0 {
		return
	}
	r.before = part[len(part)-1]
	room := max(0, replyLine-len(r.line))
	if len(part) > room {
		r.now.cut = true
		part = part[:room]
	}
	r.line = append(r.line, part...)
}

// end judges a whole line, and says whether it is a reply's last.
func (r *replies) end() (last bool, err error) {
	line, length, before := r.line, r.length, r.before
	r.line, r.length, r.before = r.line[:0], 0, 0
	start := r.offset - int64(length)
	if before != '\r' {
		return false, fmt.Errorf("the line at byte %d of the replies ends in LF without CR", start)
	}
	code, last, ok := parseLine(bytes.TrimSuffix(line, []byte("\r")))
	if !ok {
		return false, fmt.Errorf("the line at byte %d is no reply of SMTP", start)
	}
	if r.now.code != 0 && code != r.now.code {
		return false, fmt.Errorf("the line at byte %d has code %d in a reply of code %d", start, code, r.now.code)
	}
	r.now.code = code
	text := bytes.TrimSuffix(line[min(4, len(line)):], []byte("\r"))
	if cost := perLine + len(text); r.now.cost+cost <= r.keep {
		r.now.lines = append(r.now.lines, string(text))
		r.now.cost += cost
	} else {
		r.now.cut = true
	}
	return last, nil
}

// parseLine reads the code of a line, and whether the line is the last.
func parseLine(line []byte) (code int, last, ok bool) {
	if len(line) < 3 || line[0] < '2' || line[0] > '5' {
		return 0, false, false
	}
	for _, digit := range line[:3] {
		if digit < '0' || digit > '9' {
			return 0, false, false
		}
		code = 10*code + int(digit-'0')
	}
	switch {
	case len(line) == 3, line[3] == ' ':
		return code, true, true
	case line[3] == '-':
		return code, false, true
	}
	return 0, false, false
}
