package doctor

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// ruleText renders a foreign rule as far as it tells whom it hinders: the
// clients' addresses, ports and devices, how often, and what it does then. What
// it cannot tell it names by its kind.
func (t Table) ruleText(rule *nftables.Rule) string {
	r := renderer{table: t, loaded: map[uint32]field{}}
	for _, e := range rule.Exprs {
		r.render(e)
	}
	if len(r.parts) == 0 {
		return fmt.Sprintf("handle %d", rule.Handle)
	}
	return strings.Join(r.parts, " ")
}

// field is what a register holds.
type field struct {
	name  string
	kind  fieldKind
	width int // of the prefix that is left of it, in bits; 0 all
}

type fieldKind int

const (
	fieldOther fieldKind = iota
	fieldAddress
	fieldNumber // big-endian
	fieldName   // of a device
	fieldSilent // says nothing about whom
)

type renderer struct {
	table  Table
	loaded map[uint32]field
	parts  []string
}

func (r *renderer) say(format string, args ...any) {
	r.parts = append(r.parts, fmt.Sprintf(format, args...))
}

func (r *renderer) render(e expr.Any) {
	switch e := e.(type) {
	case *expr.Payload:
		r.loaded[e.DestRegister] = payloadField(e)
	case *expr.Meta:
		if !e.SourceRegister {
			r.loaded[e.Register] = metaField(e.Key)
		}
	case *expr.Ct:
		if !e.SourceRegister {
			r.loaded[e.Register] = field{name: "ct", kind: fieldSilent}
		}
	case *expr.Bitwise:
		f := r.loaded[e.SourceRegister]
		f.width = leadingOnes(e.Mask)
		r.loaded[e.DestRegister] = f
	case *expr.Cmp:
		r.compare(r.loaded[e.Register], e.Op, e.Data)
	case *expr.Range:
		f := r.loaded[e.Register]
		r.say("%s %s-%s", f.name, f.value(e.FromData), f.value(e.ToData))
	case *expr.Lookup:
		r.lookup(e)
	case *expr.Limit:
		over := ""
		if e.Over {
			over = "over "
		}
		r.say("limit rate %s%d/%s", over, e.Rate, map[expr.LimitTime]string{
			expr.LimitTimeSecond: "second", expr.LimitTimeMinute: "minute", expr.LimitTimeHour: "hour", expr.LimitTimeDay: "day", expr.LimitTimeWeek: "week",
		}[e.Unit])
	case *expr.Connlimit:
		r.say("ct count %d", e.Count)
	case *expr.Match:
		if e.Name != "tcp" && e.Name != "udp" && e.Name != "comment" {
			r.say("-m %s", e.Name)
		}
	case *expr.Verdict:
		switch e.Kind { //nolint:exhaustive // the others hinder nobody
		case expr.VerdictDrop:
			r.say("drop")
		case expr.VerdictAccept:
			r.say("accept")
		}
	case *expr.Reject:
		r.say("reject")
	case *expr.Target:
		r.say("-j %s", e.Name)
	}
}

func (r *renderer) compare(f field, op expr.CmpOp, data []byte) {
	not := ""
	if op == expr.CmpOpNeq {
		not = "!= "
	}
	if f.kind == fieldSilent {
		return
	}
	r.say("%s %s%s", f.name, not, f.value(data))
}

func (r *renderer) lookup(e *expr.Lookup) {
	f := r.loaded[e.SourceRegister]
	if f.kind == fieldSilent {
		return
	}
	set := r.table.sets[e.SetName]
	if !strings.HasPrefix(e.SetName, "__") {
		r.say("%s @%s", f.name, e.SetName)
		return
	}
	var values []string
	for _, element := range set.elements {
		if !element.IntervalEnd && len(values) < inputShown {
			values = append(values, f.value(element.Key))
		}
	}
	r.say("%s { %s }", f.name, strings.Join(values, ", "))
}

func (f field) value(data []byte) string {
	switch f.kind {
	case fieldAddress:
		// A prefix of whole bytes is compared as so many bytes.
		whole := make([]byte, 4)
		if strings.HasPrefix(f.name, "ip6") {
			whole = make([]byte, 16)
		}
		copy(whole, data)
		a, _ := netip.AddrFromSlice(whole)
		bits := min(f.width, 8*len(whole))
		if bits == 0 {
			bits = 8 * len(data)
		}
		if bits >= 8*len(whole) {
			return a.String()
		}
		return netip.PrefixFrom(a, bits).String()
	case fieldName:
		return strings.TrimRight(string(data), "\x00")
	case fieldNumber:
		if len(data) == 2 {
			return fmt.Sprint(binary.BigEndian.Uint16(data))
		}
	case fieldOther, fieldSilent:
	}
	return fmt.Sprintf("0x%x", data)
}

func payloadField(e *expr.Payload) field {
	at, length := e.Offset, e.Len
	if e.Base == expr.PayloadBaseTransportHeader && length == 2 {
		switch at {
		case 0:
			return field{name: "sport", kind: fieldNumber}
		case portAt:
			return field{name: "dport", kind: fieldNumber}
		}
	}
	if e.Base == expr.PayloadBaseNetworkHeader {
		switch {
		case at == sourceAt4 && length <= 4:
			return field{name: "ip saddr", kind: fieldAddress}
		case at == destinationAt4 && length <= 4:
			return field{name: "ip daddr", kind: fieldAddress}
		case at == sourceAt6:
			return field{name: "ip6 saddr", kind: fieldAddress}
		case at == destinationAt6:
			return field{name: "ip6 daddr", kind: fieldAddress}
		}
	}
	return field{name: fmt.Sprintf("header %d+%d", at, length)}
}

func metaField(key expr.MetaKey) field {
	switch key { //nolint:exhaustive // the others are named by number
	case expr.MetaKeyIIFNAME:
		return field{name: "iifname", kind: fieldName}
	case expr.MetaKeyNFPROTO, expr.MetaKeyPROTOCOL, expr.MetaKeyL4PROTO:
		return field{kind: fieldSilent}
	}
	return field{name: fmt.Sprintf("meta %d", key)}
}

// leadingOnes is how many bits a mask of leading ones keeps.
func leadingOnes(mask []byte) int {
	n := 0
	for _, b := range mask {
		for bit := 7; bit >= 0; bit-- {
			if b&(1<<bit) == 0 {
				return n
			}
			n++
		}
	}
	return n
}

// hinders says whether a rule keeps some packets back: it drops them, or lets
// only so many pass.
func hinders(exprs []expr.Any, do action) bool {
	if do.kind == doDrop {
		return true
	}
	for _, e := range exprs {
		switch e := e.(type) {
		case *expr.Limit, *expr.Connlimit, *expr.Quota:
			return true
		case *expr.Match:
			switch e.Name {
			case "limit", "hashlimit", "connlimit", "recent", "quota":
				return true
			}
		case *expr.Dynset:
			if e.Operation == uint32(unix.NFT_DYNSET_OP_UPDATE) || e.Operation == uint32(unix.NFT_DYNSET_OP_ADD) {
				return len(e.Exprs) > 0
			}
		}
	}
	return false
}
