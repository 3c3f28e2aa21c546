package doctor

import (
	"math/bits"
	"slices"

	"github.com/splitd/splitd/traffic"
)

// judgeMarks tells of each rule that changes mark bits of ours or routes by
// them. A flow's way hangs on the bits of its class alone: the others, which
// tell evidence which generation drew it, may be anybody's too. Tailscale's
// 0x00ff0000 reaches into those.
func judgeMarks(e *examination) {
	if e.Settings.MarkMask == 0 || len(e.Splits)+len(e.Relayed)+len(e.Paths) == 0 {
		return
	}
	rules, used := e.marksInRules()
	found := slices.Clone(rules)
	for _, table := range e.Tables {
		for _, w := range table.markWrites() {
			used |= w.sets
			if w.clears != ^uint32(0) {
				used |= w.clears
			}
			if f, harms := e.judgeMarkWrite(table, w); harms {
				found = append(found, f)
			}
		}
	}
	for _, f := range found {
		mask := freeMask(e.Settings.MarkMask, used)
		f.Do, f.Cure = "set", seen("netfilter: {mark_mask: 0x%08x}", mask)
		if mask == e.Settings.MarkMask { // only another program's can give way
			f.Do, f.Cure = "make that rule use a mask; see", "nft -a list ruleset"
		}
		e.add(f)
	}
}

// marksInRules finds the ip rules of others that look at bits of a class: all
// that a packet's mark has of ours. It also returns all bits that others use.
func (e *examination) marksInRules() (found []Finding, used uint32) {
	class := e.Settings.ClassMask()
	for _, r := range e.Rules {
		if r.Ours || !r.looksAtMark() {
			continue
		}
		used |= r.Mark
		if r.Mask != ^uint32(0) {
			used |= r.Mask
		}
		if r.Mark&r.Mask&class != 0 {
			found = append(found, Finding{
				Level: LevelWarning,
				Seen:  seen("another program's rule routes by mark bits of splitd's (0x%08x): %s", class, r.Text),
				Why:   "marked flows of splitd follow it, or its flows splitd's rules",
			})
		}
	}
	return found, used
}

// judgeMarkWrite says whether a change of a mark harms a flow's class, or the
// generation beside it.
func (e *examination) judgeMarkWrite(table Table, w markWrite) (Finding, bool) {
	all, class := e.Settings.MarkMask, e.Settings.ClassMask()
	byMark := slices.ContainsFunc(e.Paths, func(p traffic.ReturnPath) bool { return p.Match == traffic.MatchMark })
	harms := w.sets&class != 0 || w.clears&class != 0 && (w.tracked || byMark)
	blurs := w.tracked && (w.sets|w.clears)&all != 0
	what := "packet"
	if w.tracked {
		what = "conntrack"
	}
	f := Finding{
		Level: LevelWarning,
		Seen: seen("another program's rule changes %s mark bits 0x%08x, of which 0x%08x are splitd's: table %s %s, chain %s, handle %d",
			what, w.sets|w.clears, (w.sets|w.clears)&all, table.family, table.name, w.chain, w.handle),
		Why: "a flow loses the class that splitd gave it: its replies go astray, or it is not masqueraded",
	}
	if !harms {
		f.Level = LevelNote
		f.Why = seen("flows go where they should, for their class is in other bits (0x%08x); but what is told of them may be told of another generation", class)
		f.If = "if evidence by generation is to be exact,"
	}
	return f, harms || blurs
}

// freeMask are as many neighbouring bits as the mask has, or fewer but enough,
// of which none is used, in the upper half if possible: people write small
// marks. It is the mask itself when there are none.
func freeMask(mask, used uint32) uint32 {
	for _, lowest := range []int{16, 0} {
		for n := max(bits.OnesCount32(mask), maskBits); n >= maskBits; n-- {
			for shift := 32 - n; shift >= lowest; shift-- {
				if m := (uint32(1)<<n - 1) << shift; m&used == 0 {
					return m
				}
			}
		}
	}
	return mask
}

// maskBits is how many bits a mask needs at least (netfilter.Settings).
const maskBits = 6
