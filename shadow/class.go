package shadow

import (
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// A Class is what kind of thing a value is, told from how it is written.
type Class string

// The classes.
const (
	ClassEmpty   Class = "empty"
	ClassNull    Class = "null"
	ClassBoolean Class = "boolean"
	ClassInteger Class = "integer"
	ClassDecimal Class = "decimal"
	ClassEpoch   Class = "epoch" // seconds or milliseconds since 1970, of our days
	ClassTime    Class = "time"  // RFC 3339, also without its T, zone or time of day
	ClassDate    Class = "date"  // HTTP's (RFC 9110, 5.6.7) and mail's (RFC 5322, 3.3)
	ClassUUID    Class = "uuid"  // RFC 9562
	ClassHex     Class = "hex"   // eight digits or more, in one case
	ClassToken   Class = "token" // letters and digits mixed, as queue ids and session ids are
	ClassIP      Class = "ip"
	ClassMail    Class = "mail" // an address of mail
	ClassHost    Class = "host" // a name with a dot
	ClassURL     Class = "url"
	ClassOwn     Class = "own url" // of the server itself, which drivers write {host}
	ClassText    Class = "text"
)

// longestClassed bounds the work: what is longer is text.
const longestClassed = 512

// ClassOf says what a value is. In the quotes of a JSON string it is what is in
// them, but no number: "5" is text.
func ClassOf(value string) Class {
	if inner, ok := unquote(value); ok {
		class := classOf(inner)
		if slices.Contains([]Class{ClassNull, ClassBoolean, ClassInteger, ClassDecimal}, class) {
			return ClassText
		}
		return class
	}
	return classOf(value)
}

func unquote(value string) (string, bool) {
	if len(value) < 2 || value[0] != '"' || value[len(value)-1] != '"' {
		return value, false
	}
	return value[1 : len(value)-1], true
}

func classOf(value string) Class {
	switch {
	case value == "":
		return ClassEmpty
	case len(value) > longestClassed:
		return ClassText
	case value == "null":
		return ClassNull
	case value == "true", value == "false":
		return ClassBoolean
	}
	tests := [...]struct {
		class Class
		is    func(string) bool
	}{
		{ClassEpoch, isEpoch},
		{ClassInteger, isInteger},
		{ClassDecimal, isDecimal},
		{ClassUUID, isUUID},
		{ClassTime, isTime},
		{ClassDate, isDate},
		{ClassIP, isIP},
		{ClassHex, isHex},
		{ClassMail, isMail},
		{ClassOwn, isOwn},
		{ClassURL, isURL},
		{ClassHost, isHost},
		{ClassToken, isToken},
	}
	for _, t := range tests {
		if t.is(value) {
			return t.class
		}
	}
	return ClassText
}

// Alike says whether two values are of one class. Of ids of one length one may
// happen to be of digits alone, so those are alike whatever they look like.
func Alike(a, b string) bool {
	left, right := ClassOf(a), ClassOf(b)
	return left == right || len(a) == len(b) && len(a) >= shortestID && isID(left) && isID(right)
}

func isID(class Class) bool {
	return slices.Contains([]Class{ClassHex, ClassToken, ClassInteger, ClassEpoch}, class)
}

// number is the value as a number; times are seconds since 1970.
func number(value string) (float64, bool) {
	value, _ = unquote(value)
	if isDecimal(value) {
		n, err := strconv.ParseFloat(value, 64)
		return n, err == nil
	}
	if t, ok := parseAny(value, timeLayouts()); ok {
		return float64(t.UnixNano()) / 1e9, true
	}
	t, ok := parseAny(value, dateLayouts())
	return float64(t.UnixNano()) / 1e9, ok
}

func isInteger(value string) bool {
	digits := strings.TrimPrefix(value, "-")
	return digits != "" && strings.Trim(digits, "0123456789") == ""
}

// isEpoch knows times between 2014 and 2039.
func isEpoch(value string) bool {
	if len(value) != 10 && len(value) != 13 || !isInteger(value) {
		return false
	}
	return value[:10] >= "1400000000" && value[:10] < "2200000000"
}

func isDecimal(value string) bool {
	if strings.Trim(value, "0123456789.eE+-") != "" {
		return false
	}
	_, err := strconv.ParseFloat(value, 64)
	return err == nil
}

func isUUID(value string) bool {
	value = strings.TrimPrefix(value, "urn:uuid:")
	if len(value) != 36 {
		return false
	}
	for i := range len(value) {
		if i == 8 || i == 13 || i == 18 || i == 23 {
			if value[i] != '-' {
				return false
			}
		} else if !isHexDigit(value[i]) {
			return false
		}
	}
	return true
}

func isHexDigit(c byte) bool {
	return c >= '0' && c <= '9' || c >= 'a' && c <= 'f' || c >= 'A' && c <= 'F'
}

// shortestID is where a word of letters and digits begins to look like an id.
const shortestID = 8

func isHex(value string) bool {
	if len(value) < shortestID || strings.Trim(value, "0123456789abcdef") != "" && strings.Trim(value, "0123456789ABCDEF") != "" {
		return false
	}
	return strings.ContainsAny(value, "0123456789") // or it may be a word
}

// isToken looks for letters and digits that change places twice: 4XkWz01JqMz9sQ7
// does, version-12 does not.
func isToken(value string) bool {
	if len(value) < shortestID {
		return false
	}
	changes, last := 0, byte(0)
	for i := range len(value) {
		kind := tokenKind(value[i])
		if kind == 0 {
			return false
		}
		if kind == '-' {
			continue
		}
		if last != 0 && kind != last {
			changes++
		}
		last = kind
	}
	return changes >= 2
}

// tokenKind is '0' for digits, 'a' for letters, '-' for what else tokens have
// (RFC 4648, RFC 6265), 0 for all else.
func tokenKind(c byte) byte {
	switch {
	case c >= '0' && c <= '9':
		return '0'
	case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z':
		return 'a'
	case strings.IndexByte("-_+/=.~", c) >= 0:
		return '-'
	default:
		return 0
	}
}

func timeLayouts() []string {
	return []string{
		time.RFC3339, "2006-01-02T15:04:05", "2006-01-02 15:04:05", "2006-01-02 15:04:05Z07:00",
		"2006-01-02T15:04:05-0700", time.DateOnly,
	}
}

func dateLayouts() []string {
	return []string{
		"Mon, 2 Jan 2006 15:04:05 MST", "Mon, 2 Jan 2006 15:04:05 -0700", "Mon, 2 Jan 2006 15:04:05 -0700 (MST)",
		"2 Jan 2006 15:04:05 -0700", time.RFC850, time.ANSIC,
	}
}

func parseAny(value string, layouts []string) (time.Time, bool) {
	for _, layout := range layouts {
		if t, err := time.Parse(layout, value); err == nil {
			return t, true
		}
	}
	return time.Time{}, false
}

func isTime(value string) bool {
	if len(value) < len(time.DateOnly) || value[4] != '-' || value[7] != '-' {
		return false
	}
	_, ok := parseAny(value, timeLayouts())
	return ok
}

func isDate(value string) bool {
	if strings.Count(value, ":") != 2 || !strings.Contains(value, " ") {
		return false
	}
	_, ok := parseAny(value, dateLayouts())
	return ok
}

func isIP(value string) bool {
	if strings.Trim(value, "0123456789abcdefABCDEF.:[]%/") != "" && !strings.Contains(value, "%") {
		return false
	}
	inner := strings.TrimSuffix(strings.TrimPrefix(value, "["), "]")
	if _, err := netip.ParseAddr(inner); err == nil {
		return true
	}
	if _, err := netip.ParsePrefix(value); err == nil {
		return true
	}
	_, err := netip.ParseAddrPort(value)
	return err == nil
}

func isMail(value string) bool {
	if inner, ok := strings.CutPrefix(value, "<"); ok {
		value = strings.TrimSuffix(inner, ">")
	}
	local, domain, ok := strings.Cut(value, "@")
	return ok && local != "" && !strings.ContainsAny(local, " \t<>,;:/?") && (isHost(domain) || isIP(domain) || domain == "localhost")
}

func isURL(value string) bool {
	if !strings.Contains(value, "://") || strings.ContainsAny(value, " \t") {
		return false
	}
	u, err := url.Parse(value)
	return err == nil && u.Scheme != "" && u.Host != ""
}

func isOwn(value string) bool {
	_, behind, ok := strings.Cut(value, "://{host}")
	return ok && (behind == "" || behind[0] == '/') && !strings.ContainsAny(value, " \t")
}

// isHost wants a name with a dot whose last label is of letters, or of a script of
// its own (RFC 1123, 2.1: else it might be an address; RFC 5890, 2.3.2.1).
func isHost(value string) bool {
	name := strings.TrimSuffix(value, ".")
	last := name[strings.LastIndexByte(name, '.')+1:]
	if len(name) > 253 || last == name || len(last) < 2 || !isLetters(last) && !strings.HasPrefix(last, "xn--") {
		return false
	}
	for label := range strings.SplitSeq(name, ".") {
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' {
			return false
		}
		for i := range len(label) {
			if c := label[i]; c != '-' && c != '_' && tokenKind(c) != 'a' && tokenKind(c) != '0' {
				return false
			}
		}
	}
	return true
}

func isLetters(value string) bool {
	for i := range len(value) {
		if tokenKind(value[i]) != 'a' {
			return false
		}
	}
	return true
}
