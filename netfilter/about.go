package netfilter

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
)

// About is what our tables tell of the daemon that wrote them, for who cannot
// ask it. "" is unknown.
type About struct {
	StateDir string // its state directory
	Include  string // the file that nftables.conf may include, named IncludeFile
}

// The about chain is reached by no packet. Its comments tell who looks at the
// ruleset what this is and how to stop it; a table has no room for comments
// that all versions of nft list.
//
// One of its rules uses conntrack: as long as a rule of some table does, and a
// nat chain stands, the kernel goes on translating the flows of splits that
// were removed (seen on 6.18; without it they were reset).
const (
	aboutStop    = "stop all splits at once: splitctl off --all --force"
	aboutFlows   = "keeps the open flows of removed splits alive"
	aboutState   = "state_dir"
	aboutInclude = "include"
	aboutMore    = "+=" // goes on with the text before
)

func aboutChain(about About) chain {
	c := chain{name: chainAbout, rules: []rule{
		aboutRule(aboutStop),
		{statements: []statement{established{}, back()}, comment: aboutFlows},
	}}
	c.rules = append(c.rules, aboutText(aboutState, about.StateDir)...)
	c.rules = append(c.rules, aboutText(aboutInclude, about.Include)...)
	return c
}

// aboutText writes a text into as many comments as it needs.
func aboutText(key, text string) (rules []rule) {
	is := "="
	for rest := escapeComment(text); rest != ""; is = aboutMore {
		cut := min(len(rest), commentMax-len(key)-len(aboutMore))
		rules = append(rules, aboutRule(key+is+rest[:cut]))
		rest = rest[cut:]
	}
	return rules
}

func aboutRule(comment string) rule {
	return rule{statements: []statement{back()}, comment: comment}
}

// WithAbout returns the ruleset with that written into its about chains, where
// ReadAbout finds it. Kernel.Apply does so.
func (r Ruleset) WithAbout(about About) Ruleset {
	tables := slices.Clone(r.tables)
	for i := range tables {
		tables[i].chains = slices.Clone(tables[i].chains)
		for j, c := range tables[i].chains {
			if c.name == chainAbout {
				tables[i].chains[j] = aboutChain(about)
			}
		}
	}
	return Ruleset{tables: tables}
}

// aboutOf is what the comments of the about chain tell. Who reads it may empty
// or remove the file that is named: one of another name is not ours.
func aboutOf(comments []string) About {
	about := About{StateDir: textOf(comments, aboutState), Include: textOf(comments, aboutInclude)}
	if _, name := filepath.Split(about.Include); !filepath.IsAbs(about.Include) || name != IncludeFile {
		about.Include = ""
	}
	return about
}

// textOf is what aboutText has written, "" if there is none.
func textOf(comments []string, key string) string {
	var b strings.Builder
	for _, c := range comments {
		if text, ok := strings.CutPrefix(c, key+"="); ok {
			b.WriteString(text)
		} else if text, ok := strings.CutPrefix(c, key+aboutMore); ok {
			b.WriteString(text)
		}
	}
	return unescapeComment(b.String())
}

// escapeComment writes the bytes that nft cannot read inside quotes as %XX.
func escapeComment(s string) string {
	var b strings.Builder
	for _, c := range []byte(s) {
		if c < ' ' || c == '"' || c == '%' || c == 0x7f {
			fmt.Fprintf(&b, "%%%02X", c)
		} else {
			b.WriteByte(c)
		}
	}
	return b.String()
}

func unescapeComment(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		var c byte
		if s[i] == '%' && i+2 < len(s) {
			if n, err := fmt.Sscanf(s[i+1:i+3], "%02X", &c); n == 1 && err == nil {
				b.WriteByte(c)
				i += 2
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}
