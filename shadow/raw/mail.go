package raw

import (
	"bytes"

	"github.com/splitd/splitd/shadow"
)

// Mail that is played as bytes is delivered twice, so the driver knows SMTP and LMTP
// when it hears them, at whatever port: a server that greets with 220 and a client
// that says who it is. FTP's clients do not.

const (
	// early is how much a client may say before a server of mail has greeted it, in
	// bytes.
	early = 4096
	// longGreets is how much of a server's first words tells what it is.
	longGreets = 4
	// blanks are what servers of mail may skip before a verb: Postfix does.
	blanks = " \t\v\f\r"

	mailReason = "SMTP, which would be delivered twice: write `protocol: smtp`"
)

// mail says whether the client's next bytes begin a dialogue of mail. Until the
// primary has said its first words they may.
func (d *driver) mail(next []byte) answer {
	greets := greeting(d.greets)
	if greets == no || greets == perhaps && d.said >= early {
		return no
	}
	return min(greets, hello(next, d.inLine))
}

// unsure says whether bytes of the client that are held back no longer may be mail
// for all that is known of the primary: then they are not sent.
func (d *driver) unsure(held []byte) bool { return hello(held, d.inLine) == yes }

// greeting is whether a server's first bytes are 220 (RFC 5321, section 4.2).
func greeting(first []byte) answer {
	const code = "220"
	switch {
	case len(first) > len(code) && bytes.HasPrefix(first, []byte(code)) && bytes.IndexByte([]byte(" -\r\n"), first[len(code)]) >= 0:
		return yes
	case len(first) <= len(code) && bytes.HasPrefix([]byte(code), first):
		return perhaps
	default:
		return no
	}
}

// hello is whether a line begins as those do by which a client of mail comes to it;
// the first one may have begun before.
func hello(said []byte, inLine bool) answer {
	lines := bytes.SplitAfter(said, []byte("\n"))
	if inLine {
		lines = lines[1:]
	}
	found := no
	for _, line := range lines {
		for _, verb := range [...]string{"EHLO", "HELO", "LHLO", "MAIL"} {
			found = max(found, begins(line, verb))
		}
	}
	return found
}

// begins is whether a line has a verb, in any case. A beginning of one may become it.
func begins(line []byte, verb string) answer {
	said := bytes.TrimLeft(line, blanks)
	word := said[:min(len(said), len(verb))]
	switch {
	case len(line) == 0 || !bytes.EqualFold(word, []byte(verb[:len(word)])):
		return no
	case len(said) > len(verb) && bytes.IndexByte([]byte(blanks+"\n"), said[len(verb)]) >= 0:
		return yes
	case len(said) <= len(verb):
		return perhaps
	default:
		return no
	}
}

// isMail ends the flow, of which the candidate has got nothing of the mail.
func (d *driver) isMail() shadow.Moves { return d.end(d.uncompared(shadow.Opaque, mailReason)) }
