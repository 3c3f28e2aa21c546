package terminator

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strconv"
	"strings"
)

const (
	// mostCommand bounds a command: RFC 5321, 4.5.3.1.4, allows 512 bytes, and extensions more; RFC
	// 4954, 4, allows 12288 for what answers AUTH.
	mostCommand = 12288
	// mostReply bounds a line of a reply (RFC 5321, 4.5.3.1.5, allows 512), mostOwed the
	// commands without one.
	mostReply = 4096
	mostOwed  = 1000
)

// What the client's next bytes are.
type saying uint8

const (
	commands  saying = iota
	undecided        // the reply to the last command says it; who waits for it says nothing
	asksTLS          // the same, behind STARTTLS: held
	response         // to a challenge of AUTH
	content
	aChunk
)

// What a reply is to.
type owed uint8

const (
	plainly owed = iota
	toNew        // what begins anew, a session or a mail
	toRCPT
	toSTARTTLS
	toDATA
	toAUTH
	toAnything // a verb that we do not know
)

// smtp follows SMTP and LMTP, strictly: lines end in CRLF, nothing comes behind a
// command whose reply decides what it would be, and each reply belongs to a command. The zero
// one is at the greeting.
type smtp struct {
	doubt string

	saying saying
	line   []byte // of the client, so far
	left   int64  // of a chunk
	dots   dots
	lmtp   bool

	recipients int // that the primary has accepted

	greeted bool
	owed    []owed
	reply   []byte // a line of the primary, so far
	code    string // of the lines before it; "" where it is the first
}

func (s *smtp) waits() bool { return s.doubt == "" && s.saying == asksTLS }

func (s *smtp) giveUp(reason string) string {
	if s.doubt == "" {
		s.doubt = reason
	}
	return s.doubt
}

// client implements dialogue.
func (s *smtp) client(b []byte) int {
	n := 0
	for n < len(b) && s.doubt == "" && s.saying != asksTLS {
		n += s.hear(b[n:])
	}
	if s.doubt != "" {
		return len(b)
	}
	return n
}

// hear takes some bytes.
func (s *smtp) hear(b []byte) int {
	switch s.saying {
	case commands, response:
		return s.hearLine(b)
	case content:
		n, ended, clear := s.dots.scan(b)
		switch {
		case !clear:
			s.giveUp(notFollowed)
		case ended:
			s.saying = commands
			s.owe(plainly)
			for range s.recipients - 1 {
				if s.lmtp { // RFC 2033, 4.2
					s.owe(plainly)
				}
			}
		}
		return n
	case aChunk:
		n := min(int64(len(b)), s.left)
		if s.left -= n; s.left == 0 {
			s.saying = commands
		}
		return int(n)
	case undecided, asksTLS:
	}
	s.giveUp(notFollowed)
	return len(b)
}

func (s *smtp) hearLine(b []byte) int {
	line, n, whole, ok := gather(&s.line, b, mostCommand)
	switch {
	case !ok:
		s.giveUp(notFollowed)
	case !whole:
	case s.saying == response:
		s.saying = undecided
		s.owe(toAUTH)
	default:
		s.command(string(line))
	}
	return n
}

// gather adds bytes to a line up to its CRLF. ok: it is no longer than most, and has no other control
// character, which servers read differently.
func gather(line *[]byte, b []byte, most int) (_ []byte, n int, whole, ok bool) {
	if i := bytes.IndexByte(b, '\n'); i >= 0 {
		b, whole = b[:i+1], true
	}
	if len(*line)+len(b) > most {
		return nil, len(b), whole, false
	}
	*line = append(*line, b...)
	if !whole {
		return nil, len(b), false, true
	}
	text, ok := bytes.CutSuffix(*line, []byte("\r\n"))
	ok = ok && !bytes.ContainsFunc(text, func(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f })
	*line = nil
	return text, len(b), true, ok
}

// command takes a whole command.
func (s *smtp) command(line string) {
	verb, argument, _ := strings.Cut(strings.TrimLeft(line, " \t"), " ")
	switch strings.ToUpper(strings.TrimRight(verb, "\t")) {
	case "STARTTLS":
		s.saying = asksTLS
		s.owe(toSTARTTLS)
	case "LHLO":
		s.lmtp = true
		s.owe(toNew)
	case "DATA":
		s.saying = undecided
		s.owe(toDATA)
	case "BDAT":
		s.chunk(argument)
	case "AUTH":
		s.saying = undecided
		s.owe(toAUTH)
	case "EHLO", "HELO", "MAIL", "RSET":
		s.owe(toNew)
	case "RCPT":
		s.owe(toRCPT)
	case "NOOP", "VRFY", "EXPN", "HELP", "QUIT", "ETRN", "XCLIENT", "XFORWARD":
		s.owe(plainly)
	default:
		s.saying = undecided
		s.owe(toAnything)
	}
}

// chunk begins a chunk (RFC 3030, 2). LMTP replies to it more than once.
func (s *smtp) chunk(argument string) {
	size, last, _ := strings.Cut(strings.TrimSpace(argument), " ")
	n, err := strconv.ParseInt(size, 10, 64)
	if err != nil || strings.Trim(size, "0123456789") != "" || last != "" && !strings.EqualFold(last, "LAST") || s.lmtp {
		s.giveUp(notFollowed)
		return
	}
	s.owe(plainly)
	if n > 0 {
		s.saying, s.left = aChunk, n
	}
}

func (s *smtp) owe(to owed) {
	if s.owed = append(s.owed, to); len(s.owed) > mostOwed {
		s.giveUp(notFollowed)
	}
}

