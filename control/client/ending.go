package client

import (
	"encoding/json"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"github.com/splitd/splitd/control/api"
)

// noticeMost bounds what is read of a notice.
const noticeMost = 4096

// Ending returns what a daemon says that has been told to stop and whose socket
// is gone; false: there is none at any of the Paths.
func (c *Client) Ending() (api.Ending, bool) {
	for _, path := range c.Paths() {
		if e, ok := endingAt(path); ok {
			return e, true
		}
	}
	return api.Ending{}, false
}

func endingAt(path string) (e api.Ending, ok bool) {
	// O_NONBLOCK: a fifo in its place must not hang us.
	file, err := os.OpenFile(path+api.EndingSuffix, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return e, false
	}
	defer func() { _ = file.Close() }()
	lock := unix.Flock_t{Type: unix.F_RDLCK}
	if err := unix.FcntlFlock(file.Fd(), unix.F_OFD_GETLK, &lock); err != nil || lock.Type == unix.F_UNLCK {
		return e, false // who wrote it has died
	}
	text, err := io.ReadAll(io.LimitReader(file, noticeMost))
	if err != nil || json.Unmarshal(text, &e) != nil || e.PID <= 0 {
		return api.Ending{}, false
	}
	return e, true
}
