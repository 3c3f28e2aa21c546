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
	switch os.Getenv(childEnv) {
	case "idle": // policy is field 41 of proc_pid_stat(5), nice 19
		os.Exit(child(idle.Enter, 41, "5"))
	case "low":
		os.Exit(child(idle.Yield, 19, "19"))
	}
	os.Exit(m.Run())
}

// child has many threads, those of before and those of after.
func child(enter func() error, field int, want string) int {
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
	if err := enter(); err != nil {
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
		stat, err := os.ReadFile("/proc/self/task/" + t.Name() + "/stat")
		if err != nil {
			continue // it has ended
		}
		// The third field is the first behind the name.
		if got := strings.Fields(string(stat[strings.LastIndex(string(stat), ")")+1:]))[field-3]; got != want {
			println("thread", t.Name(), "has", got)
			return 1
		}
	}
	return 0
}

func TestAllThreadsOfAProcessAreIdleOrLowAlsoThoseMadeLater(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for _, how := range []string{"idle", "low"} {
		t.Run(how, func(t *testing.T) {
			cmd := exec.Command(self)
			cmd.Env = append(os.Environ(), childEnv+"="+how)
			if said, err := cmd.CombinedOutput(); err != nil {
				t.Fatalf("%v: %s", err, said)
			}
		})
	}
}
