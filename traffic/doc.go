// Package traffic is the vocabulary of splitd: the nouns that every other
// package speaks in. It is pure: standard library only, no I/O, no goroutines,
// no globals that change. Values are passed by copy and never modified by the
// functions that receive them.
//
//	Split      a named service and its weighted backends
//	Service    the addresses and ports that clients use
//	Backend    one place flows can go; `local` is this host itself
//	Primary    the known-good backend; it takes every share no candidate takes
//	Candidate  a backend under trial
//	Weight     a candidate's share of new flows, in parts per million
//	Flow       a TCP connection or a UDP conntrack entry (in mode proxy what one
//	           client address and port exchange with one of the service's): the
//	           unit that is split
//	Affinity   whether a client network keeps its side
//	Clients    the networks that always or never go to a candidate (groups)
//	Mirror     a collector that gets a copy of a share of the UDP flows
//	Slots      which part of the draw is whose
//	Generation the number of one state of one split
//	Return     how replies of a flow sent elsewhere come back through this host
//	Override   a weight that an operator set above the file's
//	Health     how backends are checked, and when they are down
package traffic
