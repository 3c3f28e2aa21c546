//go:build !race

package main

import "time"

// What the race detector may cost: here there is none.
const (
	slowdown      = 1
	raceAllowance = time.Duration(0)
)
