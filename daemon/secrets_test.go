package daemon

import (
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestWhoHasKeysLeavesNoMemoryInCoreDumps(t *testing.T) {
	if err := noCores(); err != nil {
		t.Fatal(err)
	}
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_CORE, &limit); err != nil || limit != (unix.Rlimit{}) {
		t.Errorf("the limit of cores is %+v, %v", limit, err)
	}
	filter, err := os.ReadFile("/proc/self/coredump_filter")
	if err != nil || strings.Trim(string(filter), "0\n") != "" {
		t.Errorf("what is dumped is %q, %v", filter, err)
	}
	if err := noCores(); err != nil {
		t.Errorf("a second time: %v", err)
	}
}
