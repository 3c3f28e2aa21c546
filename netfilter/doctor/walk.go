package doctor

import (
	"bytes"
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/xt"

	"github.com/splitd/splitd/traffic"
)

// Where a foreign chain is hooked, and its kind.
const (
	hookPrerouting = "prerouting"
	hookInput      = "input"
	hookOutput     = "output"
	hookForward    = "forward"
	kindNAT        = "nat"
	kindFilter     = "filter"
)

// Table is another program's table: its base chains that matter to us, every
// chain and set that they lead to, and in a whole look all other chains.
type Table struct {
	family string // "ip", "ip6" or "inet"
	name   string
	chains []baseChain // those with a hook
	rules  map[string][]*nftables.Rule
	sets   map[string]namedSet
}

type baseChain struct {
	name, kind, hook string
	priority         int
	drops            bool // policy drop
}

type namedSet struct {
	interval bool
	concat   bool
	elements []nftables.SetElement
}

// packet is the first packet of a client's flow, as far as it is known: the
// client's address and port are not.
type packet struct {
	to         netip.Addr
	port       traffic.Port
	in, out    string // devices, "" when not known
	translated bool   // its destination has been translated
}

// answer is what can be said of a condition with facts missing.
type answer int

const (
	no answer = iota
	maybe
	yes
)

// walk is a packet's way through a foreign base chain.
type walk struct {
	table      Table
	packet     packet
	translated answer
	by         struct { // the rule that translates
		chain  string
		handle uint64
	}
	hindrances []*nftables.Rule // that may keep it back
	accepted   bool             // for sure
	refused    bool             // for sure: dropped or rejected
}

// drops says whether the packet does not pass the chain: because the policy
// drops what is not accepted for sure, or because a rule does so for sure.
func (w walk) drops(c baseChain) bool { return !w.accepted && (c.drops || w.refused) }

// walkDepth is the kernel's limit of nested jumps (NFT_JUMP_STACK_SIZE).
const walkDepth = 16

func (t Table) walk(c baseChain, p packet) walk {
	w := walk{table: t, packet: p}
	if t.family == "ip" && !p.to.Is4() || t.family == "ip6" && p.to.Is4() {
		w.accepted = true
		return w
	}
	w.chain(c.name, true, walkDepth)
	return w
}

// chain walks the rules; certain says that the packet comes here for sure. It
// returns whether it ends here for sure.
func (w *walk) chain(name string, certain bool, depth int) (ended bool) {
	if depth == 0 {
		return false
	}
	for _, rule := range w.table.rules[name] {
		match, do := w.table.evaluate(rule.Exprs, w.packet)
		if match == no {
			continue
		}
		if hinders(rule.Exprs, do) {
			w.hindrances = append(w.hindrances, rule)
		}
		certain := certain && match == yes
		switch do.kind {
		case doTranslate:
			if w.translated == no {
				w.translated, w.by.chain, w.by.handle = maybe, name, rule.Handle
			}
			if certain {
				w.translated, w.by.chain, w.by.handle = yes, name, rule.Handle
				return true
			}
		case doAccept:
			if certain {
				w.accepted = true
				return true
			}
		case doDrop:
			if certain {
				w.refused = true
				return true
			}
		case doReturn:
			if certain {
				return false
			}
		case doJump:
			if w.chain(do.chain, certain, depth-1) {
				return true
			}
		case doGoto:
			if ended := w.chain(do.chain, certain, depth-1); ended || certain {
				return ended
			}
		case doNothing:
		}
	}
	return false
}

type actionKind int

const (
	doNothing actionKind = iota
	doAccept
	doDrop
	doReturn
	doJump
	doGoto
	doTranslate
)

type action struct {
	kind  actionKind
	chain string
}

// evaluate says whether the packet passes the conditions of a rule, and what
// the rule then does.
func (t Table) evaluate(exprs []expr.Any, p packet) (answer, action) {
	result := yes
	var regs registers
	for _, e := range exprs {
		holds := yes
		switch e := e.(type) {
		case *expr.Meta, *expr.Payload, *expr.Ct, *expr.Immediate, *expr.Bitwise:
			regs.load(e, p)
		case *expr.Cmp:
			holds = regs.compare(e)
		case *expr.Range:
			holds = regs.inRange(e)
		case *expr.Match:
			holds = matchExtension(e, p)
		case *expr.Limit, *expr.Connlimit, *expr.Quota, *expr.Fib, *expr.Exthdr, *expr.Hash, *expr.Numgen:
			holds = maybe
		case *expr.Lookup:
			var do action
			if holds, do = t.lookup(e, &regs); do.kind != doNothing {
				return min(result, holds), do
			}
		case *expr.Verdict:
			return result, verdictAction(e)
		case *expr.NAT:
			if e.Type == expr.NATTypeDestNAT {
				return result, action{kind: doTranslate}
			}
		case *expr.Redir:
			return result, action{kind: doTranslate}
		case *expr.Reject:
			return result, action{kind: doDrop}
		case *expr.Target:
			if e.Name == "DNAT" || e.Name == "REDIRECT" {
				return result, action{kind: doTranslate}
			}
		}
		if result = min(result, holds); result == no {
			return no, action{}
		}
	}
	return result, action{}
}

