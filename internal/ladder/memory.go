package ladder

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// ResidentOf is the memory that a process and its [Family] have resident, in bytes
// (VmRSS, proc(5)), added up: a page that two of them share counts twice.
func ResidentOf(pid int) (int64, error) {
	var sum int64
	for i, one := range Family(pid) {
		n, err := residentOf(one)
		if err != nil && i > 0 {
			continue // it has ended meanwhile
		}
		if err != nil {
			return 0, err
		}
		sum += n
	}
	return sum, nil
}

// Family is a process, and after it those that it has started and they have, as far
// as they live. Each thread has children of its own (proc_pid_task_children(5)).
func Family(pid int) []int {
	all := []int{pid}
	for i := 0; i < len(all); i++ {
		lists, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", all[i])) // its pattern is good
		for _, list := range lists {
			text, err := os.ReadFile(list)
			if err != nil {
				continue // the thread has ended meanwhile
			}
			for word := range strings.FieldsSeq(string(text)) {
				if child, err := strconv.Atoi(word); err == nil {
					all = append(all, child)
				}
			}
		}
	}
	return all
}

// residentOf is the memory of one process.
func residentOf(pid int) (int64, error) {
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
