package http1

import (
	"bytes"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/cespare/xxhash/v2"

	"github.com/splitd/splitd/shadow"
)

// Bounds of what is made of a body.
const (
	mostFields = 2000 // then a hash of the rest
	longValue  = 512  // bytes of a value, then its length and hash
)

// A body is a reply's body, decoded, and what kind of thing it is.
type body struct {
	kind string // "none", "json", "html", "text", "binary", or why it cannot be decoded
	data []byte
	cut  bool // data is not all of it
	all  *content

	coded bool // what came is not the content itself
	tree  any  // of JSON
}

// bodyOf decodes and looks at a body.
func bodyOf(r *reply, keep int) *body {
	b := &body{all: &r.body, cut: r.body.isCut(), coded: len(codings(&r.head)) > 0, kind: "none"}
	if r.body.size == 0 {
		return b
	}
	data, cut, err := decode(r.body.kept, codings(&r.head), keep*decodedMost)
	if err != nil && !b.cut {
		b.kind = "broken " + shownCodings(&r.head)
		return b
	}
	b.cut = b.cut || cut
	b.data = withoutBoundary(data, r.head.first("content-type"))
	b.look(mediaType(r.head.first("content-type")))
	return b
}

// withoutBoundary replaces the boundary of a multipart body, which is made anew for
// each reply (RFC 2046, 5.1.1).
func withoutBoundary(data []byte, contentType string) []byte {
	for _, param := range splitQuoted(contentType, ';') {
		name, value, _ := strings.Cut(strings.TrimSpace(param), "=")
		if value = strings.Trim(value, `"`); strings.EqualFold(name, "boundary") && value != "" {
			return bytes.ReplaceAll(data, []byte("--"+value), []byte("--<any>"))
		}
	}
	return data
}

// look finds out the kind, by what the reply says and whether it is true.
func (b *body) look(mediaType string) {
	name, _, _ := strings.Cut(mediaType, ";")
	start := bytes.TrimLeft(b.data[:min(len(b.data), 512)], " \t\r\n\ufeff")
	says := func(parts ...string) bool {
		for _, part := range parts {
			if strings.Contains(name, part) {
				return true
			}
		}
		return false
	}
	unsaid := name == "" || name == "application/octet-stream"
	switch {
	case (says("json") || unsaid && len(start) > 0 && (start[0] == '{' || start[0] == '[')) && b.isJSON():
		b.kind = "json"
	case says("html") || unsaid && (hasFold(start, "<!doctype html") || hasFold(start, "<html")):
		b.kind = "html"
	case (unsaid || says("text/", "json", "xml", "javascript", "urlencoded", "multipart/")) && isText(b.data):
		b.kind = "text"
	default:
		b.kind = "binary"
	}
}

func (b *body) isJSON() bool {
	if b.cut {
		return true // it cannot be read
	}
	tree, err := readJSON(b.data)
	b.tree = tree
	return err == nil
}

func hasFold(b []byte, prefix string) bool {
	return len(b) >= len(prefix) && bytes.EqualFold(b[:len(prefix)], []byte(prefix))
}

// isText allows for a rune that is cut at the end.
func isText(b []byte) bool {
	for i := 0; i < utf8.UTFMax && len(b) > 0 && !utf8.Valid(b); i++ {
		b = b[:len(b)-1]
	}
	return utf8.Valid(b) && bytes.IndexByte(b, 0) < 0
}

// fields makes values of what is in the body.
func (b *body) fields() []shadow.Field {
	c := collector{fields: []shadow.Field{{Path: "body kind", Value: b.kind, Level: shadow.Semantic, Plain: true}}}
	switch b.kind {
	case "json":
		if !b.cut {
			c.json("body $", b.tree, 0)
		}
	case "html":
		c.html(b.data, b.cut)
	case "text":
		c.text(b.data, b.cut)
	case "binary":
		c.binary(b)
	}
	return c.done()
}

// A collector has fields up to a number, and then a hash of what more there is.
type collector struct {
	fields []shadow.Field
	rest   *xxhash.Digest
	more   int
}

func (c *collector) add(f shadow.Field) {
	f.Value = short(f.Value, longValue)
	if len(c.fields) < mostFields {
		c.fields = append(c.fields, f)
		return
	}
	if c.rest == nil {
		c.rest = xxhash.New()
	}
	c.more++
	fmt.Fprintf(c.rest, //nolint:errcheck // a hash takes all
		"%q %q\n", f.Path, f.Value)
}

func (c *collector) done() []shadow.Field {
	if c.rest == nil {
		return c.fields
	}
	value := fmt.Sprintf("%d more, %016x", c.more, c.rest.Sum64())
	return append(c.fields, shadow.Field{Path: "body rest", Value: value, Level: shadow.Text})
}

// text makes a value of each line.
func (c *collector) text(b []byte, cut bool) {
	lines := strings.Split(string(b), "\n")
	if cut {
		lines = lines[:len(lines)-1]
	}
	for _, line := range lines {
		if line = shadow.Mask(line); line != "" {
			c.add(shadow.Field{Path: "body text", Value: line, Level: shadow.Text})
		}
	}
}

// binary compares length and hash. It is no Plain field, as the rest is none: of a
// short text, or one that can be guessed, a hash tells what it is. Of a body that is longer than what is kept they
// are those on the wire.
func (c *collector) binary(b *body) {
	value := ""
	switch {
	case !b.cut:
		value = fmt.Sprintf("%d bytes, %s", len(b.data), digestOf(b.data))
	case b.isDigested():
		value = fmt.Sprintf("%d bytes, %s", b.all.size, b.all.digest())
	default:
		return
	}
	c.add(shadow.Field{Path: "body bytes", Value: value, Level: shadow.Semantic})
}

// isDigested says that the hash of what came is that of the content.
func (b *body) isDigested() bool { return b.kind == "binary" && !b.coded }
