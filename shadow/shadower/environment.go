package shadower

import (
	"fmt"
	"runtime"
)

// memoryBeside is what the process needs besides the budget, in bytes: code, stacks,
// and what was counted of all splits.
const memoryBeside = 96 << 20

// limits are those of Go's runtime: half of the processors, and a collector that works
// harder than elsewhere: its time is nobody's, memory is the host's.
func limits(budget int64) []string {
	return []string{
		fmt.Sprintf("GOMAXPROCS=%d", max(1, runtime.NumCPU()/2)),
		"GOGC=50",
		fmt.Sprintf("GOMEMLIMIT=%d", budget+memoryBeside),
	}
}
