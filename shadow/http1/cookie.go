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
			Path: "cookie " + short(cookieName(name), 64), Value: short(cookieSays(value, parts[1:], r, self), longValue),
			Level: shadow.Semantic, Plain: true,
		})
	}
	return fields
}

// cookieName masks names that are made of data.
func cookieName(name string) string {
	if class := shadow.ClassOf(name); isOne(class, shadow.ClassUUID, shadow.ClassHex, shadow.ClassToken) {
		return "{" + string(class) + "}"
	}
	return name
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
			says = append(says, "samesite="+strings.ToLower(text))
		case "path":
			says = append(says, "path="+text)
		default:
			says = append(says, name)
		}
	}
	says = append(says, life)
	if value == "" && life != "deleted" {
		says = append(says, "empty")
	}
	slices.Sort(says)
	return strings.Join(says, "; ")
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
