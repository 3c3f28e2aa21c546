package traffic

import (
	"fmt"
	"strings"
)

// queryTypes are the types that a DNS check can ask for (RFC 1035 section
// 3.2.2, RFC 3596, RFC 2782).
func queryTypes() map[string]uint16 {
	return map[string]uint16{"A": 1, "NS": 2, "CNAME": 5, "SOA": 6, "PTR": 12, "MX": 15, "TXT": 16, "AAAA": 28, "SRV": 33}
}

// ParseQuery reads what a DNS check asks for: a name, and a type that is A
// where it is left out. The name it returns ends with a dot.
func ParseQuery(text string) (name string, kind uint16, err error) {
	words := strings.Fields(text)
	if len(words) == 0 || len(words) > 2 {
		return "", 0, fmt.Errorf("query %q: write a name and a type, such as example.org A", text)
	}
	kind, known := uint16(1), true
	if len(words) == 2 {
		kind, known = queryTypes()[strings.ToUpper(words[1])]
	}
	if !known {
		return "", 0, fmt.Errorf("query %q: type %q is not known: use A, AAAA, CNAME, MX, NS, PTR, SOA, SRV or TXT", text, words[1])
	}
	name = strings.TrimSuffix(words[0], ".") + "."
	if name == "." {
		return name, kind, nil
	}
	// RFC 1035 section 2.3.4; the zero byte at the end and the first length
	// make 255 bytes of it.
	if len(name) > 254 {
		return "", 0, fmt.Errorf("query %q: the name has more than 253 letters", text)
	}
	for label := range strings.SplitSeq(strings.TrimSuffix(name, "."), ".") {
		if label == "" || len(label) > 63 || strings.ContainsFunc(label, notInName) {
			return "", 0, fmt.Errorf("query %q: %q is not part of a name", text, label)
		}
	}
	return name, kind, nil
}

func notInName(r rune) bool { return r <= ' ' || r > '~' }
