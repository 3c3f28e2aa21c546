package smtp

// A place is where in the lines of content a scanner stands.
type place uint8

const (
	atStart    place = iota // behind CRLF: here a line of one dot is the end
	loosely                 // behind a lone CR or LF: here it is for a lenient server
	within                  // a line
	afterCR                 // which may be the first half of CRLF
	dot                     // a dot at atStart
	dotCR                   // and CR
	looseDot                // a dot at loosely
	looseDotCR              // and CR
)

// hidden says that what was scanned last may be a line of one dot.
func (p place) hidden() bool { return p >= dot }

// A finding is what a scanner stops at.
type finding uint8

const (
	nothing  finding = iota
	complete         // CRLF.CRLF (RFC 5321, 4.1.1.4)
	smuggled         // a line of one dot to some servers, and to others none
)

// A scanner looks for the end of content, which comes cut anywhere. The zero one
// is behind the CRLF of the command.
type scanner struct {
	at   place
	held []byte // the hidden bytes, two at most
}

// scan looks at bytes up to the first finding, and says how many those are. It
// passes them all, but a dot that may be alone on its line not before it is known
// not to be: neither an end nor what anybody may take for one is ever passed.
func (s *scanner) scan(b []byte, pass func([]byte)) (int, finding) {
	from := 0
	for i, c := range b {
		next, found := s.at.next(c)
		switch {
		case found != nothing:
			s.at, s.held = next, nil
			return i + 1, found
		case next.hidden():
			if !s.at.hidden() {
				pass(b[from:i])
			}
			s.held = append(s.held, c)
		case s.at.hidden():
			pass(s.held)
			s.held, from = nil, i
		}
		s.at = next
	}
	if !s.at.hidden() {
		pass(b[from:])
	}
	return len(b), nothing
}

// rest passes what is hidden at the end of a chunk (RFC 3030), behind which comes
// no CRLF; with a CR it does not.
func (s *scanner) rest(pass func([]byte)) finding {
	if s.at == dotCR || s.at == looseDotCR {
		return smuggled
	}
	pass(s.held)
	s.held = nil
	return nothing
}

// next is where a byte leads. Servers differ in what ends a line beside CRLF, so
// each lone CR and LF is one that may.
func (p place) next(c byte) (place, finding) {
	switch p {
	case dot, looseDot:
		switch {
		case c == '\n':
			return loosely, smuggled
		case c == '\r' && p == dot:
			return dotCR, nothing
		case c == '\r':
			return looseDotCR, nothing
		}
		return within, nothing
	case dotCR, looseDotCR:
		switch {
		case c == '\n' && p == dotCR:
			return atStart, complete
		case c == '\n':
			return atStart, smuggled
		}
		next, _ := afterCR.next(c)
		return next, smuggled
	case atStart, loosely, afterCR, within:
	}
	switch {
	case c == '\r':
		return afterCR, nothing
	case c == '\n' && p == afterCR:
		return atStart, nothing
	case c == '\n':
		return loosely, nothing
	case c == '.' && p == atStart:
		return dot, nothing
	case c == '.' && p != within:
		return looseDot, nothing
	}
	return within, nothing
}
