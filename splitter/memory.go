package splitter

import (
	"bytes"
	"math"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
)

// memoryOfFlow is what a silent flow of TCP takes of the host's memory, most of
// it for the kernel's two sockets (measured: 9 KiB, bench/results.md), and a rest of
// bufferLeast for each way. What its sockets take besides when it streams the kernel
// bounds for all connections together (tcp_mem in tcp(7)), and what rests take the
// relay does (keptIn).
const memoryOfFlow = 10 << 10

// flowsIn says how many flows may be open in so many bytes of memory: as many as
// take half of it.
func flowsIn(memory uint64) int64 {
	return int64(min(memory/2/memoryOfFlow, math.MaxInt64))
}

// keptPart is what part of the memory rests may have, of all workers together. What
// is no rest any more the garbage collector may leave there for as long as it is less
// than that again.
const keptPart = 16

// keptIn says how much of so many bytes the rests of each worker may have.
func keptIn(memory uint64, workers int) int {
	return int(memory / keptPart / uint64(workers)) // fits, by the part
}

// memoryLimit is how many bytes this process may take: the host's memory, or the
// least that one of its control groups may (memory.max, version 2 in cgroups(7)).
// Root is the root directory.
func memoryLimit(root string) uint64 {
	limit := uint64(math.MaxUint64)
	var host unix.Sysinfo_t
	if unix.Sysinfo(&host) == nil {
		limit = host.Totalram * uint64(host.Unit)
	}
	group := groupIn(root)
	for group != "" {
		if text, err := os.ReadFile(filepath.Join(root, "sys/fs/cgroup", group, "memory.max")); err == nil {
			limit = min(limit, memoryMax(text))
		}
		if group == "/" {
			break
		}
		group = filepath.Dir(group)
	}
	return limit
}

// groupIn is this process's control group, "" where it has none of version 2.
func groupIn(root string) string {
	text, err := os.ReadFile(filepath.Join(root, "proc/self/cgroup"))
	if err != nil {
		return ""
	}
	for line := range bytes.Lines(text) {
		if group, found := bytes.CutPrefix(bytes.TrimSpace(line), []byte("0::/")); found {
			return filepath.Clean("/" + string(group))
		}
	}
	return ""
}

// memoryMax is the limit that a file memory.max says; "max" is none.
func memoryMax(text []byte) uint64 {
	n, err := strconv.ParseUint(string(bytes.TrimSpace(text)), 10, 64)
	if err != nil {
		return math.MaxUint64
	}
	return n
}