func verdictAction(v *expr.Verdict) action {
	switch v.Kind { //nolint:exhaustive // what is not listed changes no packet's fate
	case expr.VerdictAccept:
		return action{kind: doAccept}
	case expr.VerdictDrop:
		return action{kind: doDrop}
	case expr.VerdictReturn:
		return action{kind: doReturn}
	case expr.VerdictJump:
		return action{kind: doJump, chain: v.Chain}
	case expr.VerdictGoto:
		return action{kind: doGoto, chain: v.Chain}
	}
	return action{}
}

// lookup asks a set or map of the table.
func (t Table) lookup(e *expr.Lookup, regs *registers) (answer, action) {
	set, known := t.sets[e.SetName]
	if !known || set.concat && set.interval || len(set.elements) == 0 {
		if known && len(set.elements) == 0 && !e.Invert {
			return no, action{}
		}
		return maybe, action{}
	}
	key, ok := regs.read(e.SourceRegister, len(set.elements[0].Key))
	if !ok {
		return maybe, action{}
	}
	element := set.find(key)
	if (element != nil) == e.Invert {
		return no, action{}
	}
	if element != nil && element.VerdictData != nil {
		return yes, verdictAction(element.VerdictData)
	}
	return yes, action{}
}

func (s namedSet) find(key []byte) *nftables.SetElement {
	var best *nftables.SetElement
	for i := range s.elements {
		e := &s.elements[i]
		if !s.interval {
			if bytes.Equal(e.Key, key) {
				return e
			}
			continue
		}
		if bytes.Compare(e.Key, key) > 0 {
			continue
		}
		// Of an end and a beginning at the same number the beginning counts.
		if best != nil {
			order := bytes.Compare(e.Key, best.Key)
			if order < 0 || order == 0 && e.IntervalEnd {
				continue
			}
		}
		best = e
	}
	if best == nil || best.IntervalEnd {
		return nil
	}
	return best
}

// matchExtension knows the extensions that iptables-nft leaves as they are.
func matchExtension(e *expr.Match, p packet) answer {
	switch info := e.Info.(type) {
	case *xt.Comment:
		return yes
	case *xt.Tcp:
		if p.port.Transport != traffic.TCP {
			return no
		}
		return matchPorts(info.SrcPorts, info.DstPorts, p, info.InvFlags == 0 && info.Option == 0 && info.FlagsMask == 0)
	case *xt.Udp:
		if p.port.Transport != traffic.UDP {
			return no
		}
		return matchPorts(info.SrcPorts, info.DstPorts, p, info.InvFlags == 0)
	case *xt.ConntrackMtinfo3:
		return matchState(info, p)
	}
	return maybe
}

func matchPorts(source, destination [2]uint16, p packet, plain bool) answer {
	switch inside := destination[0] <= p.port.Number && p.port.Number <= destination[1]; {
	case !plain || source != [2]uint16{0, 65535} || p.port.IsRange():
		return maybe
	case inside:
		return yes
	}
	return no
}

// The bits of --ctstate (XT_CONNTRACK_STATE_* of xt_conntrack.h).
const (
	stateInvalid     = 1 << 0
	stateEstablished = 1 << 1
	stateNew         = 1 << 3
	stateTranslated  = 1 << 7 // DNAT
)

// matchState knows --ctstate alone.
func matchState(info *xt.ConntrackMtinfo3, p packet) answer {
	if info.MatchFlags&^uint16(xt.ConntrackStateAlias) != uint16(xt.ConntrackState) || info.InvertFlags != 0 {
		return maybe
	}
	switch {
	case info.StateMask&stateNew != 0, p.translated && info.StateMask&stateTranslated != 0:
		return yes
	case info.StateMask&^(stateInvalid|stateEstablished|stateTranslated) == 0:
		return no
	}
	return maybe
}
