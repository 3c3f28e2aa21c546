package doctor

import (
	"testing"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/xt"

	"github.com/splitd/splitd/traffic"
)

// FuzzForeignRules: whatever another program writes into a rule, reading it
// ends and does not panic.
func FuzzForeignRules(f *testing.F) {
	f.Add(uint32(1), uint32(4), uint32(16), []byte{1, 2, 3, 4}, []byte{255, 255, 0, 0}, byte(1))
	f.Add(uint32(8), uint32(16), uint32(0), []byte{}, []byte{0}, byte(2))
	f.Add(uint32(23), uint32(200), uint32(1<<31), make([]byte, 64), make([]byte, 3), byte(0))
	f.Fuzz(func(_ *testing.T, register, length, offset uint32, data, mask []byte, mode byte) {
		raw := xt.Unknown(data)
		table := Table{
			family: "inet", name: "theirs", chains: []baseChain{{name: "c", kind: kindNAT, hook: hookInput, priority: -200}},
			sets: map[string]namedSet{"s": {interval: mode&1 == 0, elements: []nftables.SetElement{{Key: data}, {Key: mask, IntervalEnd: true}}}},
			rules: map[string][]*nftables.Rule{"c": {
				{Exprs: []expr.Any{
					&expr.Payload{DestRegister: register, Base: expr.PayloadBase(mode), Offset: offset % 4096, Len: length % 256},
					&expr.Bitwise{SourceRegister: register, DestRegister: register, Len: length, Mask: mask, Xor: data},
					&expr.Cmp{Register: register, Op: expr.CmpOp(mode), Data: data},
					&expr.Range{Register: register, FromData: data, ToData: mask},
					&expr.Lookup{SourceRegister: register, SetName: "s", Invert: mode&2 == 0},
					&expr.Verdict{Kind: expr.VerdictJump, Chain: "c"},
				}},
				{Exprs: []expr.Any{
					&expr.Immediate{Register: register, Data: data}, &expr.Meta{Key: expr.MetaKeyMARK, Register: register, SourceRegister: true},
					&expr.Ct{Key: expr.CtKeyMARK, Register: register, SourceRegister: mode&4 == 0},
					&expr.Target{Name: "CONNMARK", Info: &raw}, &expr.Target{Name: "MARK", Info: &raw},
				}},
			}},
		}
		p := packet{to: addr("192.0.2.25"), port: traffic.Port{Number: 25, Transport: traffic.TCP}}
		_ = table.walk(table.chains[0], p)
		_ = table.markWrites()
		for _, rule := range table.rules["c"] {
			_ = table.ruleText(rule)
		}
	})
}
