package control

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/splitd/splitd/control/api"
)

// Notice is the file beside the control socket in which a daemon that ends says
// so, to whoever finds the socket gone. For one goroutine.
type Notice struct{ file *os.File }

// noticeSize is that of every notice, so that a later one is written over the
// earlier at once.
const noticeSize = 512

// Notify makes the notice beside the control socket at path. Another daemon that
// ends there is an error.
func Notify(path string) (*Notice, error) {
	file, err := os.OpenFile(path+api.EndingSuffix, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o644)
	if err != nil {
		return nil, fmt.Errorf("say that splitd is ending: %w", err)
	}
	if err := unix.FcntlFlock(file.Fd(), unix.F_OFD_SETLK, &unix.Flock_t{Type: unix.F_WRLCK}); err != nil {
		return nil, errors.Join(fmt.Errorf("lock %q: %w", file.Name(), err), file.Close())
	}
	return &Notice{file}, nil
}

// Say writes what is so now.
func (n *Notice) Say(e api.Ending) error {
	text, err := json.Marshal(e)
	if err != nil {
		return fmt.Errorf("encode notice: %w", err)
	}
	for len(text) < noticeSize {
		text = append(text, ' ')
	}
	if _, err := n.file.WriteAt(text, 0); err != nil {
		return fmt.Errorf("say that splitd is ending: %w", err)
	}
	return nil
}

// Close takes the notice away.
func (n *Notice) Close() error { return errors.Join(os.Remove(n.file.Name()), n.file.Close()) }
