package shadow

import (
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Show is what a report says of a value: itself where it is the protocol's or says
// nothing of anybody, else its class: "<uuid>".
func Show(value string, plain bool) string {
	if plain {
		return value
	}
	class := ClassOf(value)
	if slices.Contains([]Class{ClassEmpty, ClassNull, ClassBoolean}, class) || class == ClassInteger && len(value) <= 3 {
		return value
	}
	return "<" + string(class) + ">"
}

// Mask replaces what differs by itself in text for people by its class: times,
// ids, addresses and names of hosts. Numbers and words stay, and so does the
// white space between them, as one space. Drivers use it on text that they compare.
func Mask(text string) string {
	words := strings.Fields(text)
	masked := make([]string, 0, len(words))
	for i := 0; i < len(words); {
		if n, around := dateAt(words[i:]); n > 0 {
			masked = append(masked, around[0]+"<"+string(ClassDate)+">"+around[1])
			i += n
			continue
		}
		masked = append(masked, maskWord(words[i]))
		i++
	}
	return strings.Join(masked, " ")
}

// dateAt is how many words from here on are one date, 0 when they are none, and the
// signs around it.
func dateAt(words []string) (n int, signs [2]string) {
	if len(words) < 2 || len(words[0]) > len("(Wednesday,") {
		return 0, signs
	}
	for n := min(7, len(words)); n >= 2; n-- {
		joined := strings.Join(words[:n], " ")
		if len(joined) > 48 {
			continue
		}
		inner, start := trimSigns(joined)
		if isDate(inner) || isTime(inner) && strings.Contains(inner, " ") {
			return n, [2]string{joined[:start], joined[start+len(inner):]}
		}
	}
	return 0, signs
}

// around are what stands around a word in a sentence.
const around = "()[]{}<>,;:\"'.!?"

// trimSigns is what stands between the signs, and where it begins.
func trimSigns(word string) (inner string, start int) {
	right := strings.TrimLeft(word, around)
	return strings.TrimRight(right, around), len(word) - len(right)
}

// maskWord masks one word, or what stands behind the = of one (id=4F2A1B3C9D), and
// leaves the signs around it.
func maskWord(word string) string {
	if before, after, ok := strings.Cut(word, "="); ok && before != "" && len(after) >= shortestID {
		return before + "=" + maskWord(after)
	}
	inner, start := trimSigns(word)
	class := classOf(inner)
	if slices.Contains([]Class{ClassEpoch, ClassTime, ClassDate, ClassUUID, ClassHex, ClassToken, ClassIP, ClassMail, ClassHost}, class) {
		return word[:start] + "<" + string(class) + ">" + word[start+len(inner):]
	}
	return word
}

// MaskNumbers replaces each number by N: offsets and times in a reason are not what
// tells one from another. Those that are part of a name, or of a key's hash, stay.
func MaskNumbers(text string) string {
	if !strings.ContainsAny(text, "0123456789") {
		return text
	}
	return numberOrName.ReplaceAllStringFunc(text, func(match string) string {
		if strings.Trim(match, "0123456789") == "" {
			return "N"
		}
		return match
	})
}

// numberOrName matches numbers, names that have one, and what shadow.Shown.Key is.
var numberOrName = regexp.MustCompile(`[A-Za-z0-9+/]{43}=|\b(?:HTTP/\d(?:\.\d)?|0-RTT|acme-tls/1|x509|AES-\d+|allow_aes128)\b|[0-9]+`)

// Clean makes text from outside harmless to terminals and logs, and no longer than
// most bytes: what does not print is written as an escape, as Go does, and what is
// cut ends in "…".
func Clean(text string, most int) string {
	const ellipsis = "…"
	var b strings.Builder
	kept := 0 // how much of b leaves room for the ellipsis
	for i := 0; i < len(text); {
		r, size := utf8.DecodeRuneInString(text[i:])
		written := cleanRune(text[i:i+size], r, size)
		if b.Len()+len(written) > most {
			return b.String()[:kept] + ellipsis
		}
		b.WriteString(written)
		if b.Len()+len(ellipsis) <= most {
			kept = b.Len()
		}
		i += size
	}
	return b.String()
}

// cleanRune keeps what has a glyph of its own. What changes the direction of text,
// or joins, has none (Unicode's categories Cc, Cf, Zl, Zp).
func cleanRune(raw string, r rune, size int) string {
	if r == ' ' || r != utf8.RuneError && unicode.IsPrint(r) || r == utf8.RuneError && size > 1 {
		return raw
	}
	quoted := strconv.QuoteToASCII(raw)
	return quoted[1 : len(quoted)-1]
}
