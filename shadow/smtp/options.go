package smtp

import (
	"fmt"
	"strings"

	"github.com/splitd/splitd/shadow"
)

// A Mode is how much of a mail a candidate gets.
type Mode string

// The modes.
const (
	Envelope  Mode = "envelope"   // sender and recipients
	DataAbort Mode = "data-abort" // content too, without its end
	Sink      Mode = "sink"       // all of it, where the candidate proves that it is a sink
)

// Proof is the keyword by which a candidate proves in its EHLO reply that it
// delivers nothing. Its parameter is Options.Token.
const Proof = "X-SPLITD-SINK"

// Options are what an operator decides.
type Options struct {
	// Mode is Envelope when empty.
	Mode Mode
	// Token is what a sink has to show behind [Proof], in every session. Without one
	// nobody is a sink.
	Token string
	// XCLIENT has the client's address told to a candidate that offers XCLIENT
	// (https://www.postfix.org/XCLIENT_README.html).
	XCLIENT bool
	// Identified says that the candidate knows who the client is by other means: a
	// PROXY header, or the client's own address. Then nothing is excused by identity.
	Identified bool
}

// Check says what is wrong with the options.
func (o Options) Check() error {
	switch o.Mode {
	case "", Envelope, DataAbort:
		return nil
	case Sink:
		if o.Token == "" || strings.Trim(o.Token, tokenSigns) != "" {
			return fmt.Errorf("shadow mode %q: the token %q proves nothing: choose letters and digits, and have the candidate say \"250-%s TOKEN\" in its EHLO reply", o.Mode, o.Token, Proof)
		}
		return nil
	default:
		return fmt.Errorf("shadow mode %q: there is none: write %s, %s or %s", o.Mode, Envelope, DataAbort, Sink)
	}
}

const tokenSigns = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._"

// Rule says what is written to a candidate, for plans and reports.
func (o Options) Rule() string {
	const commands = "EHLO, HELO, MAIL, RCPT, RSET, NOOP, VRFY, EXPN, HELP and QUIT"
	switch o.Mode {
	case DataAbort:
		return "smtp, data-abort: " + commands + "; content too, never its end; then the connection is closed, or RSET after BDAT"
	case Sink:
		return "smtp, sink: " + commands + "; whole mails to a candidate whose EHLO reply has " + Proof + " with the token, else as in mode envelope"
	case Envelope:
	}
	return "smtp, envelope: " + commands + "; no DATA, no BDAT: RSET in their place"
}

// Noise are the rules that are built in: what differs between two servers of one
// behaviour, and what excuses give another path (see [shadow.Ignore]).
func Noise() []shadow.Ignore {
	var rules []shadow.Ignore
	for _, on := range [...][2]string{
		{"greeting", "text"}, // RFC 5321, 4.2: the name of the host, and text for people
		{"EHLO", "greeting"},
		{"HELO", "text"},
		{"LHLO", "greeting"},
		{"", excuseIdentity + " *"},
		{"", excuseGreylisting + " *"},
	} {
		rules = append(rules, shadow.Ignore{Endpoint: on[0], Path: on[1], Predicate: shadow.Anything})
	}
	return rules
}

// New returns what makes a driver for each session. They share nothing but a bounded
// memory of who was greylisted, so that they may run at the same time.
//
// Options that Check refuses play as Envelope does.
func New(o Options) func(shadow.Session) shadow.Driver {
	if o.Check() != nil || o.Mode == "" {
		o.Mode = Envelope
	}
	memory := newGreylist()
	return func(s shadow.Session) shadow.Driver { return newDriver(o, s, memory) }
}
