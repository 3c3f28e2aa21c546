package daemon

import (
	"fmt"
	"sync"
	"time"

	"github.com/splitd/splitd/control/api"
	"github.com/splitd/splitd/state"
)

// idleOffs remember by split the newest `off` that changed nothing, of which the
// history has no line: an `undo` behind it goes back an earlier change, which may
// surprise. The zero value is ready; its methods may be called from many
// goroutines. A restart forgets them.
type idleOffs struct {
	mu   sync.Mutex
	last map[string]idleOff
}

type idleOff struct {
	user string
	at   time.Time
}

// heard notes what an `off` has come to.
func (i *idleOffs) heard(user string, now time.Time, changes ...api.Change) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.last == nil {
		i.last = map[string]idleOff{}
	}
	for _, c := range changes {
		delete(i.last, c.Split)
		if !c.Changed {
			i.last[c.Split] = idleOff{user, now}
		}
	}
}

// since says of the newest `off` of a split that it changed nothing, if no change
// has come after it: history is what there was before the undo, newest first.
func (i *idleOffs) since(split string, history []state.Entry) []string {
	i.mu.Lock()
	defer i.mu.Unlock()
	off, was := i.last[split]
	for _, e := range history {
		if e.Sequence != 0 && e.Time.After(off.at) {
			was = false
		}
	}
	delete(i.last, split)
	if !was {
		return nil
	}
	return []string{fmt.Sprintf("the newest `off`, by %s at %s, had changed nothing: what was taken back is an earlier change", off.user, off.at.Format(time.RFC3339))}
}
