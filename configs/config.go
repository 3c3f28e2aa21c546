package configs

import (
	"log/slog"

	"github.com/splitd/splitd/traffic"
)

// Config is a whole configuration: the daemon's scalars and the definition. It
// is a value that nobody changes once it is loaded.
type Config struct {
	Control   Control
	HTTP      HTTP
	Log       Log
	StateDir  string
	Netfilter Netfilter
	FlowLog   FlowLog
	Relay     Relay
	Shadow    Shadow
	Definition
}

// Control is the control socket.
type Control struct {
	Socket string // absolute path
	Group  string // who may change things besides root and the daemon's user; "" is nobody
	// GroupExplicit says that somebody named the group: then it must exist.
	GroupExplicit bool
}

// HTTP is the status page.
type HTTP struct {
	Listen string // IP:port or :port; "" turns it off
}

// Log is the log on standard error.
type Log struct {
	Level  slog.Level
	Format string // "text" or "json"
}

// Netfilter is what the kernel data plane may call its own.
type Netfilter struct {
	MarkMask     uint32 // one run of at least 6 bits
	RouteTable   int    // tables RouteTable to RouteTable+15
	RulePriority int    // priorities RulePriority to RulePriority+19
	Owner        string // "auto" or "never": whether our tables are ours alone
}

// FlowLog is the log of flows.
type FlowLog struct {
	To     string         // "" turns it off; "journal", or an absolute path
	Sample traffic.Weight // of all flows
}

// Relay is what mode proxy runs on.
type Relay struct {
	Workers int // threads that relay; 0 is one for each processor
}

// Shadow is what the shadows of all splits share.
type Shadow struct {
	Budget   int64  // memory, in bytes
	Priority string // PriorityIdle, PriorityLow or PriorityNormal
}

// The priorities of what plays shadows: only where nobody else wants a processor, or a
// little of one also where all are busy all the time, or as much as all others.
const (
	PriorityIdle   = "idle"
	PriorityLow    = "low"
	PriorityNormal = "normal"
)

// Options say where a configuration comes from.
type Options struct {
	// Files are read instead of the standard places: Dir/splitd.yaml, then
	// Dir/conf.d/*.yaml in lexical order.
	Files []string
	Dir   string // "" is /etc/splitd
	// Flags are scalars by their keys as in a file ("control.socket"); they
	// win over all other sources.
	Flags map[string]string
	// LookupEnv is the environment (os.LookupEnv); nil is an empty one.
	LookupEnv func(string) (string, bool)
	// User asks for the defaults of an ordinary user: socket and state under
	// XDG_RUNTIME_DIR and XDG_STATE_HOME.
	User bool
}

func (o Options) lookup(name string) (string, bool) {
	if o.LookupEnv == nil {
		return "", false
	}
	return o.LookupEnv(name)
}
