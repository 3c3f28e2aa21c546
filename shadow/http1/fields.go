package http1

import (
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/splitd/splitd/shadow"
)

// Noise are the rules that are built in, of what is no fault of a candidate but listed as
// noise: headers that name who has answered, on which way and as which of all
// answers (their values are not compared at all, but that one server alone has
// them), how a body is coded, and validators that only the primary can know.
func Noise() []shadow.Ignore {
	rules := make([]shadow.Ignore, 0, len(personal()))
	for _, name := range personal() {
		rules = append(rules, shadow.Ignore{Path: "header " + name, Predicate: shadow.Anything})
	}
	for _, path := range [...]string{"coding", "validator"} {
		rules = append(rules, shadow.Ignore{Path: path, Predicate: shadow.Anything})
	}
	return rules
}

func personal() []string {
	return []string{
		"server", "via", "age", "alt-svc", "nel", "report-to", "server-timing",
		"cf-ray", "cf-cache-status", "x-cache", "x-cache-hits", "x-served-by", "x-timer", "x-varnish", "x-runtime", "x-response-time",
		"request-id", "x-request-id", "x-correlation-id", "x-trace-id", "x-github-request-id", "x-ms-request-id",
		"traceparent", "tracestate", "x-cloud-trace-context", "x-amzn-trace-id", "x-b3-traceid", "x-b3-spanid", "x-b3-sampled",
		"x-amz-cf-id", "x-amz-id-2", "x-amz-request-id", "x-amzn-requestid", "x-csrf-token",
	}
}

// unnamed are headers that say nothing by themselves: of one connection alone (RFC
// 9110, 7.6.1), or compared as something else.
func unnamed(name string) bool {
	switch name {
	case "connection", "keep-alive", "proxy-connection", "transfer-encoding", "te", "trailer", "upgrade",
		"content-length", "content-encoding", "set-cookie":
		return true
	default:
		return false
	}
}

// isSet knows the headers that are lists whose order means nothing.
func isSet(name string) bool {
	switch name {
	case "allow", "accept-ranges", "accept-patch", "accept-post", "cache-control", "content-language", "pragma", "vary",
		"access-control-allow-methods", "access-control-allow-headers", "access-control-expose-headers", "clear-site-data",
		"timing-allow-origin", "permissions-policy", "x-robots-tag":
		return true
	default:
		return false
	}
}

// isPlain knows the headers whose values are the protocol's, and no user's.
func isPlain(name string) bool {
	switch name {
	case "content-type", "accept-ranges", "allow", "cache-control", "vary", "pragma", "date", "expires", "last-modified", "etag",
		"strict-transport-security", "x-frame-options", "x-content-type-options", "referrer-policy",
		"access-control-allow-methods", "access-control-allow-credentials", "access-control-max-age", "retry-after":
		return true
	default:
		return false
	}
}

// headFields makes values of a reply's head and trailer.
func headFields(r *reply, e *exchange, self names) []shadow.Field {
	fields := []shadow.Field{
		{Path: "class", Value: r.class(), Level: shadow.Decision, Plain: true},
		{Path: "status", Value: strconv.Itoa(r.head.status), Level: shadow.Semantic, Plain: true},
		{Path: "version", Value: "HTTP/1." + strconv.Itoa(r.head.minor), Level: shadow.Shape, Plain: true},
		{Path: "connection", Value: r.connection(e), Level: shadow.Semantic, Plain: true},
	}
	for _, status := range r.interim {
		if status != 100 && status != 102 { // both come or not as time will have it
			fields = append(fields, shadow.Field{Path: "interim", Value: strconv.Itoa(status), Level: shadow.Semantic, Set: true, Plain: true})
		}
	}
	if r.head.status == 101 {
		upgrade := strings.ToLower(r.head.first("upgrade"))
		fields = append(fields, shadow.Field{Path: "header upgrade", Value: short(upgrade, longValue), Level: shadow.Semantic, Plain: upgrade == "websocket" || upgrade == "h2c"})
	}
	if r.body.size > 0 {
		fields = append(fields, shadow.Field{Path: "coding", Value: shownCodings(&r.head), Level: shadow.Shape, Plain: true})
	}
	fields = append(fields, lineFields("header ", r.head.headers, r, self)...)
	fields = append(fields, lineFields("trailer ", r.trailer, r, self)...)
	return append(fields, cookieFields(r, self)...)
}

// connection says whether the server keeps the connection. Where the client ends it
// nobody asks the server.
func (r *reply) connection(e *exchange) string {
	if !e.request.persists() || r.head.persists() && !r.endless {
		return "open"
	}
	return "close"
}

