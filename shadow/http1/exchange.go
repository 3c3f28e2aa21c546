package http1

import (
	"strings"

	"github.com/splitd/splitd/shadow"
)

// An exchange is a request and what has come of its replies.
type exchange struct {
	endpoint string
	request  head
	safe     bool
	// verdict is why it is not to be compared; settled, that nothing is waited for.
	verdict shadow.Verdict
	reason  string
	settled bool

	asked  bool // the request is whole
	unsent []byte
	body   []byte // unsent too, and not before the candidate says 100 Continue when waits
	waits  bool
	speaks bool   // some of its body has come
	sent   []byte // what the candidate has, while it may be sent again
	again  bool   // it was
	size   int64  // of the request's body

	primary, candidate reply
}

// overhead is what an exchange costs beside what it keeps.
const overhead = 1024

func (e *exchange) held() int {
	n := overhead + cap(e.unsent) + cap(e.body) + cap(e.sent) + len(e.request.target)
	for _, line := range e.request.headers {
		n += len(line.name) + len(line.value) + 32
	}
	return n + e.primary.held() + e.candidate.held()
}

// upgrades says whether the client asks for another protocol.
func (e *exchange) upgrades() bool {
	return e.request.minor == 1 && e.request.has("upgrade") && e.request.lists("connection", "upgrade")
}

// expects says whether the client may wait for 100 Continue (RFC 9110, 10.1.1).
func (e *exchange) expects() bool {
	return e.request.minor == 1 && strings.EqualFold(e.request.first("expect"), "100-continue")
}

// finished says whether nothing of it is to come.
func (e *exchange) finished() bool {
	return e.settled || e.primary.whole && (e.verdict != "" || e.candidate.whole)
}

func (e *exchange) give(verdict shadow.Verdict, reason string) {
	if e.verdict == "" {
		e.verdict, e.reason = verdict, reason
	}
	e.unsent, e.body, e.sent = nil, nil, nil
	e.primary.body = content{size: e.primary.body.size}
}
