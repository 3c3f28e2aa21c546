package netfilter

import (
	"fmt"
	"slices"
	"strings"
)

// The about chain is reached by no packet. Its comments tell who looks at the
// ruleset what this is and how to stop it; a table has no room for comments
// that all versions of nft list.
//
// One of its rules uses conntrack: as long as a rule of some table does, and a
// nat chain stands, the kernel goes on translating the flows of splits that
// were removed (seen on 6.18; without it they were reset).
const (
	aboutStop     = "stop all splits at once: splitctl off --all --force"
	aboutFlows    = "keeps the open flows of removed splits alive"
	stateDirKey   = "state_dir="
	stateDirMore  = "state_dir+="
	stateDirChunk = commentMax - len(stateDirMore)
)

func aboutChain(stateDir string) chain {
	c := chain{name: chainAbout, rules: []rule{
		aboutRule(aboutStop),
		{statements: []statement{established{}, back()}, comment: aboutFlows},
	}}
	key := stateDirKey
	for rest := escapeComment(stateDir); rest != ""; key = stateDirMore {
		cut := min(len(rest), stateDirChunk)
		c.rules = append(c.rules, aboutRule(key+rest[:cut]))
		rest = rest[cut:]
	}
	return c
}

func aboutRule(comment string) rule {
	return rule{statements: []statement{back()}, comment: comment}
}

// WithStateDir returns the ruleset with the daemon's state directory written
// into its about chains, where ReadStateDir finds it. Kernel.Apply does so.
func (r Ruleset) WithStateDir(dir string) Ruleset {
	tables := slices.Clone(r.tables)
	for i := range tables {
		tables[i].chains = slices.Clone(tables[i].chains)
		for j, c := range tables[i].chains {
			if c.name == chainAbout {
				tables[i].chains[j] = aboutChain(dir)
			}
		}
	}
	return Ruleset{tables: tables}
}

// stateDirOf is the state directory that the comments of the about chain name,
// "" if they name none.
func stateDirOf(comments []string) string {
	var b strings.Builder
	for _, c := range comments {
		if dir, ok := strings.CutPrefix(c, stateDirKey); ok {
			b.WriteString(dir)
		} else if dir, ok := strings.CutPrefix(c, stateDirMore); ok {
			b.WriteString(dir)
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
