package smtp

import (
	"regexp"
	"strings"

	"github.com/splitd/splitd/shadow"
)

// What differs in wording by itself, where only the words around it tell what it
// is. The forms are those of the servers' own sources and documents.
func masks() []mask {
	return []mask{
		{regexp.MustCompile(`(?i)\b(queued as|queue id|qid|queueid|msgid|id)(=|: ?| )<?[0-9A-Za-z._@-]*[0-9][0-9A-Za-z._@-]*>?`), "$1$2<id>"},
		{regexp.MustCompile(`(?i)\b(queued as|id=)( ?)[A-Z]{8,}\b`), "$1$2<id>"}, // a queue id of Postfix without a digit
		{regexp.MustCompile(`(?i)\b(InternalId|Hostname)=[^],; ]+`), "$1=<id>"},  // Exchange
		{regexp.MustCompile(`\b[0-9]+ bytes in [0-9.]+, [0-9.]+ KB/sec`), "<size and speed>"},
		{regexp.MustCompile(`^[0-9A-Za-z]{8,24} (Message accepted for delivery)`), "<id> $1"},                                  // sendmail, OpenSMTPD
		{regexp.MustCompile(`\bok [0-9]+ qp [0-9]+`), "ok <id> qp <id>"},                                                       // qmail
		{regexp.MustCompile(`^(OK) +[0-9]+ [0-9a-zA-Z._-]+ - gsmtp`), "$1 <id> - gsmtp"},                                       // Google
		{regexp.MustCompile(`\b[0-9A-Za-z]{6}-[0-9A-Za-z]{6}(?:[0-9A-Za-z]{5})?-[0-9A-Za-z]{2}(?:[0-9A-Za-z]{2})?\b`), "<id>"}, // Exim, before 4.97 and since
		{regexp.MustCompile(`(?i)\bpid[ =:]*[0-9]+`), "pid <id>"},
		{regexp.MustCompile(`(?i)\bIPv6:([0-9a-f:.]+)`), "$1"}, // RFC 5321, 4.1.3: the address is masked as one
	}
}

// A mask is a form of wording, and what is compared in its place.
type mask struct {
	form *regexp.Regexp
	by   string
}

var (
	compiled  = masks()
	timeOfDay = regexp.MustCompile(`\b[0-9]{1,2}:[0-9]{2}:[0-9]{2}\b`)
)

// maskText is wording without what differs by itself, and without what the client
// has said.
func maskText(text, verb string, request []string) string {
	text = strings.ToValidUTF8(text, "?")
	if namesItself(verb) {
		// RFC 5321, 4.2: the server's own name, which may have no dot. Of QUIT many
		// leave it out.
		if _, rest, ok := strings.Cut(text, " "); ok || verb != "QUIT" {
			text = "<host> " + rest
		}
	}
	for _, said := range request {
		text = strings.ReplaceAll(text, said, "<asked>")
	}
	if !strings.ContainsAny(text, "0123456789=") && !strings.Contains(text, "ueued as") {
		return shadow.Mask(text) // the forms below have one of these
	}
	for _, m := range compiled {
		text = m.form.ReplaceAllString(text, m.by)
	}
	return timeOfDay.ReplaceAllString(shadow.Mask(text), "<time>")
}

// namesItself says whether replies begin with the server's name.
func namesItself(verb string) bool { return verb == greeting || verb == "QUIT" || hello(verb) }
