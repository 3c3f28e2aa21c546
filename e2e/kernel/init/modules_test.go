package main

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

// What depmod of Debian 12 writes, shortened.
const (
	someDeps = `kernel/net/netfilter/nf_nat.ko: kernel/net/netfilter/nf_conntrack.ko kernel/net/ipv4/netfilter/nf_defrag_ipv4.ko
kernel/net/netfilter/nf_conntrack.ko: kernel/net/ipv4/netfilter/nf_defrag_ipv4.ko
kernel/net/ipv4/netfilter/nf_defrag_ipv4.ko:
kernel/net/netfilter/nft_chain_nat.ko: kernel/net/netfilter/nf_nat.ko kernel/net/netfilter/nf_conntrack.ko kernel/net/ipv4/netfilter/nf_defrag_ipv4.ko
kernel/drivers/net/veth.ko.xz:
`
	someAliases = `# Aliases extracted from modules themselves.
alias nft-chain-1-nat nft_chain_nat
alias rtnl-link-veth veth
alias cpu:type:x86,ven*fam*mod*:feature:*0099* nowhere
alias net-pf-16-proto-12-type-[12] nf_conntrack
`
)

func TestAModuleIsLoadedAfterWhatItNeeds(t *testing.T) {
	m := parseModules(someDeps, someAliases)
	const defrag, conntrack = "kernel/net/ipv4/netfilter/nf_defrag_ipv4.ko", "kernel/net/netfilter/nf_conntrack.ko"
	for _, tc := range []struct {
		wanted string
		want   []string
	}{
		{"nf_defrag_ipv4", []string{defrag}},
		{"nft-chain-1-nat", []string{defrag, conntrack, "kernel/net/netfilter/nf_nat.ko", "kernel/net/netfilter/nft_chain_nat.ko"}},
		{"rtnl-link-veth", []string{"kernel/drivers/net/veth.ko.xz"}},
		{"net-pf-16-proto-12-type-2", []string{defrag, conntrack}},
		{"net-pf-16-proto-12-type-3", nil},
		{"rtnl-link-dummy", nil},
	} {
		if diff := cmp.Diff(tc.want, m.files(tc.wanted)); diff != "" {
			t.Errorf("files for %s (-want +got):\n%s", tc.wanted, diff)
		}
	}
}
