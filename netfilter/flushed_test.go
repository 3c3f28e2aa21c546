package netfilter

import (
	"net"
	"testing"

	"github.com/google/nftables"

	"github.com/splitd/splitd/traffic"
)

// What the kernel does to open flows that were sent to another host when
// somebody flushes the whole ruleset and we put ours back: a flow that speaks
// while no nat chain of its family is left is not translated, and ends with a
// reset; one that is silent until the rules are back notices nothing. The chain
// need not be ours, and a flush leaves a table that is owned (since 5.12).
func TestAFlushedRulesetEndsOpenFlowsThatSpeakWhileNoNATChainIsLeft(t *testing.T) {
	for _, tc := range []struct {
		name           string
		beside         func(conn *nftables.Conn)
		speaks, silent int // how many of each half live on
	}{
		{"no other nat chain", func(*nftables.Conn) {}, 0, half},
		{"one in a table that is flushed, too", func(conn *nftables.Conn) { addNAT(conn, nftables.TableFamilyINet, 0) }, 0, half},
		{"one in a table that somebody owns", func(conn *nftables.Conn) { addNAT(conn, nftables.TableFamilyINet, nftables.TableFlagOwner) }, half, half},
		{"one for IPv4 alone in such a table", func(conn *nftables.Conn) { addNAT(conn, nftables.TableFamilyIPv4, nftables.TableFlagOwner) }, half / 2, half},
	} {
		t.Run(tc.name, func(t *testing.T) {
			lab := newSplitLab(t)
			lab.serveAll()
			lab.apply(remoteSplit(1, traffic.Whole))
			owner := lab.connect()
			defer func() { _ = owner.CloseLasting() }()
			tc.beside(owner)
			if err := owner.Flush(); err != nil {
				t.Fatal(err)
			}
			var open []net.Conn
			for i := range 2 * half {
				c, _ := lab.dial([]string{service25v4, service25v6}[i%2])
				open = append(open, c)
			}
			lab.flushAsOthers()
			speaks := alive(open[:half])
			lab.apply(remoteSplit(1, traffic.Whole))
			if silent := alive(open[half:]); speaks != tc.speaks || silent != tc.silent {
				t.Errorf("of %d each, %d that spoke before the repair and %d that did not live on, want %d and %d", half, speaks, silent, tc.speaks, tc.silent)
			}
		})
	}
}

const half = 10

func alive(flows []net.Conn) (n int) {
	for _, c := range flows {
		if echoes(c) == nil {
			n++
		}
	}
	return n
}

func (lab *splitLab) connect() *nftables.Conn {
	lab.t.Helper()
	conn, err := nftables.New(nftables.AsLasting(), nftables.WithNetNSFd(lab.router.FD()))
	if err != nil {
		lab.t.Fatal(err)
	}
	return conn
}

// addNAT adds a table with a nat chain and a rule that uses conntrack.
func addNAT(conn *nftables.Conn, family nftables.TableFamily, flags nftables.TableFlags) {
	table := conn.AddTable(&nftables.Table{Name: "others", Family: family, Flags: flags})
	chain := conn.AddChain(&nftables.Chain{
		Name: "nat", Table: table, Type: nftables.ChainTypeNAT,
		Hooknum: nftables.ChainHookPostrouting, Priority: nftables.ChainPriorityNATSource,
	})
	conn.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: append(established{}.expressions(), countHere{}.expressions()...)})
}
