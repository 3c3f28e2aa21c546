//go:build !race

package splitter

// restMost is how many bytes a flow that rests may have.
const restMost = 1 << 10
