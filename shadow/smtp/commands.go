package smtp

import (
	"cmp"
	"slices"
	"strconv"
	"strings"

	"github.com/splitd/splitd/shadow"
)

// A command is a line of a client (RFC 5321, 4.1).
type command struct {
	verb     string // upper case
	argument string
}

// The kinds of exchanges that are no verb of a client.
const (
	greeting = "greeting"
	content  = "content" // what DATA asks for, up to the dot
	each     = "each"    // of the content's replies but the first, in LMTP
	other    = "other"   // the endpoint of verbs that we do not know
)

// mostRecipients bounds the replies to one content.
const mostRecipients = 100

// parseCommand cuts a line without its CRLF. What is in front of the first space is
// the verb, whatever it is: what is not exactly a verb that we know is not sent.
func parseCommand(line string) command {
	verb, argument, _ := strings.Cut(line, " ")
	return command{strings.ToUpper(verb), strings.TrimSpace(argument)}
}

// endpoint is the command's kind, of a bounded number.
func (c command) endpoint() string {
	if played(c.verb) || slices.Contains([]string{"DATA", "BDAT", "AUTH", "STARTTLS"}, c.verb) {
		return c.verb
	}
	return other
}

// shown names the verb in a reason, which reports show, where it is one: a word of a
// mail or a password that comes in the place of a command is nobody's business.
func (c command) shown() string {
	switch c.verb {
	case "XCLIENT", "XFORWARD", "TURN", "ATRN", "ETRN", "SEND", "SOML", "SAML", "BURL", "XEXCH50":
		return "verb " + c.verb
	}
	return "a verb that is not known"
}

// played says whether a candidate may hear the verb at all. None of them delivers
// mail, in whatever order.
func played(verb string) bool {
	switch verb {
	case "EHLO", "HELO", "LHLO", "MAIL", "RCPT", "RSET", "NOOP", "VRFY", "EXPN", "HELP", "QUIT":
		return true
	}
	return false
}

// safe says whether asking again changes nothing: what may also be asked the
// primary. RCPT and MAIL do: greylisting, limits of rates, callouts, counters of
// reputation. VRFY and EXPN are where servers look for harvesters.
func safe(endpoint string) bool {
	switch endpoint {
	case greeting, "EHLO", "HELO", "LHLO", "RSET", "NOOP", "HELP", "QUIT", "STARTTLS", shadow.Handshaken:
		return true
	}
	return false
}

// parts says whether the dialogues part where one server accepts and the other does
// not: what the client says next goes by the state that it believes in.
func parts(endpoint string) bool {
	switch endpoint {
	case greeting, "EHLO", "HELO", "LHLO", "MAIL", "RCPT", "DATA", "BDAT", "RSET":
		return true
	}
	return false
}

// hello says whether the verb begins a session.
func hello(verb string) bool { return verb == "EHLO" || verb == "HELO" || verb == "LHLO" }

// path is the address of MAIL FROM:<...> or RCPT TO:<...>, and the parameters
// behind it.
func (c command) path() (address string, parameters []string) {
	_, rest, _ := strings.Cut(c.argument, ":")
	rest = strings.TrimLeft(rest, " ")
	if !strings.HasPrefix(rest, "<") {
		fields := strings.Fields(rest)
		if len(fields) == 0 {
			return "", nil
		}
		return fields[0], fields[1:]
	}
	quoted := false
	for i := 1; i < len(rest); i++ {
		switch {
		case quoted && rest[i] == '\\':
			i++
		case rest[i] == '"':
			quoted = !quoted
		case rest[i] == '>' && !quoted:
			return rest[1:i], strings.Fields(rest[i+1:])
		}
	}
	return rest[1:], nil
}

// needs is which extensions a server must have offered to be asked so.
func (c command) needs() []string {
	switch c.verb {
	case "BDAT":
		return []string{"CHUNKING"}
	case "STARTTLS":
		return []string{"STARTTLS"}
	case "MAIL", "RCPT":
	default:
		return nil
	}
	address, parameters := c.path()
	var all []string
	if strings.ContainsFunc(address, func(r rune) bool { return r > 0x7f }) {
		all = append(all, "SMTPUTF8")
	}
	for _, p := range parameters {
		all = append(all, extension(p))
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// shownExtension names a keyword in a reason, which reports show, where it is one of
// the protocol's. Clients can write anything in the place of a parameter, also an
// address: that is nobody's business, and each would be a reason of its own.
func shownExtension(keyword string) string {
	switch keyword {
	case "SIZE", "8BITMIME", "BINARYMIME", "CHUNKING", "SMTPUTF8", "DSN", "AUTH", "DELIVERBY", "FUTURERELEASE", "NO-SOLICITING", "CHECKPOINT",
		"MT-PRIORITY", "STARTTLS", "REQUIRETLS", "RRVS", "CONPERM", "CONNEG", "MTRK", "VERP", "XVERP":
		return keyword
	}
	return "another extension"
}

// isProtocols says whether a parameter says nothing but the protocol's own words and
// numbers: nothing of anybody.
func isProtocols(parameter string) bool {
	name, value, _ := strings.Cut(strings.ToUpper(parameter), "=")
	switch name {
	case "SIZE": // RFC 1870
		return strings.Trim(value, "0123456789") == ""
	case "BODY": // RFC 6152, RFC 3030
		return slices.Contains([]string{"7BIT", "8BITMIME", "BINARYMIME"}, value)
	case "RET": // RFC 3461
		return value == "FULL" || value == "HDRS"
	case "NOTIFY":
		known := func(when string) bool { return slices.Contains([]string{"NEVER", "SUCCESS", "FAILURE", "DELAY"}, when) }
		return !slices.ContainsFunc(strings.Split(value, ","), func(when string) bool { return !known(when) })
	case "SMTPUTF8", "REQUIRETLS": // RFC 6531, RFC 8689
		return value == ""
	}
	return false
}

// extension is the keyword of EHLO by which a parameter is offered. Most are their
// own.
func extension(parameter string) string {
	name, value, _ := strings.Cut(strings.ToUpper(parameter), "=")
	switch name {
	case "BODY": // RFC 6152, RFC 3030
		if value == "BINARYMIME" {
			return value
		}
		return "8BITMIME"
	case "RET", "ENVID", "NOTIFY", "ORCPT": // RFC 3461
		return "DSN"
	case "BY": // RFC 2852
		return "DELIVERBY"
	case "HOLDFOR", "HOLDUNTIL": // RFC 4865
		return "FUTURERELEASE"
	case "SOLICIT": // RFC 3865
		return "NO-SOLICITING"
	case "TRANSID": // RFC 1845
		return "CHECKPOINT"
	}
	return name
}

// chunk reads the argument of BDAT (RFC 3030, 2).
func (c command) chunk() (size int64, last, ok bool) {
	fields := strings.Fields(c.argument)
	if len(fields) == 0 || len(fields) > 2 {
		return 0, false, false
	}
	if len(fields) == 2 && !strings.EqualFold(fields[1], "LAST") {
		return 0, false, false
	}
	if strings.Trim(fields[0], "0123456789") != "" {
		return 0, false, false
	}
	size, err := strconv.ParseInt(fields[0], 10, 64)
	return size, len(fields) == 2, err == nil
}

// lacks is the first of the extensions that is not offered, empty when none is.
func lacks(offered map[string]bool, needed []string) string {
	for _, keyword := range needed {
		if !offered[keyword] {
			return cmp.Or(keyword, "a parameter without a name")
		}
	}
	return ""
}
