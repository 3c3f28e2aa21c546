//go:build race

package main

import "time"

// What the race detector may cost.
const raceAllowance = time.Second
