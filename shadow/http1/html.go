package http1

import (
	"bytes"
	"net/url"
	"slices"
	"strings"

	"golang.org/x/net/html"
	"golang.org/x/net/html/atom"

	"github.com/splitd/splitd/shadow"
)

// mostOpen bounds how deep elements are followed.
const mostOpen = 256

// html makes a value of each text between tags, under the element that it is in,
// and of where links lead. Scripts, styles, comments and what else stands in
// attributes are no text: there is where tokens are.
func (c *collector) html(b []byte, cut bool) {
	z := html.NewTokenizer(bytes.NewReader(b))
	var open []atom.Atom
	var last string // of a document that is cut the last text is not whole
	flush := func() {
		if last != "" {
			c.add(shadow.Field{Path: "body <" + element(open) + ">", Value: last, Level: shadow.Text})
		}
		last = ""
	}
	for {
		switch z.Next() {
		case html.ErrorToken:
			if !cut {
				flush()
			}
			return
		case html.TextToken:
			if within := element(open); within != "script" && within != "style" {
				last = shadow.Mask(string(z.Text()))
			}
		case html.StartTagToken, html.SelfClosingTagToken:
			flush()
			token := z.Token()
			c.links(token)
			if token.Type == html.StartTagToken && !isVoid(token.DataAtom) && len(open) < mostOpen {
				open = append(open, token.DataAtom)
			}
		case html.EndTagToken:
			flush()
			name, _ := z.TagName()
			open = closed(open, atom.Lookup(name))
		case html.CommentToken, html.DoctypeToken:
			flush()
		}
	}
}

// element is the name of the innermost one; those of nobody's standard have none,
// as there may be any number.
func element(open []atom.Atom) string {
	if len(open) == 0 {
		return "document"
	}
	if name := open[len(open)-1].String(); name != "" {
		return name
	}
	return "other"
}

// closed closes an element and what was left open in it.
func closed(open []atom.Atom, name atom.Atom) []atom.Atom {
	for i, within := range slices.Backward(open) {
		if within == name {
			return open[:i]
		}
	}
	return open
}

func isVoid(a atom.Atom) bool {
	return slices.Contains([]atom.Atom{
		atom.Area, atom.Base, atom.Br, atom.Col, atom.Embed, atom.Hr, atom.Img, atom.Input, atom.Link, atom.Meta, atom.Source, atom.Track, atom.Wbr,
	}, a)
}

// links adds where an element leads: the path alone, since queries and hosts are
// full of what differs by itself.
func (c *collector) links(token html.Token) {
	for _, a := range token.Attr {
		if a.Key != "href" && a.Key != "action" && a.Key != "src" || token.DataAtom == 0 {
			continue
		}
		to, err := url.Parse(strings.TrimSpace(a.Val))
		if err != nil || to.Path == "" {
			continue
		}
		segments := strings.Split(to.Path, "/")
		for i, segment := range segments {
			if name := segmentName(segment); name != "{id}" {
				segments[i] = name
			}
		}
		c.add(shadow.Field{Path: "body <" + token.Data + " " + a.Key + ">", Value: strings.Join(segments, "/"), Level: shadow.Text})
	}
}
