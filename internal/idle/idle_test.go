package idle_test

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/splitd/splitd/internal/idle"
)

// childEnv makes the test binary a process that enters: there is no way back.
const childEnv = "IDLE_TEST_CHILD"

func TestMain(m *testing.M) {
	switch os.Getenv(childEnv) {
	case "idle": // policy is field 41 of proc_pid_stat(5), nice 19
		os.Exit(child(idle.Enter, field(41, "5")))
	case "low":
		os.Exit(child(idle.Yield, field(19, "19")))
	case "half":
		os.Exit(child(idle.Confine, onHalf()))
	}
	os.Exit(m.Run())
}

// field judges a thread by a field of its stat.
func field(number int, want string) func(thread int) bool {
	return func(thread int) bool {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/self/task/%d/stat", thread))
		if err != nil {
			return true // it has ended
		}
		// The third field is the first behind the name.
		return strings.Fields(string(stat[strings.LastIndex(string(stat), ")")+1:]))[number-3] == want
	}
}

// onHalf judges a thread by the processors that it may use: the last half of those that
// this one may.
func onHalf() func(thread int) bool {
	var all unix.CPUSet
	known := unix.SchedGetaffinity(0, &all) == nil
	return func(thread int) bool {
		var may unix.CPUSet
		if err := unix.SchedGetaffinity(thread, &may); err != nil {
			return err == unix.ESRCH
		}
		last := 0
		for cpu := range len(all) * 64 {
			switch {
			case may.IsSet(cpu) && !all.IsSet(cpu), last > 0 && all.IsSet(cpu) && !may.IsSet(cpu):
				return false
			case may.IsSet(cpu):
				last++
			}
		}
		return known && last == max(1, all.Count()/2)
	}
}

// child has many threads, those of before and those of after.
func child(enter func() error, is func(thread int) bool) int {
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
		if thread, err := strconv.Atoi(t.Name()); err != nil || !is(thread) {
			println("thread", t.Name(), "is not")
			return 1
		}
	}
	return 0
}

func TestAllThreadsOfAProcessAreIdleOrLowOrOnHalfOfTheProcessorsAlsoThoseMadeLater(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for _, how := range []string{"idle", "low", "half"} {
		t.Run(how, func(t *testing.T) {
			cmd := exec.Command(self)
			cmd.Env = append(os.Environ(), childEnv+"="+how)
			if said, err := cmd.CombinedOutput(); err != nil {
				t.Fatalf("%v: %s", err, said)
			}
		})
	}
}
