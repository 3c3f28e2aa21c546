//go:build race

package splitter

// withRace says that the race detector is in the program, with memory of its own for each
// byte of it.
const withRace = true
