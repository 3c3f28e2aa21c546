//go:build !race

package splitter

const withRace = false
