package http1

import "github.com/splitd/splitd/shadow"

// once says why the primary, or another server in its place, is not asked a request a
// second time, empty when it may be. That is to learn what differs by itself, and no
// client may feel it: where a request has a session, the second one may come from
// another address than the session is bound to, use up what is shown once, or replace
// what a form has to bring back.
func (e *exchange) once() string {
	const not = ": not asked a second time"
	h := &e.request
	switch {
	case !e.safe:
		return "it may change something" + not
	case h.has("cookie"):
		return "it has a client's session (Cookie)" + not
	case h.has("authorization") || h.has("proxy-authorization"):
		return "it has a client's credentials" + not
	case h.has("upgrade"):
		return "it asks for another protocol (Upgrade)" + not
	case h.has("transfer-encoding") || h.has("content-length") && h.first("content-length") != "0":
		return "it has a body" + not
	default:
		return ""
	}
}

// spent says why what was answered so is not asked a second time, empty when it may
// be. Redirects end logins: an authorization code that is used twice takes away what
// it has given (RFC 6749, 4.1.2). Refusals of who somebody is, or of how often he
// comes, are counted. And who fails is not asked more.
func (r *reply) spent() string {
	const not = ": not asked a second time"
	switch status := r.head.status; {
	case status/100 == 3 && status != 304:
		return "the primary has answered with a redirect" + not
	case status == 401 || status == 403 || status == 407 || status == 429:
		return "the primary has refused it" + not
	case status/100 == 5:
		return "the primary has failed" + not
	default:
		return ""
	}
}

// repeats says whether what was asked and answered so may be asked a second time.
func (e *exchange) repeats() bool { return e.once() == "" && e.primary.spent() == "" }

// spare is told that the primary's reply is whole, and decides whether the control is
// asked as well.
func (s *session) spare(e *exchange) {
	if !s.control || e.verdict != "" {
		return
	}
	if why := e.primary.spent(); why != "" {
		e.give(shadow.Skipped, why)
	} else if s.again != nil && !s.again(e.endpoint) {
		e.give(shadow.Skipped, "its endpoint was asked twice often enough")
	}
}
