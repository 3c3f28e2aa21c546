package splitter

import (
	"math"
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/splitd/splitd/internal/nettest"
	"github.com/splitd/splitd/traffic"
)

func TestFlowsLeaveHalfOfTheMemoryToOthers(t *testing.T) {
	for memory, want := range map[uint64]int64{1 << 30: 52_428, 24 << 30: 1_258_291, 0: 0, math.MaxUint64: 900_719_925_474_099} {
		if got := flowsIn(memory); got != want {
			t.Errorf("in %d bytes %d flows may be open, want %d", memory, got, want)
		}
	}
}

func TestTheMemoryThatFlowsMayTakeIsTheLeastOfHostAndControlGroups(t *testing.T) {
	var host unix.Sysinfo_t
	if err := unix.Sysinfo(&host); err != nil {
		t.Fatal(err)
	}
	all := host.Totalram * uint64(host.Unit)
	for name, test := range map[string]struct {
		files map[string]string
		want  uint64
	}{
		"no control groups": {nil, all},
		"version 1 alone":   {map[string]string{"proc/self/cgroup": "4:memory:/a\n"}, all},
		"its own":           {map[string]string{"proc/self/cgroup": "0::/system.slice/splitd.service\n", "sys/fs/cgroup/system.slice/splitd.service/memory.max": "536870912\n"}, 512 << 20},
		"one above it": {map[string]string{
			"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/b/memory.max": "max\n", "sys/fs/cgroup/a/memory.max": "1048576\n",
		}, 1 << 20},
		"no limit":                {map[string]string{"proc/self/cgroup": "0::/a\n", "sys/fs/cgroup/a/memory.max": "max\n"}, all},
		"the root of a container": {map[string]string{"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": "2097152\n"}, 2 << 20},
		"a path that climbs":      {map[string]string{"proc/self/cgroup": "0::/../../x\n", "sys/fs/cgroup/x/memory.max": "4096\n"}, 4096},
		"what is no number":       {map[string]string{"proc/self/cgroup": "0::/a\n", "sys/fs/cgroup/a/memory.max": "much\n"}, all},
	} {
		t.Run(name, func(t *testing.T) {
			root := t.TempDir()
			for path, text := range test.files {
				path = filepath.Join(root, path)
				if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			if got := memoryLimit(root); got != test.want {
				t.Errorf("memoryLimit() = %d, want %d", got, test.want)
			}
		})
	}
}

// A host with little memory refuses flows in time, instead of having the kernel
// end the process with all of them.
func TestFlowsThatWouldTakeTooMuchMemoryAreResetAndCounted(t *testing.T) {
	ip := families()["IPv4"]
	service := netip.AddrPortFrom(ip, freePort())
	split := newSplit("mx", service, startServer(t, ip, echo), nil)
	r := startRelay(t, Options{Workers: 1}, split) // whose files are changed on its own thread
	kept := dial(t, service)
	exchange(t, kept, "one that is open")
	r.inspect(func(w *worker) { w.relay.files.most, w.relay.files.lack = filesOfFlow, unix.ENOMEM })
	awaitReset(t, dial(t, service))
	exchange(t, kept, "one that stays")
	nettest.Eventually(t, "it is counted", func() bool { return r.Refusals()["mx"][traffic.RefusedNoMemory] > 0 })
	if got := r.Refusals()["mx"][traffic.RefusedNoFiles]; got != 0 {
		t.Errorf("%d flows are counted as lacking files, want none", got)
	}
	var f files
	f.most, f.lack = 1000, unix.EMFILE
	if f.bound(600); f.most != 1000 || f.lack != unix.EMFILE {
		t.Errorf("memory for 600 flows bounds 500: %d, %v", f.most, f.lack)
	}
	if f.bound(400); f.most != 800 || f.lack != unix.ENOMEM {
		t.Errorf("memory for 400 flows: %d descriptors, lack %v, want 800 and %v", f.most, f.lack, unix.ENOMEM)
	}
}
