//go:build race

package splitter

// restMost is with what the race detector remembers of each byte.
const restMost = 4 << 10
