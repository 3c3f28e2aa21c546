package doctor

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/splitd/splitd/traffic"
)

// feature is something of nf_tables and a rule that needs it.
type feature struct {
	name, reason string
	needs        func(Question) bool
	flags        nftables.TableFlags // of the table
	exprs        []expr.Any
}

// featureTProxy is what splits do without where they have to: nothing is sampled then.
const featureTProxy = "handing a share of flows over to be shadowed (shadow.sample)"

// features are what our rules use. All are tried in a chain without a hook, so
// that no packet passes it and no translation is turned on.
func features() []feature {
	splits := func(q Question) bool { return len(q.Splits) > 0 }
	any := func(is func(traffic.Split) bool) func(Question) bool {
		return func(q Question) bool { return slices.ContainsFunc(q.Splits, is) }
	}
	return []feature{
		{"nft_ct", "conntrack marks", func(q Question) bool { return len(q.Splits)+len(q.Relayed)+len(q.Paths) > 0 }, 0, []expr.Any{
			&expr.Immediate{Register: 1, Data: make([]byte, 4)}, &expr.Ct{Key: expr.CtKeyMARK, Register: 1, SourceRegister: true},
		}},
		{"nft_numgen", "drawing a backend", splits, 0, []expr.Any{&expr.Numgen{Register: 1, Modulus: 2, Type: unix.NFT_NG_RANDOM}}},
		{"nft_hash", "affinity: source", any(func(s traffic.Split) bool { return s.Affinity == traffic.AffinitySource }), 0, []expr.Any{
			&expr.Payload{DestRegister: 2, Base: expr.PayloadBaseNetworkHeader, Offset: sourceAt4, Len: 4},
			&expr.Hash{SourceRegister: 2, DestRegister: 1, Length: 4, Modulus: 2, Type: expr.HashTypeJenkins},
		}},
		{"nft_nat", "sending flows to another host", splits, 0, []expr.Any{
			&expr.Immediate{Register: 1, Data: []byte{127, 0, 0, 1}}, &expr.NAT{Type: expr.NATTypeDestNAT, Family: unix.NFPROTO_IPV4, RegAddrMin: 1},
		}},
		{"nft_masq", "return: masquerade", any(func(s traffic.Split) bool { return s.Return == traffic.ReturnMasquerade }), 0, []expr.Any{&expr.Masq{}}},
		{"nft_tproxy", featureTProxy, any(func(s traffic.Split) bool { return s.Sample > 0 || s.SamplePort != 0 }), 0, []expr.Any{
			&expr.Immediate{Register: 1, Data: []byte{127, 0, 0, 1}}, &expr.Immediate{Register: 2, Data: []byte{0, 1}},
			&expr.TProxy{Family: unix.NFPROTO_IPV4, TableFamily: unix.NFPROTO_INET, RegAddr: 1, RegPort: 2},
		}},
		{
			"persist flag of tables (Linux 6.9)", "keeping our tables when another program flushes the ruleset", func(Question) bool { return false },
			nftables.TableFlagOwner | nftables.TableFlagPersist, nil,
		},
	}
}

// missingFeatures tries each feature in a transaction that is never committed.
func missingFeatures(q Question) []Feature {
	var missing []Feature
	for _, f := range features() {
		if err := dryRun(f.flags, f.exprs); err != nil {
			missing = append(missing, Feature{Name: f.name, For: f.reason, Needed: f.needs(q), Err: err.Error()})
		}
	}
	return missing
}

// dryRun lets the kernel check a table with one chain and one rule and undo it
// again, as `nft --check` does: a batch whose end is missing is aborted
// (nfnetlink_rcv_batch, net/netfilter/nfnetlink.c).
func dryRun(flags nftables.TableFlags, exprs []expr.Any) error {
	messages, err := batchOf(flags, exprs)
	if err != nil {
		return err
	}
	conn, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		return fmt.Errorf("open netlink: %w", err)
	}
	defer func() { _ = conn.Close() }()
	if err := conn.SetDeadline(time.Now().Add(2 * time.Second)); err != nil {
		return fmt.Errorf("set deadline: %w", err)
	}
	if _, err := conn.SendMessages(messages); err != nil {
		return fmt.Errorf("send transaction: %w", err)
	}
	for _, m := range messages {
		if m.Header.Flags&netlink.Acknowledge == 0 {
			continue
		}
		if _, err := conn.Receive(); err != nil {
			if reason, ok := errors.AsType[*netlink.OpError](err); ok {
				return reason.Err
			}
			return err
		}
	}
	return nil
}

// dryTable is the name of the table that never comes to be.
const dryTable = "splitd_doctor"

// batchOf is the transaction without its end.
func batchOf(flags nftables.TableFlags, exprs []expr.Any) ([]netlink.Message, error) {
	var sent []netlink.Message
	conn, err := nftables.New(nftables.WithTestDial(func(request []netlink.Message) ([]netlink.Message, error) {
		sent = append(sent, request...)
		return nil, nil
	}))
	if err != nil {
		return nil, err
	}
	table := conn.AddTable(&nftables.Table{Family: nftables.TableFamilyINet, Name: dryTable, Flags: flags})
	chain := conn.AddChain(&nftables.Chain{Name: "try", Table: table})
	if len(exprs) > 0 {
		conn.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: exprs})
	}
	if err := conn.Flush(); err != nil {
		return nil, fmt.Errorf("make transaction: %w", err)
	}
	if len(sent) < 2 {
		return nil, errors.New("make transaction: it is empty")
	}
	for i := range sent {
		sent[i].Header.PID, sent[i].Header.Sequence = 0, 0
		if i > 0 { // the beginning is never answered
			sent[i].Header.Flags |= netlink.Acknowledge
		}
	}
	return sent[:len(sent)-1], nil
}
