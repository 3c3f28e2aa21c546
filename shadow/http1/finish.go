package http1

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/splitd/splitd/shadow"
)

// finish returns an exchange, and sees whether the two servers part with it.
func (s *session) finish(e *exchange) {
	s.emit(e.report(s.options, s.keep))
	e.primary.body, e.candidate.body = content{}, content{}
	switched := e.primary.head.status == 101
	if e.candidate.head.status == 101 && !switched {
		s.stale, s.early = true, nil // it speaks another protocol now, and alone
	}
	if s.tunnel != nil && switched {
		s.tunnel.begin(s, e)
		return
	}
	if e.verdict == "" && !e.safe && e.primary.class() != e.candidate.class() {
		method, _, _ := strings.Cut(e.endpoint, " ")
		s.hush(shadow.AfterDivergence, fmt.Sprintf("%s was answered %d, by the candidate %d",
			method, e.primary.head.status, e.candidate.head.status))
	}
}

// report makes values of an exchange.
func (e *exchange) report(o Options, keep int) shadow.Exchange {
	x := shadow.Exchange{
		Endpoint: e.endpoint, Verdict: e.verdict, Reason: e.reason, Safe: e.repeats(),
		Request: e.requestFields(), Primary: e.primary.timed(), Candidate: e.candidate.timed(),
	}
	if e.verdict != "" {
		return x
	}
	here, there := e.namesOf(o.PrimaryHosts), e.namesOf(o.CandidateHosts)
	if e.isValidators() {
		x.Reason = "validator-mismatch: the client's condition holds a validator of the primary"
		x.Primary.Fields, x.Candidate.Fields = e.primary.validated(), e.candidate.validated()
		return x
	}
	if e.isUnknownSession() {
		x.Reason = "the candidate does not know the client's session or credentials: is state shared?"
	}
	x.Primary.Fields = headFields(&e.primary, e, here)
	x.Candidate.Fields = headFields(&e.candidate, e, there)
	e.bodies(&x, keep)
	return x
}

// timed is a reply without its values.
func (r *reply) timed() shadow.Reply {
	return shadow.Reply{Asked: r.asked, First: r.first, Last: r.last, Bytes: r.bytes}
}

// isValidators says whether the two differ in what the client's conditions (RFC 9110,
// 13.1) come to: it has its validators from the primary, so a candidate that does
// not know them sends all again.
func (e *exchange) isValidators() bool {
	conditional := slices.ContainsFunc(e.request.headers, func(h header) bool { return strings.HasPrefix(h.name, "if-") })
	may := func(status int) bool { return status == 304 || status == 412 || status/100 == 2 }
	primary, candidate := e.primary.head.status, e.candidate.head.status
	return conditional && primary != candidate && may(primary) && may(candidate)
}

// validated is all that is told of a reply whose condition is a matter of validators;
// a built-in rule excuses it.
func (r *reply) validated() []shadow.Field {
	return []shadow.Field{{Path: "validator", Value: strconv.Itoa(r.head.status), Level: shadow.Semantic, Plain: true}}
}

// isUnknownSession says whether the candidate alone wants a client to log in that
// comes with a session or credentials.
func (e *exchange) isUnknownSession() bool {
	if !e.request.has("cookie") && !e.request.has("authorization") || e.primary.head.status/100 != 2 {
		return false
	}
	status := e.candidate.head.status
	target := strings.ToLower(e.candidate.head.first("location"))
	return status == 401 || status/100 == 3 && slices.ContainsFunc([]string{"login", "signin", "sign-in", "sign_in", "auth"}, func(s string) bool {
		return strings.Contains(target, s)
	})
}

// longRequest bounds what is told of a request.
const longRequest = 1024

// requestFields are what an operator knows a request by.
func (e *exchange) requestFields() []shadow.Field {
	if e.request.method == "" {
		return nil
	}
	fields := []shadow.Field{
		{Path: "method", Value: short(e.request.method, longRequest), Plain: isKnown(e.request.method)},
		{Path: "target", Value: short(e.request.target, longRequest)},
	}
	for _, name := range [...]string{"host", "content-type", "accept", "accept-encoding", "range"} {
		if value := e.request.first(name); value != "" {
			fields = append(fields, shadow.Field{Path: "header " + name, Value: short(value, longRequest)})
		}
	}
	if e.size > 0 {
		fields = append(fields, shadow.Field{Path: "body", Value: fmt.Sprintf("%d bytes", e.size), Plain: true})
	}
	return fields
}

// short cuts a value and says what it was.
func short(value string, most int) string {
	if len(value) <= most {
		return value
	}
	return fmt.Sprintf("%s… %d bytes, %s", strings.ToValidUTF8(value[:most/4], ""), len(value), digestOf([]byte(value)))
}

// bodies adds the values of both bodies.
func (e *exchange) bodies(x *shadow.Exchange, keep int) {
	if e.sameBytes() {
		return
	}
	here, there := bodyOf(&e.primary, keep), bodyOf(&e.candidate, keep)
	left, right := here.fields(), there.fields()
	cut := here.cut && !here.isDigested() || there.cut && !there.isDigested()
	if cut { // as far as both go
		n := min(len(left), len(right))
		left, right = left[:n], right[:n]
	}
	x.Primary.Fields = append(x.Primary.Fields, left...)
	x.Candidate.Fields = append(x.Candidate.Fields, right...)
	if cut && slices.Equal(x.Primary.Fields, x.Candidate.Fields) {
		x.Verdict = shadow.Truncated
		x.Reason = fmt.Sprintf("bodies of %d and %d bytes agree as far as they are kept, their hashes differ", e.primary.body.size, e.candidate.body.size)
	}
}

// sameBytes says whether both bodies are the same on the wire: then they mean the
// same.
func (e *exchange) sameBytes() bool {
	here, there := &e.primary, &e.candidate
	return here.body.size == there.body.size && here.body.digest() == there.body.digest() &&
		slices.Equal(codings(&here.head), codings(&there.head))
}
