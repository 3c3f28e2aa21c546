package health

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
)

// Bounds of a reply: RFC 5321 section 4.5.3.1.5 allows 512 bytes a line, and
// servers are more generous.
const (
	replyLineMax  = 2048
	replyLinesMax = 100
)

// checkSMTP waits for the greeting (RFC 5321 section 3.1), which is 220 from a
// server that takes mail and 554 or 421 from one that does not, and takes its
// leave.
func checkSMTP(ctx context.Context, t Target) Result {
	conn, result := open(ctx, t)
	if conn == nil {
		return result
	}
	defer func() { _ = conn.Close() }()
	replies := bufio.NewReaderSize(conn, replyLineMax)
	code, text, err := readReply(replies)
	switch {
	case errors.Is(err, io.EOF):
		return failed("closed without a greeting")
	case errors.Is(err, errReply):
		return failed("%v", err)
	case isTimeout(err) && !slices.Contains([]uint16{24, 25, 26, 587, 2525}, t.Port): // these begin in clear
		return failed("wait for the greeting: no answer within %s%s", t.Health.Timeout, perhapsTLS)
	case err != nil:
		return broken("wait for the greeting", err, t)
	}
	// The server closes after its answer to QUIT, so that the closed connection
	// stays with it and not with this host; whether it does is not asked.
	if _, err := io.WriteString(conn, "QUIT\r\n"); err == nil {
		_, _ = io.Copy(io.Discard, io.LimitReader(replies, replyLineMax))
	}
	if code/100 != 2 {
		return failed("greeting %d %s", code, text)
	}
	return passed()
}

// errReply is what a reply that is none wraps.
var errReply = errors.New("no SMTP reply")

// readReply reads one reply of one or more lines, "220-first", "220 last" (RFC
// 5321 section 4.2), and returns the code and the text of its first line.
func readReply(r *bufio.Reader) (code int, text string, err error) {
	for n := range replyLinesMax {
		line, prefix, err := r.ReadLine()
		switch {
		case err != nil && n > 0 && errors.Is(err, io.EOF):
			return 0, "", fmt.Errorf("%w: it ends after %d lines", errReply, n)
		case err != nil:
			return 0, "", err
		case prefix:
			return 0, "", fmt.Errorf("%w: a line has more than %d bytes", errReply, replyLineMax)
		}
		lineCode, last, ok := replyLine(line)
		if !ok || n > 0 && lineCode != code {
			return 0, "", fmt.Errorf("%w: %q", errReply, line[:min(len(line), reasonMax)])
		}
		if n == 0 {
			code, text = lineCode, string(line[min(4, len(line)):])
		}
		if last {
			return code, text, nil
		}
	}
	return 0, "", fmt.Errorf("%w: it has more than %d lines", errReply, replyLinesMax)
}

// replyLine reads the three digits of a line, and whether it is the last one.
func replyLine(line []byte) (code int, last, ok bool) {
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
