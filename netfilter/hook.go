package netfilter

// The kinds of chains (nft(8)).
const (
	kindNAT    = "nat"
	kindFilter = "filter"
	kindRoute  = "route" // looks the route up again when the mark has changed
)
