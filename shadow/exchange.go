package shadow

import "time"

// A Verdict is what became of an exchange: how its replies compare, or why they
// were not compared. Each exchange has exactly one, so the numbers of all add up.
type Verdict string

// The verdicts. The first three are of compared exchanges.
const (
	Match    Verdict = "match"
	Mismatch Verdict = "mismatch"
	Noise    Verdict = "noise" // differs in nothing but what differs by itself, or may

	Skipped         Verdict = "skipped"          // not sent: the protocol's rule does not allow it
	Opaque          Verdict = "opaque"           // not understood: encrypted, or against the protocol
	Truncated       Verdict = "truncated"        // longer than what is kept to compare
	Dropped         Verdict = "dropped"          // over a budget, or the breaker was open
	AfterDivergence Verdict = "after_divergence" // the dialogues had parted before
	CandidateError  Verdict = "candidate_error"  // no reply of the candidate; a difference too
	PrimaryError    Verdict = "primary_error"    // no reply of the primary
)

// An Exchange is one request and its replies inside a flow: the unit that is
// compared.
type Exchange struct {
	// Endpoint is what was asked for, of a bounded number of kinds: "RCPT",
	// "GET /users/{id}".
	Endpoint string
	// Verdict is empty when the replies are to be compared, else why not; Reason says
	// more to an operator, with an offset in bytes where one helps.
	Verdict Verdict
	Reason  string
	// Safe says that asking it again changes nothing, and that no client feels it.
	Safe bool
	// Request is what an operator needs to know it again; it is not compared.
	Request []Field
	// Primary and Candidate are the replies. Without a verdict both are whole.
	Primary, Candidate Reply
}

// A Reply is a server's answer as values.
type Reply struct {
	Fields []Field
	// Asked is when the request was with the server, First and Last when the first
	// and the last byte of the reply came; zero where they did not.
	Asked, First, Last time.Time
	Bytes              int64
}

// A Field is one named value of a reply. Several of one path are a list; its order
// is that of the fields.
type Field struct {
	// Path names it within the endpoint: "code", "keyword SIZE", "header etag",
	// "body $.items[].price". Indices of lists are left out.
	Path string
	// Value is canonical: two that mean the same are the same string. Of JSON it is
	// the literal, so that the string "5" and the number 5 differ in their class.
	Value string
	// Number says that it is one, so that 10 and 10.0 are the same, although of two
	// classes: whoever writes prices with a point writes 10.0 beside 12.5.
	Number bool
	// Level is how heavy a difference in it weighs.
	Level Level
	// Set says that the order among the fields of this path means nothing.
	Set bool
	// Plain says that the value is the protocol's and no user's (a code, a keyword, a
	// limit), so reports may show it. All others they mask by class, unless samples
	// are full.
	Plain bool
}

// A Level is how heavy a difference weighs, the heavier the greater.
type Level uint8

// The levels.
const (
	Text     Level = iota // wording for people
	Shape                 // what kind of value it is
	Semantic              // what the reply says
	Decision              // whether it says yes or no: "verdict" in reports
)

func (l Level) String() string {
	return [...]string{"text", "shape", "semantic", "verdict"}[min(l, Decision)]
}
