package ladder

import (
	"fmt"
	"os"
	"strconv"
	"strings"
)

// ResidentOf is the memory that a process has resident, in bytes (VmRSS, proc(5)).
func ResidentOf(pid int) (int64, error) {
	path := fmt.Sprintf("/proc/%d/status", pid)
	text, err := os.ReadFile(path)
	if err != nil {
		return 0, fmt.Errorf("read memory: %w", err)
	}
	n, err := residentIn(string(text))
	if err != nil {
		return 0, fmt.Errorf("read memory: %q: %w", path, err)
	}
	return n, nil
}

// residentIn finds it in a text that has lines like "VmRSS:	   10240 kB".
func residentIn(text string) (int64, error) {
	for line := range strings.Lines(text) {
		rest, found := strings.CutPrefix(line, "VmRSS:")
		if !found {
			continue
		}
		kibibytes, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 10, 64)
		if err != nil {
			return 0, fmt.Errorf("%q is no size: %w", strings.TrimSpace(line), err)
		}
		return kibibytes << 10, nil
	}
	return 0, fmt.Errorf("it has no line VmRSS")
}
