package http1

import (
	"slices"
	"strconv"
	"strings"

	"github.com/splitd/splitd/shadow"
)

// cookieFields makes values of the cookies that a reply sets (RFC 6265, 4.1): their
// names and attributes. What a cookie holds is each server's own.
func cookieFields(r *reply, self names) []shadow.Field {
	var fields []shadow.Field
	for _, line := range r.head.all("set-cookie") {
		parts := strings.Split(line, ";")
		name, value, _ := strings.Cut(strings.TrimSpace(parts[0]), "=")
		fields = append(fields, shadow.Field{
			Path: "cookie " + pathName(name, shadow.ClassUUID, shadow.ClassHex, shadow.ClassToken, shadow.ClassMail, shadow.ClassIP), Value: short(cookieSays(value, parts[1:], r, self), longValue),
			Level: shadow.Semantic, Plain: true,
		})
	}
	return fields
}

// pathName masks names of cookies and headers that are made of data, as they stand in
// paths, which reports show.
func pathName(name string, data ...shadow.Class) string {
	class := shadow.ClassOf(name)
	switch {
	case isOne(class, data...):
		return "{" + string(class) + "}"
	case len(name) > 64:
		return "{" + string(shadow.ClassText) + "}"
	default:
		return name
	}
}

func cookieSays(value string, attributes []string, r *reply, self names) string {
	var says []string
	life := "session"
	for _, attribute := range attributes {
		name, text, _ := strings.Cut(strings.TrimSpace(attribute), "=")
		switch name = strings.ToLower(name); name {
		case "":
		case "max-age":
			if n, err := strconv.ParseInt(text, 10, 64); err == nil {
				life = map[bool]string{true: "lasting", false: "deleted"}[n > 0]
			}
		case "expires": // Max-Age has precedence
			if expires, ok := cookieDate(text, r); ok && life == "session" {
				life = expires
			}
		case "domain":
			says = append(says, "domain="+self.mappedHost(strings.TrimPrefix(strings.ToLower(text), ".")))
		case "samesite":
			says = append(says, "samesite="+oneOf(strings.ToLower(text), "strict", "lax", "none"))
		case "path":
			says = append(says, "path="+cookiePath(text))
		case "priority":
			says = append(says, "priority="+oneOf(strings.ToLower(text), "low", "medium", "high"))
		default:
			says = append(says, oneOf(name, "secure", "httponly", "partitioned"))
		}
	}
	says = append(says, life)
	if value == "" && life != "deleted" {
		says = append(says, "empty")
	}
	slices.Sort(says)
	return strings.Join(says, "; ")
}

// oneOf is a word that is known, or says that it is another: clients leave out what
// they do not know (RFC 6265, 5.2), and it may be anybody's.
func oneOf(word string, known ...string) string {
	if slices.Contains(known, word) {
		return word
	}
	return "another"
}

// cookiePath is a path with what looks like data by its class, as in endpoints.
func cookiePath(path string) string {
	segments := strings.Split(path, "/")
	for i, segment := range segments {
		segments[i] = segmentName(segment)
	}
	return strings.Join(segments, "/")
}

// cookieDate says what an expiry makes of a cookie. Servers also write it as it was
// before RFC 1123.
func cookieDate(text string, r *reply) (string, bool) {
	expires, ok := httpDate(strings.Join(strings.Split(text, "-"), " "))
	if !ok {
		if expires, ok = httpDate(text); !ok {
			return "", false
		}
	}
	if now, dated := httpDate(r.head.first("date")); dated && !expires.After(now) || expires.Year() < 2000 {
		return "deleted", true
	}
	return "lasting", true
}
