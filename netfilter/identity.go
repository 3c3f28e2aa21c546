package netfilter

import (
	"fmt"
	"strconv"

	"github.com/google/nftables/expr"
)

// identity is what observedRule.identity is for a rule of ours.
func (r rule) identity() string {
	var all []expr.Any
	var shares []share
	for _, s := range r.statements {
		all = append(all, s.expressions()...)
		if d, ok := s.(draw); ok {
			shares = d.shares
		}
	}
	return identity(all, shares, r.comment)
}

// identity writes expressions so that equal rules are written alike. Byteorder,
// Rt, TProxy and Dup are left out because the library does not read them back; an
// anonymous map shows what it holds instead of its name. It is cheap because it is made for
// every rule of thousands of splits at each look.
func identity(expressions []expr.Any, shares []share, comment string) string {
	b := make([]byte, 0, 48*len(expressions)+len(comment))
	for _, e := range expressions {
		switch e.(type) {
		case *expr.Byteorder, *expr.Rt, *expr.TProxy, *expr.Dup:
		default:
			b = append(appendExpression(b, e, shares), ';')
		}
	}
	return string(append(append(b, '#'), comment...))
}

//nolint:gocyclo,cyclop // one case a type
func appendExpression(b []byte, e expr.Any, shares []share) []byte {
	switch e := e.(type) {
	case *expr.Counter:
		return append(b, "counter"...)
	case *expr.Meta:
		return appendNumbers(append(b, "meta"...), uint64(e.Key), boolean(e.SourceRegister), uint64(e.Register))
	case *expr.Cmp:
		return append(appendNumbers(append(b, "cmp"...), uint64(e.Op), uint64(e.Register)), e.Data...)
	case *expr.Payload:
		return appendNumbers(append(b, "payload"...), uint64(e.OperationType), uint64(e.DestRegister), uint64(e.SourceRegister),
			uint64(e.Base), uint64(e.Offset), uint64(e.Len), uint64(e.CsumType), uint64(e.CsumOffset), uint64(e.CsumFlags))
	case *expr.Bitwise:
		b = appendNumbers(append(b, "bitwise"...), uint64(e.SourceRegister), uint64(e.DestRegister), uint64(e.Len))
		return append(append(append(b, e.Mask...), '^'), e.Xor...)
	case *expr.Ct:
		return appendNumbers(append(b, "ct"...), uint64(e.Key), uint64(e.Register), boolean(e.SourceRegister), uint64(e.Direction))
	case *expr.Immediate:
		return append(appendNumbers(append(b, "immediate"...), uint64(e.Register)), e.Data...)
	case *expr.Objref:
		return append(appendNumbers(append(b, "object"...), uint64(e.Type)), e.Name...)
	case *expr.Verdict:
		return append(appendNumbers(append(b, "verdict"...), uint64(uint32(e.Kind))), e.Chain...)
	case *expr.Lookup:
		b = appendNumbers(append(b, "lookup"...), uint64(e.SourceRegister), uint64(e.DestRegister), boolean(e.Invert))
		if len(shares) > 0 {
			return append(b, draw{shares: shares}.text()...)
		}
		return append(b, e.SetName...)
	case *expr.NAT:
		// The kernel fills the end of a range of one.
		nat := *e
		nat.RegAddrMax, nat.RegProtoMax = max(nat.RegAddrMax, nat.RegAddrMin), max(nat.RegProtoMax, nat.RegProtoMin)
		nat.Specified = nat.RegProtoMin != 0
		return fmt.Appendf(b, "%+v", nat)
	default:
		return fmt.Appendf(b, "%T%+v", e, e)
	}
}

func appendNumbers(b []byte, numbers ...uint64) []byte {
	for _, n := range numbers {
		b = strconv.AppendUint(append(b, ' '), n, 10)
	}
	return append(b, ' ')
}

func boolean(b bool) uint64 {
	if b {
		return 1
	}
	return 0
}