func lineFields(prefix string, lines []header, r *reply, self names) []shadow.Field {
	var fields []shadow.Field
	for _, name := range namesIn(lines) {
		if unnamed(name) {
			continue
		}
		like := shadow.Field{Path: prefix + pathName(name, shadow.ClassUUID, shadow.ClassHex), Level: shadow.Semantic, Set: isSet(name), Plain: isPlain(name)}
		for _, value := range lineValues(name, allOf(lines, name), r, self) {
			field := like
			field.Value = short(value, longValue)
			field.Plain = field.Plain && (name != "content-type" || isCharsetAlone(value))
			fields = append(fields, field)
		}
	}
	return fields
}

func namesIn(lines []header) []string {
	all := make([]string, 0, len(lines))
	for _, line := range lines {
		all = append(all, line.name)
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// lineValues are what the lines of one name say, each thing in one way.
func lineValues(name string, values []string, r *reply, self names) []string {
	switch {
	case slices.Contains(personal(), name):
		return []string{"<any>"}
	case name == "vary":
		return slices.DeleteFunc(setOf(values), func(s string) bool { return s == "accept-encoding" }) // as coding
	case isSet(name):
		return setOf(values)
	}
	one := strings.Join(values, ", ")
	switch name {
	case "date", "last-modified":
		return []string{dateShape(one)}
	case "expires":
		return []string{expiry(one, r.head.first("date"))}
	case "etag":
		return []string{strength(one)}
	case "retry-after":
		if shadow.ClassOf(one) == shadow.ClassDate {
			return []string{"<date>"}
		}
	case "content-type":
		return []string{mediaType(one)}
	case "location", "content-location":
		return []string{self.location(one)}
	case "www-authenticate", "proxy-authenticate":
		return maskEach(members(values), "nonce=", "opaque=")
	case "content-security-policy", "content-security-policy-report-only", "strict-transport-security":
		return directives(values)
	case "link":
		list := members(values)
		for i, member := range list {
			list[i] = self.mapped(member)
		}
		return list
	case "refresh", "access-control-allow-origin":
		return []string{self.mapped(one)}
	}
	return values
}

func setOf(values []string) []string {
	list := members(values)
	for i, member := range list {
		list[i] = strings.ToLower(member)
	}
	slices.Sort(list)
	return slices.Compact(list)
}

func directives(values []string) []string {
	var list []string
	for _, value := range values {
		for directive := range strings.SplitSeq(value, ";") {
			words := strings.Fields(directive)
			for i, word := range words {
				if strings.HasPrefix(word, "'nonce-") {
					words[i] = "'nonce-<any>'"
				}
			}
			if len(words) > 0 {
				list = append(list, strings.Join(words, " "))
			}
		}
	}
	slices.Sort(list)
	return list
}

// maskEach masks parameters that are made anew for each reply.
func maskEach(list []string, params ...string) []string {
	for i, member := range list {
		for _, param := range params {
			if at := strings.Index(strings.ToLower(member), param); at >= 0 {
				list[i] = member[:at] + param + "<any>"
			}
		}
	}
	return list
}

// isCharsetAlone says whether a media type has no parameter beside its charset and
// its boundary: name= is a file of somebody.
func isCharsetAlone(mediaType string) bool {
	for i, param := range strings.Split(mediaType, "; ") {
		if i > 0 && !strings.HasPrefix(param, "charset=") && param != "boundary=<any>" {
			return false
		}
	}
	return true
}

func dateShape(value string) string {
	if _, ok := httpDate(value); ok {
		return "<date>"
	}
	return "no date"
}

// expiry says whether a reply is stale when it comes: also by what is no date (RFC
// 9111, 5.3).
func expiry(value, date string) string {
	expires, ok := httpDate(value)
	now, dated := httpDate(date)
	if !ok || dated && !expires.After(now) || !dated && expires.Unix() <= 0 {
		return "at once"
	}
	return "<date>"
}

func httpDate(value string) (time.Time, bool) {
	for _, layout := range [...]string{"Mon, 02 Jan 2006 15:04:05 GMT", time.RFC850, time.ANSIC, time.RFC1123Z} {
		if t, err := time.Parse(layout, value); err == nil {
			return t, true
		}
	}
	return time.Time{}, false
}

func strength(etag string) string {
	if strings.HasPrefix(etag, "W/") {
		return "weak"
	}
	return "strong"
}

// mediaType is a content type with its parameters, but the boundary, which is made
// anew for each reply.
func mediaType(value string) string {
	parts := splitQuoted(value, ';')
	out := strings.ToLower(strings.TrimSpace(parts[0]))
	var params []string
	for _, param := range parts[1:] {
		name, text, _ := strings.Cut(strings.TrimSpace(param), "=")
		name = strings.ToLower(strings.TrimSpace(name))
		text = strings.Trim(strings.TrimSpace(text), `"`)
		switch name {
		case "":
			continue
		case "boundary":
			text = "<any>"
		case "charset":
			text = strings.ToLower(text)
		}
		params = append(params, name+"="+text)
	}
	slices.Sort(params)
	return strings.Join(append([]string{out}, params...), "; ")
}
