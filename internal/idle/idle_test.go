package idle_test

import (
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/splitd/splitd/internal/idle"
)

// childEnv makes the test binary a process that enters: there is no way back.
const childEnv = "IDLE_TEST_CHILD"

func TestMain(m *testing.M) {
	if os.Getenv(childEnv) != "" {
		os.Exit(child())
	}
	os.Exit(m.Run())
}

// child has many threads, those of before and those of after.
func child() int {
	var made sync.WaitGroup
	release := make(chan struct{})
	more := func() {
		var stand sync.WaitGroup
		stand.Add(20)
		for range 20 {
			made.Go(func() {
				runtime.LockOSThread()
				stand.Done()
				<-release
			})
		}
		stand.Wait()
	}
	more()
	if err := idle.Enter(); err != nil {
		println(err.Error())
		return 1
	}
	more()
	defer made.Wait()
	defer close(release)
	threads, err := os.ReadDir("/proc/self/task")
	if err != nil {
		println(err.Error())
		return 1
	}
	for _, t := range threads {
		policy, err := os.ReadFile("/proc/self/task/" + t.Name() + "/stat")
		if err != nil {
			continue // it has ended
		}
		// policy is field 41 of proc_pid_stat(5), the 39th behind the name.
		fields := strings.Fields(string(policy[strings.LastIndex(string(policy), ")")+1:]))
		if fields[38] != "5" {
			println("thread", t.Name(), "has policy", fields[38])
			return 1
		}
	}
	return 0
}

func TestAllThreadsOfAProcessThatEntersAreIdleAlsoThoseMadeLater(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), childEnv+"=1")
	if said, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, said)
	}
}
