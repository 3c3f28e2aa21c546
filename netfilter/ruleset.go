package netfilter

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Ruleset is the content of the tables of the splits, a value that Build makes
// and Text prints. The zero value, which no splits give, is no table at all.
// It is not modified once made and may be used by many goroutines.
type Ruleset struct {
	tables []table
}

// A table is the content of one of the tables of the splits.
type table struct {
	name     string
	counters []string
	timeouts []timeout
	groups   []group
	elements []element
	chains   []chain
}

// A timeout is a named object that says how long flows of UDP may be silent.
type timeout struct {
	split    string
	answered time.Duration // whole seconds
}

// name tells the value too: the kernel cannot change an object of that kind.
func (t timeout) name() string { return fmt.Sprintf("%s/%ds", t.split, t.seconds()) }

func (t timeout) seconds() uint32 { return max(uint32(t.answered/time.Second), 1) }

// unanswered is a third, as the kernel's own defaults are (30 s and 120 s, or
// 10 s and 30 s in older ones).
func (t timeout) unanswered() uint32 { return max(t.seconds()/3, 1) }

func (t timeout) text() string {
	return fmt.Sprintf("\tct timeout %s {\n\t\tprotocol udp\n\t\tl3proto inet\n\t\tpolicy = { unreplied : %d, replied : %d }\n\t}\n\n",
		t.name(), t.unanswered(), t.seconds())
}

// A hook says where in the kernel a chain begins. Every chain of ours with a
// hook has policy accept.
type hook struct {
	kind     string // kindFilter or kindRoute; "" is kindNAT
	name     string // hookPrerouting, hookPostrouting or hookOutput
	priority int
}

// The hooks, by their names in nft.
const (
	hookPrerouting  = "prerouting"
	hookPostrouting = "postrouting"
	hookOutput      = "output" // where this host's own packets come by
)

// A chain is a named list of rules.
type chain struct {
	name  string
	hook  *hook // nil: only reached from other chains
	rules []rule
}

// Text is the ruleset as `nft -s list table inet splitd` of nft 1.0.6 prints
// its tables on a little-endian machine when it is all that was ever loaded;
// later the kernel lists chains in the order in which they were made, and
// versions count on. `nft -f` loads it.
func (r Ruleset) Text() string {
	var b strings.Builder
	for _, t := range r.tables {
		t.write(&b)
	}
	return b.String()
}

func (t table) write(b *strings.Builder) {
	fmt.Fprintf(b, "table inet %s {\n", t.name)
	for _, name := range t.counters {
		fmt.Fprintf(b, "\tcounter %s {\n\t}\n\n", name)
	}
	for _, o := range t.timeouts {
		b.WriteString(o.text())
	}
	for _, m := range t.maps() {
		b.WriteString(m.text(t.elements))
	}
	for _, g := range t.groups {
		b.WriteString(g.text())
	}
	for i, c := range t.chains {
		if i > 0 {
			b.WriteByte('\n')
		}
		c.write(b)
	}
	b.WriteString("}\n")
}

// table returns the table of that name, if there is one.
func (r Ruleset) table(name string) (table, bool) {
	i := slices.IndexFunc(r.tables, func(t table) bool { return t.name == name })
	if i < 0 {
		return table{}, false
	}
	return r.tables[i], true
}

func (c chain) write(b *strings.Builder) {
	fmt.Fprintf(b, "\tchain %s {\n", c.name)
	if c.hook != nil {
		fmt.Fprintf(b, "\t\t%s\n", c.hook.text())
	}
	for _, r := range c.rules {
		fmt.Fprintf(b, "\t\t%s\n", r.text())
	}
	b.WriteString("\t}\n")
}

func (h hook) text() string {
	kind, name, base := cmp.Or(h.kind, kindNAT), "dstnat", -100
	switch {
	case kind != kindNAT && h.priority <= -140:
		name, base = "mangle", -150
	case h.name == hookPostrouting:
		name, base = "srcnat", 100
	case h.name == hookOutput:
		name = "" // that priority has no name there
	}
	priority := fmt.Sprint(h.priority)
	switch offset := h.priority - base; {
	case name == "":
	case offset == 0:
		priority = name
	case offset < 0 && offset >= -10:
		priority = fmt.Sprintf("%s - %d", name, -offset)
	case offset > 0 && offset <= 10:
		priority = fmt.Sprintf("%s + %d", name, offset)
	}
	return fmt.Sprintf("type %s hook %s priority %s; policy accept;", kind, h.name, priority)
}
