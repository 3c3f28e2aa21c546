package smtp

import (
	"slices"
	"strconv"
	"strings"

	"github.com/splitd/splitd/shadow"
)

// Bounds of an EHLO reply: what is beyond them is one field.
const (
	mostKeywords   = 64
	longestKeyword = 64
)

// fieldsOf makes values of the replies to one command, as far as there are any.
func fieldsOf(s *step) (primary, candidate []shadow.Field) {
	level := shadow.Semantic
	if s.primary != nil && s.candidate != nil && s.primary.code/100 != s.candidate.code/100 {
		level = shadow.Decision
	}
	w := words{verb: s.command.verb, request: s.words()}
	if s.primary != nil {
		primary = w.fields(s.primary, level)
	}
	switch {
	case s.candidate == nil:
	case s.primary != nil && slices.Equal(s.primary.lines, s.candidate.lines) && s.primary.code == s.candidate.code:
		candidate = slices.Clone(primary) // masking is most of the work
	default:
		candidate = w.fields(s.candidate, level)
	}
	return primary, candidate
}

// words makes the fields of one reply.
type words struct {
	verb    string
	request []string // what of the client's own may come back in the text
}

func (w words) fields(r *reply, level shadow.Level) []shadow.Field {
	fields := []shadow.Field{{Path: "code", Value: strconv.Itoa(r.code), Level: level, Plain: true}}
	if (w.verb == "EHLO" || w.verb == "LHLO") && r.accepts() {
		return append(append(fields, w.text("greeting", r.lines[:min(1, len(r.lines))])), keywordsOf(r)...)
	}
	if enhanced := r.enhanced(); enhanced != "" {
		fields = append(fields, shadow.Field{Path: "enhanced", Value: enhanced, Level: shadow.Semantic, Plain: true})
	}
	return append(fields, w.text("text", r.lines))
}

func (w words) text(path string, lines []string) shadow.Field {
	parts := make([]string, 0, len(lines))
	for _, line := range lines {
		_, text := cutEnhanced(line)
		parts = append(parts, text)
	}
	return shadow.Field{
		Path: path, Value: maskText(strings.Join(parts, " "), w.verb, w.request), Level: shadow.Text,
		Plain: w.verb != "VRFY" && w.verb != "EXPN", // which answer with people
	}
}

// enhanced is the code x.y.z of a reply (RFC 2034, RFC 3463), as its last line has
// it.
func (r *reply) enhanced() string {
	if len(r.lines) == 0 {
		return ""
	}
	code, _ := cutEnhanced(r.lines[len(r.lines)-1])
	return code
}

func cutEnhanced(line string) (code, text string) {
	word, rest, _ := strings.Cut(line, " ")
	parts := strings.Split(word, ".")
	if len(parts) != 3 || len(parts[0]) != 1 || !strings.Contains("245", parts[0]) {
		return "", line
	}
	for _, p := range parts[1:] {
		if len(p) == 0 || len(p) > 3 || strings.Trim(p, "0123456789") != "" {
			return "", line
		}
	}
	return word, rest
}

// offers are the extensions of an EHLO reply (RFC 5321, 4.1.1.1).
func (r *reply) offers() map[string]bool {
	offered := make(map[string]bool)
	if !r.accepts() {
		return offered
	}
	for i, line := range r.lines {
		if keyword, _ := cutKeyword(line); i > 0 && len(offered) < mostKeywords {
			offered[keyword] = true
		}
	}
	return offered
}

// proves says whether an EHLO reply has the token of a sink.
func (r *reply) proves(token string) bool {
	if token == "" || r.code/100 != 2 {
		return false
	}
	return slices.ContainsFunc(r.lines[min(1, len(r.lines)):], func(line string) bool {
		keyword, parameters := cutKeyword(line)
		return keyword == Proof && len(parameters) == 1 && parameters[0] == token
	})
}

// cutKeyword reads a line of an EHLO reply. AUTH= is what Microsoft's servers once
// said and is offered for old clients, beside AUTH.
func cutKeyword(line string) (keyword string, parameters []string) {
	fields := strings.Fields(line)
	if len(fields) == 0 {
		return "", nil
	}
	keyword = strings.ToUpper(fields[0])
	if mechanism, ok := strings.CutPrefix(keyword, "AUTH="); ok {
		return "AUTH", append([]string{mechanism}, fields[1:]...)
	}
	return keyword, fields[1:]
}

// keywordsOf are the extensions as values, each by its type. The same ones in
// another order are the same.
func keywordsOf(r *reply) []shadow.Field {
	var fields []shadow.Field
	seen := make(map[string]bool)
	for i, line := range r.lines {
		keyword, parameters := cutKeyword(line)
		if i == 0 || keyword == Proof {
			continue
		}
		if len(seen) >= mostKeywords && !seen[keyword] || !isKeyword(keyword) {
			keyword, parameters = "malformed", []string{"offered"}
		}
		seen[keyword] = true
		for _, f := range keywordFields(keyword, parameters) {
			if !slices.Contains(fields, f) {
				fields = append(fields, f)
			}
		}
	}
	return fields
}

// keywordFields are the values of one keyword.
func keywordFields(keyword string, parameters []string) []shadow.Field {
	f := shadow.Field{Path: "keyword " + keyword, Level: shadow.Semantic, Set: true, Plain: true}
	switch keyword {
	case "SIZE": // RFC 1870, 3: 0 and no number are no limit
		f.Value = "0"
		if len(parameters) > 0 {
			f.Value = cleanNumber(parameters[0])
		}
		return []shadow.Field{f}
	case "XCLIENT", "XFORWARD": // offered by who asks, which we are and the client is not
		f.Path = excuseIdentity + " " + f.Path
	case "AUTH", "LIMITS", "BURL":
	default:
		parameters = []string{strings.Join(parameters, " ")}
	}
	if strings.Join(parameters, "") == "" {
		f.Value = "offered"
		return []shadow.Field{f}
	}
	var fields []shadow.Field
	for _, p := range parameters {
		f.Value = p
		if keyword == "AUTH" {
			f.Value = strings.ToUpper(p) // RFC 4422, 3.1
		}
		fields = append(fields, f)
	}
	return fields
}

func cleanNumber(digits string) string {
	if n, err := strconv.ParseUint(digits, 10, 64); err == nil {
		return strconv.FormatUint(n, 10)
	}
	return digits
}

func isKeyword(keyword string) bool {
	return keyword != "" && len(keyword) <= longestKeyword &&
		strings.Trim(keyword, "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-") == ""
}
