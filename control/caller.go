package control

import (
	"context"
	"fmt"
	"os/user"
	"strconv"
	"sync"

	"github.com/splitd/splitd/control/api"
)

// caller is who sent a request, decided once per connection.
type caller struct {
	peer      Peer
	mayChange bool
	group     string // the control group, for the text of a refusal; "" is none
}

type callerKey struct{}

func withCaller(ctx context.Context, who caller) context.Context {
	return context.WithValue(ctx, callerKey{}, who)
}

func callerOf(ctx context.Context) (caller, bool) {
	who, ok := ctx.Value(callerKey{}).(caller)
	return who, ok
}

// actor joins what the kernel knows and what the caller claims.
func (h *handlers) actor(who caller, request api.Request) Actor {
	return Actor{
		UID:      int(who.peer.UID),
		User:     h.names.of(who.peer.UID),
		PID:      who.peer.PID,
		SudoUser: request.SudoUser,
		Command:  request.Command,
	}
}

// forbidden says who may, and what to do next.
func (h *handlers) forbidden(who caller) *api.Error {
	whom := "root and the daemon's own user"
	cure := "use sudo"
	name, login := h.names.of(who.peer.UID), "USER"
	if name != "" {
		login = name
	} else {
		name = "uid " + strconv.FormatUint(uint64(who.peer.UID), 10)
	}
	if who.group != "" {
		whom = fmt.Sprintf("root, the daemon's own user and the group %q", who.group)
		cure = fmt.Sprintf("use sudo, or `sudo usermod -aG %s %s` and log in again", who.group, login)
	}
	return &api.Error{
		Code:    api.CodeForbidden,
		Message: fmt.Sprintf("%s may read but not change: changing is for %s: %s", name, whom, cure),
	}
}

// names remembers the login names of uids. A daemon built without cgo reads
// them from /etc/passwd, so no directory service can make an `off` wait.
type names struct {
	mu    sync.Mutex
	known map[uint32]string
}

func newNames() *names { return &names{known: map[uint32]string{}} }

// of returns the login name, or "" when there is none.
func (n *names) of(uid uint32) string {
	n.mu.Lock()
	name, ok := n.known[uid]
	n.mu.Unlock()
	if ok {
		return name
	}
	if account, err := user.LookupId(strconv.FormatUint(uint64(uid), 10)); err == nil {
		name = account.Username
	}
	n.mu.Lock()
	n.known[uid] = name
	n.mu.Unlock()
	return name
}
