package shadower

import (
	"fmt"
	"runtime"
)

// memoryBeside is what the process needs besides the budget, in bytes: code, stacks,
// and what was counted of all splits.
const memoryBeside = 96 << 20

// limits are those of Go's runtime: half of the processors, unless it competes for them
// with everybody, and a collector that works
// harder than elsewhere: its time is nobody's, memory is the host's.
func limits(budget int64, p Priority) []string {
	processors := max(1, runtime.NumCPU()/2)
	if p == Normal {
		processors = runtime.NumCPU()
	}
	return []string{
		fmt.Sprintf("GOMAXPROCS=%d", processors),
		"GOGC=50",
		fmt.Sprintf("GOMEMLIMIT=%d", budget+memoryBeside),
	}
}
