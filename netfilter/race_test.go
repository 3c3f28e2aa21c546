//go:build race

package netfilter

// usualEffort is what the race detector leaves time for.
const usualEffort = 0.2
