package doctor

import (
	"encoding/binary"

	"github.com/google/nftables/expr"
	"github.com/google/nftables/xt"
)

// markWrite is what a rule does to a mark: bits that it may set, and bits that
// it clears or overwrites.
type markWrite struct {
	chain        string
	handle       uint64
	tracked      bool // conntrack's mark, else the packet's
	sets, clears uint32
}

// markWrites finds all rules of the table that change a mark.
func (t Table) markWrites() []markWrite {
	var all []markWrite
	for _, chain := range sortedKeys(t.rules) {
		for _, rule := range t.rules[chain] {
			for _, w := range writesOf(rule.Exprs) {
				w.chain, w.handle = chain, rule.Handle
				all = append(all, w)
			}
		}
	}
	return all
}

// source says where the value of a register comes from.
type source int

const (
	unknownSource source = iota
	constant
	packetMark
	trackedMark
)

// symbol is the value of a register: (what came from source & keep) ^ xor.
type symbol struct {
	from      source
	keep, xor uint32
}

// writesOf follows the registers of one rule.
func writesOf(exprs []expr.Any) []markWrite {
	var all []markWrite
	regs := map[uint32]symbol{}
	for _, e := range exprs {
		switch e := e.(type) {
		case *expr.Meta:
			if e.Key != expr.MetaKeyMARK {
				delete(regs, e.Register)
			} else if e.SourceRegister {
				all = append(all, regs[e.Register].writeTo(packetMark))
			} else {
				regs[e.Register] = symbol{from: packetMark, keep: ^uint32(0)}
			}
		case *expr.Ct:
			if e.Key != expr.CtKeyMARK {
				delete(regs, e.Register)
			} else if e.SourceRegister {
				all = append(all, regs[e.Register].writeTo(trackedMark))
			} else {
				regs[e.Register] = symbol{from: trackedMark, keep: ^uint32(0)}
			}
		case *expr.Immediate:
			delete(regs, e.Register)
			if len(e.Data) == 4 {
				regs[e.Register] = symbol{from: constant, xor: binary.NativeEndian.Uint32(e.Data)}
			}
		case *expr.Bitwise:
			s, known := regs[e.SourceRegister]
			delete(regs, e.DestRegister)
			if known && len(e.Mask) == 4 && len(e.Xor) == 4 {
				mask := binary.NativeEndian.Uint32(e.Mask)
				regs[e.DestRegister] = symbol{from: s.from, keep: s.keep & mask, xor: s.xor&mask ^ binary.NativeEndian.Uint32(e.Xor)}
			}
		case *expr.Target:
			all = append(all, targetWrites(e)...)
		}
	}
	return all
}

// writeTo is what storing the value in that mark does. Of a value that is not
// known nothing can be said of single bits: all may be set.
func (s symbol) writeTo(to source) markWrite {
	w := markWrite{tracked: to == trackedMark}
	switch s.from {
	case to:
		w.sets, w.clears = s.xor, ^s.keep
	case constant:
		w.sets, w.clears = s.xor, ^uint32(0)
	case packetMark, trackedMark:
		// What was set in the other mark is copied: none of it is new.
		w.sets, w.clears = s.xor, ^uint32(0)
	case unknownSource:
		w.clears = ^uint32(0)
	}
	return w
}

// The modes of CONNMARK (enum in linux/netfilter/xt_connmark.h).
const (
	connmarkSet     = 0
	connmarkSave    = 1
	connmarkRestore = 2
)

// targetWrites knows iptables' targets, which iptables-nft leaves as they are:
// struct xt_mark_tginfo2 and struct xt_connmark_tginfo1.
func targetWrites(e *expr.Target) []markWrite {
	raw, ok := e.Info.(*xt.Unknown)
	if !ok {
		return nil
	}
	word := func(i int) uint32 { return binary.NativeEndian.Uint32((*raw)[4*i:]) }
	switch {
	case e.Name == "MARK" && len(*raw) >= 8:
		return []markWrite{{sets: word(0), clears: word(1)}}
	case e.Name == "CONNMARK" && len(*raw) >= 13:
		switch (*raw)[12] {
		case connmarkSet:
			return []markWrite{{tracked: true, sets: word(0), clears: word(1)}}
		case connmarkSave:
			return []markWrite{{tracked: true, clears: word(1)}}
		case connmarkRestore:
			return []markWrite{{clears: word(2)}}
		}
	}
	return nil
}
