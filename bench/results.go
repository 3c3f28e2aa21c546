package main

import (
	"slices"
	"strings"
)

// A part of the results begins with a heading of the first order, and is
// written anew as a whole.
const partMark = "\n# "

// merge puts parts that have been measured into a text of results, in the order
// of their headings, and keeps the others as they are. What has no heading of
// these goes.
func merge(text, preface string, headings []string, parts map[string]string) string {
	kept := map[string]string{}
	for _, part := range strings.Split("\n"+text, partMark)[1:] {
		heading, body, _ := strings.Cut(part, "\n")
		if slices.Contains(headings, heading) {
			kept[heading] = strings.TrimSpace(body)
		}
	}
	for heading, body := range parts {
		kept[heading] = strings.TrimSpace(body)
	}
	var out strings.Builder
	out.WriteString(strings.TrimSpace(preface) + "\n")
	for _, heading := range headings {
		if body, ok := kept[heading]; ok {
			out.WriteString(partMark + heading + "\n\n" + body + "\n")
		}
	}
	return out.String()
}
