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

// A start reads keys to judge them, as an apply and doctor do, also while nothing is sampled.
func TestNoKeyIsReadBeforeCoreDumpsAreEmpty(t *testing.T) {
	const filter = "/proc/self/coredump_filter"
	w := newWorld(t)
	_, w.files = inTLS(t, pairOfFiles(t), 5)
	if err := os.WriteFile(filter, []byte("0x33"), 0); err != nil {
		t.Fatal(err)
	}
	d := w.mustBoot()
	if split := d.view.Load().splits()[0]; split.Sample != 0 {
		t.Fatalf("%s is sampled", split.Sample)
	}
	if text, err := os.ReadFile(filter); err != nil || strings.Trim(string(text), "0\n") != "" {
		t.Errorf("what is dumped is %q, %v", text, err)
	}
}