// primary implements dialogue.
func (s *smtp) primary(b []byte) (n int, agreed bool) {
	for n < len(b) && s.doubt == "" && !agreed {
		line, taken, whole, ok := gather(&s.reply, b[n:], mostReply)
		n += taken
		switch {
		case !ok:
			s.giveUp(notFollowed)
		case whole:
			agreed = s.replyLine(string(line))
		}
	}
	if s.doubt != "" {
		return len(b), false
	}
	return n, agreed
}

// replyLine takes a line of a reply. agreed: it is the last of the one by which TLS begins.
func (s *smtp) replyLine(line string) (agreed bool) {
	if len(line) < 3 || line[0] < '2' || line[0] > '5' || strings.Trim(line[:3], "0123456789") != "" ||
		s.code != "" && s.code != line[:3] || len(line) > 3 && line[3] != ' ' && line[3] != '-' {
		s.giveUp(notFollowed)
		return false
	}
	if len(line) > 3 && line[3] == '-' {
		s.code = line[:3]
		return false
	}
	s.code = ""
	return s.replied(line[:3])
}

// replied takes a whole reply.
func (s *smtp) replied(code string) (agreed bool) {
	if !s.greeted {
		s.greeted = true
		return false
	}
	if len(s.owed) == 0 {
		if code != "421" { // which may come at any time
			s.giveUp(notFollowed)
		}
		return false
	}
	to := s.owed[0]
	s.owed = s.owed[1:]
	refused := code[0] == '4' || code[0] == '5'
	switch {
	case code[0] == '3' && to != toDATA && to != toAUTH:
		s.giveUp(notFollowed)
	case to == plainly:
	case to == toNew:
		s.recipients = 0
	case to == toRCPT:
		if !refused {
			s.recipients++
		}
	case to == toSTARTTLS && code == "220":
		return true
	case to == toDATA && code == "354":
		s.saying, s.dots = content, dots{}
	case to == toAUTH && code == "334":
		s.saying = response
	case to == toAUTH && code[0] == '2', refused:
		s.saying = commands
	default:
		s.giveUp(notFollowed)
	}
	return false
}

// dots look for the end of content, CRLF.CRLF (RFC 5321, 4.1.1.4). The zero one is behind the
// CRLF of DATA.
type dots struct {
	at lineAt
}

type lineAt uint8

const (
	atStart lineAt = iota // behind CRLF
	loosely               // behind a lone CR or LF: the start of a line to some servers
	within
	afterCR
	dot        // alone on its line, so far, behind CRLF
	dotCR      // and CR
	looseDot   // the same behind a lone CR or LF
	looseDotCR // and CR
)

// scan looks at bytes up to the end. clear is false at what is the end to some servers
// and to others not.
func (d *dots) scan(b []byte) (n int, ended, clear bool) {
	for i, c := range b {
		was := d.at
		d.at = was.next(c)
		switch {
		case was == dotCR && c == '\n':
			return i + 1, true, true
		case was == dotCR, was == looseDotCR, (was == dot || was == looseDot) && c == '\n':
			return i + 1, false, false
		}
	}
	return len(b), false, true
}

// next is where a byte leads, where nothing ends.
func (a lineAt) next(c byte) lineAt {
	switch {
	case c == '\r' && a == dot:
		return dotCR
	case c == '\r' && a == looseDot:
		return looseDotCR
	case c == '\r':
		return afterCR
	case c == '\n' && a == afterCR:
		return atStart
	case c == '\n':
		return loosely
	case c == '.' && a == atStart:
		return dot
	case c == '.' && (a == loosely || a == afterCR):
		return looseDot
	}
	return within
}

// agreeSMTP speaks up to where TLS begins.
func agreeSMTP(conn net.Conn) error {
	r := bufio.NewReaderSize(conn, mostReply)
	if err := accepted(r); err != nil {
		return fmt.Errorf("greeting: %w", err)
	}
	for _, say := range []string{"EHLO " + literal(conn.LocalAddr()), "STARTTLS"} {
		if _, err := io.WriteString(conn, say+"\r\n"); err != nil {
			return fmt.Errorf("say %q: %w", say, err)
		}
		if err := accepted(r); err != nil {
			return fmt.Errorf("reply to %q: %w", say, err)
		}
	}
	if r.Buffered() > 0 {
		return fmt.Errorf("the primary has said %d bytes behind its reply to STARTTLS", r.Buffered())
	}
	return nil
}

// accepted reads one reply, which has to be of the class 2.
func accepted(r *bufio.Reader) error {
	for range 100 {
		line, err := r.ReadSlice('\n')
		if err != nil {
			return err
		}
		if len(line) < 4 || line[0] != '2' {
			return fmt.Errorf("it is %q", strings.TrimSpace(string(line)))
		}
		if line[3] != '-' {
			return nil
		}
	}
	return fmt.Errorf("it is too long")
}

// literal is an address as a name in EHLO (RFC 5321, 4.1.3).
func literal(a net.Addr) string {
	at, err := netip.ParseAddrPort(fmt.Sprint(a))
	switch {
	case err != nil:
		return "localhost"
	case at.Addr().Unmap().Is4():
		return "[" + at.Addr().Unmap().String() + "]"
	}
	return "[IPv6:" + at.Addr().WithZone("").String() + "]"
}

// leaveSMTP is polite, so that nobody's log is alarmed; whatever comes of it.
func leaveSMTP(voice io.ReadWriter, agreed bool) {
	r := bufio.NewReaderSize(voice, mostReply)
	if !agreed && accepted(r) != nil { // the greeting
		return
	}
	if _, err := io.WriteString(voice, "QUIT\r\n"); err == nil {
		_ = accepted(r)
	}
}
