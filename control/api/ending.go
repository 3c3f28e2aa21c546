package api

import (
	"fmt"
	"time"
)

// EndingSuffix is behind the path of a control socket the name of the file in
// which a daemon that ends says so. A lock on the file (F_OFD_SETLK, fcntl(2))
// lasts as long as the daemon: one without is of a daemon that was killed.
const EndingSuffix = ".ending"

// Ending is what a daemon says that has been told to stop, while open flows of
// its relay drain.
type Ending struct {
	PID   int       `json:"pid"`
	Flows int       `json:"flows"`
	AsOf  time.Time `json:"as_of"`
	// Until is when what is open then is cut off; null: there is no such time.
	Until *time.Time `json:"until"`
	// Kernel says that it has splits or return paths in the kernel too.
	Kernel bool `json:"kernel"`
}

// Text says it in the time of a zone.
func (e Ending) Text(zone *time.Location) string {
	flows := fmt.Sprintf("%d open flows of its relay drain", e.Flows)
	if e.Flows == 1 {
		flows = "1 open flow of its relay drains"
	}
	until := "without a limit"
	if e.Until != nil {
		until = "until " + e.Until.In(zone).Format("15:04:05") + " at the latest"
	}
	return fmt.Sprintf("splitd (pid %d) is ending: it begins no flows, answers nobody and takes no change, and %s %s (as of %s): "+
		"wait, or `kill %d` resets them and ends it at once", e.PID, flows, until, e.AsOf.In(zone).Format("15:04:05"), e.PID)
}
