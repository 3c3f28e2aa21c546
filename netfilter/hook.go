package netfilter

// The kinds of chains (nft(8)).
const (
	kindNAT    = "nat"
	kindFilter = "filter"
)
