package netfilter

import (
	"cmp"
	"fmt"

	"github.com/google/nftables"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// allRules reads the rules of a table, by chain, in one dump: one a chain would
// be tens of thousands for the splits that a host can have. The library always
// names a chain when it asks, and has no other way to read what is answered,
// so it is given a dial that asks for the whole table in its place.
func (l *link) allRules(table *nftables.Table) (map[string][]*nftables.Rule, error) {
	if err := l.open(); err != nil { // thousands of splits take their time
		return nil, err
	}
	var unread error // the library would ask a dial that fails for ever
	conn, err := nftables.New(nftables.WithTestDial(func(requests []netlink.Message) ([]netlink.Message, error) {
		answers, err := l.askForTable(requests)
		unread = cmp.Or(unread, err)
		return answers, nil
	}))
	if err != nil {
		return nil, fmt.Errorf("read table %q: %w", table.Name, err)
	}
	rules, err := conn.GetRules(table, &nftables.Chain{Table: table})
	if err = cmp.Or(unread, err); err != nil {
		return nil, fmt.Errorf("read table %q: %w", table.Name, l.failed(err))
	}
	byChain := map[string][]*nftables.Rule{}
	for _, r := range rules {
		byChain[r.Chain.Name] = append(byChain[r.Chain.Name], r)
	}
	return byChain, nil
}

// askForTable sends a request for rules without the name of the chain, and
// returns all answers. Without a request there are none.
func (l *link) askForTable(requests []netlink.Message) ([]netlink.Message, error) {
	if len(requests) != 1 {
		return nil, nil
	}
	request := requests[0]
	attributes, err := netlink.UnmarshalAttributes(request.Data[nfgenmsgSize:])
	if err != nil {
		return nil, err
	}
	var kept []netlink.Attribute
	for _, a := range attributes {
		if a.Type != unix.NFTA_RULE_CHAIN {
			kept = append(kept, a)
		}
	}
	data, err := netlink.MarshalAttributes(kept)
	if err != nil {
		return nil, err
	}
	answers, err := l.socket.Execute(netlink.Message{
		Header: netlink.Header{Type: request.Header.Type, Flags: request.Header.Flags},
		Data:   append(request.Data[:nfgenmsgSize:nfgenmsgSize], data...),
	})
	if err != nil {
		return nil, err
	}
	for i := range answers {
		answers[i].Header.Flags &^= netlink.Multi // they have come, all of them
	}
	return answers, nil
}
