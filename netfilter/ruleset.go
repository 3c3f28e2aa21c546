package netfilter

import (
	"bytes"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/splitd/splitd/traffic"
)

// Ruleset is the content of the table of the splits, a value that Build makes
// and Text prints. The zero value, which no splits give, is no table at all.
// It is not modified once made and may be used by many goroutines.
type Ruleset struct {
	counters []string
	elements []element
	chains   []chain
}

// A serviceMap names one of the two maps from services to splits.
type serviceMap string

// The maps, one per family.
const (
	services4 serviceMap = "service4"
	services6 serviceMap = "service6"
)

func (m serviceMap) family() string {
	if m == services4 {
		return "ip"
	}
	return "ip6"
}

// A service is what clients connect to: the key of a serviceMap.
type service struct {
	ip   netip.Addr
	port traffic.Port
}

func (s service) in() serviceMap {
	if s.ip.Is4() {
		return services4
	}
	return services6
}

func (s service) text() string {
	return fmt.Sprintf("%s . %s . %d", s.ip, s.port.Transport, s.port.Number)
}

// An element of a serviceMap says which chain serves a service.
type element struct {
	service service
	chain   string
}

func (e element) text() string { return e.service.text() + " : goto " + e.chain }

// A hook says where in the kernel a chain begins. Every chain of ours with a
// hook has policy accept.
type hook struct {
	kind     string // kindFilter; "" is kindNAT
	name     string // hookPrerouting or hookPostrouting
	priority int
}

// The hooks, by their names in nft.
const (
	hookPrerouting  = "prerouting"
	hookPostrouting = "postrouting"
)

// A chain is a named list of rules.
type chain struct {
	name  string
	hook  *hook // nil: only reached from other chains
	rules []rule
}

// Text is the ruleset as `nft -s list table inet splitd` of nft 1.0.6 prints
// it on a little-endian machine when it is all that was ever loaded; later the
// kernel lists chains in the order in which they were made, and versions count
// on. `nft -f` loads it.
func (r Ruleset) Text() string {
	if len(r.chains) == 0 {
		return ""
	}
	var b strings.Builder
	fmt.Fprintf(&b, "table inet %s {\n", TableSplits)
	for _, name := range r.counters {
		fmt.Fprintf(&b, "\tcounter %s {\n\t}\n\n", name)
	}
	r.writeMap(&b, services4, "ipv4_addr")
	r.writeMap(&b, services6, "ipv6_addr")
	for i, c := range r.chains {
		if i > 0 {
			b.WriteByte('\n')
		}
		c.write(&b)
	}
	b.WriteString("}\n")
	return b.String()
}

func (r Ruleset) writeMap(b *strings.Builder, m serviceMap, address string) {
	fmt.Fprintf(b, "\tmap %s {\n\t\ttype %s . inet_proto . inet_service : verdict\n", m, address)
	var texts []string
	for _, e := range listed(r.elements) {
		if e.service.in() == m {
			texts = append(texts, e.text())
		}
	}
	if len(texts) > 0 {
		fmt.Fprintf(b, "\t\telements = { %s }\n", strings.Join(texts, ",\n\t\t\t     "))
	}
	b.WriteString("\t}\n\n")
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
	kind, name, base := kindNAT, "dstnat", -100
	switch {
	case h.kind == kindFilter:
		kind, name, base = kindFilter, "mangle", -150
	case h.name == hookPostrouting:
		name, base = "srcnat", 100
	}
	priority := fmt.Sprint(h.priority)
	switch offset := h.priority - base; {
	case offset == 0:
		priority = name
	case offset < 0 && offset >= -10:
		priority = fmt.Sprintf("%s - %d", name, -offset)
	}
	return fmt.Sprintf("type %s hook %s priority %s; policy accept;", kind, h.name, priority)
}

// listed sorts elements as nft 1.0.6 lists them: it takes the bytes of the key
// for one little-endian number (concat_expr_msort_value in its
// src/expression.c).
func listed(elements []element) []element {
	key := func(e element) []byte {
		k := append(e.service.ip.AsSlice(), protocolNumber(e.service.port.Transport),
			byte(e.service.port.Number>>8), byte(e.service.port.Number))
		slices.Reverse(k)
		return k
	}
	sorted := slices.Clone(elements)
	slices.SortStableFunc(sorted, func(a, b element) int { return bytes.Compare(key(a), key(b)) })
	return sorted
}
