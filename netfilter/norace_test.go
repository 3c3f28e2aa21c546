//go:build !race

package netfilter

const usualEffort = 1
