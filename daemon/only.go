package daemon

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/splitd/splitd/control/api"
	"github.com/splitd/splitd/state"
)

// mustBeTheOnlyOne refuses a run on a state directory that another splitd has:
// what is in force by that one would be gone from restore.json, and its forced
// off taken. A splitd that only drains what it had is followed; and a store that
// another program locks, a backup, is one that cannot be written.
func (d *Daemon) mustBeTheOnlyOne(storeErr error, before *api.Ending) error {
	locked, ok := errors.AsType[*state.Locked](storeErr)
	if !ok || locked.Program != "" && locked.Program != ownName() {
		return nil
	}
	if before != nil && before.PID == cmp.Or(locked.PID, before.PID) {
		return nil
	}
	who := "another splitd"
	if locked.PID > 0 {
		who = fmt.Sprintf("another splitd (pid %d)", locked.PID)
	}
	return fmt.Errorf("start: %s runs on the state_dir %q: stop it, or give this one a state_dir and a control.socket of its own",
		who, d.options.Config.StateDir)
}

// ownName is this program's, comm in proc(5).
func ownName() string {
	name, err := os.ReadFile("/proc/self/comm")
	if err != nil {
		return "splitd"
	}
	return strings.TrimSpace(string(name))
}
