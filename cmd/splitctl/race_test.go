//go:build race

package main

import "time"

// What the race detector may cost.
const (
	slowdown      = 20
	raceAllowance = time.Second
)
