// Package netfilter is the kernel data plane: nftables rules that send a share
// of new flows to another backend, and, on the backend's host, the rules that
// bring the replies back through the router. No packet passes userspace and
// the rules outlive the process.
//
// Build turns splits into a Ruleset, a value that prints as the text that
// `nft -s list table inet splitd` prints. Kernel brings the kernel to it, in
// as few transactions as needed and without a moment in which a new flow
// falls through, and tells what the kernel does now.
//
// Only tables named splitd*, the configured mark bits, route tables and rule
// priorities are touched. README.md has the hooks, the life of a packet and
// why weights change the way they do.
package netfilter
