package http1

import (
	"slices"
	"strings"
	"sync"

	"github.com/splitd/splitd/shadow"
)

// unknown is the endpoint of what cannot be read.
const unknown = "unknown"

// Bounds of the names of endpoints.
const (
	mostSegments = 6    // of a path, then {rest}
	mostChildren = 50   // of one place in the tree, then {name}
	mostNodes    = 5000 // of all, then {name}
	longSegment  = 40   // bytes
)

// templates are the names of endpoints, bounded in number: "GET /users/{id}". What
// looks like data in a path stands there as its class, and where too many names
// come at one place they are taken for data too. It may be used by several
// goroutines at once.
type templates struct {
	mutex sync.Mutex
	root  place
	nodes int
}

type place struct{ below map[string]*place }

func newTemplates() *templates { return &templates{} }

// endpoint is the name of what a request asks for.
func (t *templates) endpoint(method, path string) string {
	if !isKnown(method) {
		method = "OTHER"
	}
	if path == "*" || method == "CONNECT" {
		return method + " *"
	}
	t.mutex.Lock()
	defer t.mutex.Unlock()
	var b strings.Builder
	b.WriteString(method + " ")
	at := &t.root
	segments := strings.Split(strings.TrimPrefix(path, "/"), "/")
	for i, segment := range segments {
		if i == mostSegments {
			b.WriteString("/{rest}")
			break
		}
		var name string
		name, at = t.step(at, segmentName(segment))
		b.WriteString("/" + name)
	}
	return b.String()
}

func (t *templates) step(at *place, name string) (string, *place) {
	if next := at.below[name]; next != nil {
		return name, next
	}
	named := name == "" || name[0] == '{'
	if !named && (len(at.below) >= mostChildren || t.nodes >= mostNodes) {
		name = "{name}"
		if next := at.below[name]; next != nil {
			return name, next
		}
	}
	if t.nodes >= 2*mostNodes {
		return name, &place{}
	}
	if at.below == nil {
		at.below = make(map[string]*place)
	}
	t.nodes++
	next := &place{}
	at.below[name] = next
	return name, next
}

// isKnown knows the methods that have a name of their own: others may be of any
// number.
func isKnown(method string) bool {
	switch method {
	case "GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE", "TRACE", "CONNECT", Upgraded,
		"PROPFIND", "PROPPATCH", "MKCOL", "COPY", "MOVE", "LOCK", "UNLOCK", "REPORT", "SEARCH", "PURGE":
		return true
	default:
		return false
	}
}

// segmentName is a segment as it stands in an endpoint: what looks like data by its
// class. A file keeps its ending, "{hex}.js".
func segmentName(segment string) string {
	if isWord(segment) {
		return segment
	}
	name, ending := segment, ""
	if dot := strings.LastIndexByte(segment, '.'); dot > 0 && len(segment)-dot <= 6 {
		name, ending = segment[:dot], segment[dot:]
	}
	if class := shadow.ClassOf(segment); isOne(class, shadow.ClassTime, shadow.ClassDate, shadow.ClassIP, shadow.ClassMail, shadow.ClassDecimal) {
		return "{" + string(class) + "}"
	}
	class := shadow.ClassOf(name)
	if isOne(class, shadow.ClassInteger, shadow.ClassEpoch) {
		return "{id}" + ending
	}
	if isOne(class, shadow.ClassUUID, shadow.ClassHex, shadow.ClassToken, shadow.ClassTime, shadow.ClassIP) {
		return "{" + string(class) + "}" + ending
	}
	if len(segment) > longSegment || strings.Contains(segment, "%") || !isPrintable(segment) {
		return "{text}"
	}
	return segment
}

func isOne(class shadow.Class, of ...shadow.Class) bool { return slices.Contains(of, class) }

// isWord knows most names at a glance.
func isWord(s string) bool {
	for i := range len(s) {
		if c := s[i] | 0x20; (c < 'a' || c > 'z') && s[i] != '-' && s[i] != '_' {
			return false
		}
	}
	return len(s) <= longSegment/2
}

func isPrintable(s string) bool {
	for i := range len(s) {
		if s[i] <= ' ' || s[i] >= 0x7f || s[i] == '{' || s[i] == '}' {
			return false
		}
	}
	return true
}
