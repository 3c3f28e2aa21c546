package control

import (
	"context"
	"encoding/json"
	"net/netip"

	"github.com/splitd/splitd/control/api"
)

// Actor is who asks for a change. The uid, login name and pid come from the
// socket's peer credentials (SO_PEERCRED, unix(7)); the rest the caller says.
type Actor struct {
	UID      int // -1: the daemon itself
	User     string
	PID      int
	SudoUser string // claimed
	Command  string
}

// Operator is what the control API needs from the daemon. Its methods may be
// called from many goroutines; changing ones serialise among themselves. An
// error that is an *api.Error is answered with its code, any other as
// api.CodeFailed.
type Operator interface {
	// Splits returns the state of the named split, or of all when name is "".
	Splits(ctx context.Context, name string) (api.SplitList, error)
	// History returns at most limit entries, newest first, of the named split
	// or of all when name is "". Limit 0 means all that is kept.
	History(ctx context.Context, name string, limit int) (api.History, error)
	Plan(ctx context.Context) (api.Plan, error)
	// Doctor looks at the host, which may take some seconds.
	Doctor(ctx context.Context) (api.Doctor, error)
	Version(ctx context.Context) (api.VersionInfo, error)
	// Where tells the side of a client, in the named split or in all when name
	// is "".
	Where(ctx context.Context, name string, client netip.Addr) (api.WhereList, error)

	// Report returns the ShadowReport of a split, as JSON; name "" is the only split
	// there is. Each of its samples says whether it is masked; what is not is payload,
	// and the API leaves it out for those who may not change anything.
	Report(ctx context.Context, name string) (json.RawMessage, error)

	// The context of a changing method ends when its caller no longer waits:
	// then a raise that is not in force yet is refused. Lowering goes on.
	//
	// A changing method takes name "" as the only split there is, and fails
	// with api.CodeInvalid naming the splits when there are several.
	Set(ctx context.Context, who Actor, name string, request api.SetRequest) (api.Change, error)
	Shadow(ctx context.Context, who Actor, name string, request api.ShadowRequest) (api.Change, error)
	Undo(ctx context.Context, who Actor, name string, request api.Request) (api.Change, error)
	Off(ctx context.Context, who Actor, name string, request api.Request) (api.Change, error)
	OffAll(ctx context.Context, who Actor, request api.Request) (api.ChangeList, error)
	Drain(ctx context.Context, who Actor, name string, request api.DrainRequest) (api.Change, error)
	Apply(ctx context.Context, who Actor, request api.ApplyRequest) (api.Apply, error)
	// ResetReport forgets what was compared, and begins anew.
	ResetReport(ctx context.Context, who Actor, name string, request api.Request) (api.Change, error)
}
