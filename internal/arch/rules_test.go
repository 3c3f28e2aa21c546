package arch

// A room is one package and what of ours it may import: paths below the module,
// where "dir/..." also means all that lies below dir. Test files may import
// what testsMay says too, and their own package.
type room struct {
	path string
	may  []string
	why  string
}

const (
	vocabulary = "the vocabulary knows nobody: whoever imports it must get words and no behaviour"
	wire       = "wire types are for any program, so they bring nothing with them"
	plane      = "a data plane knows the vocabulary alone; daemon joins it to the other rooms through interfaces that the consumer owns"
	values     = "it turns outside bytes into the vocabulary's values and back, for whoever asks"
	operator   = "control speaks to the daemon through its own interface Operator, never to a room behind it"
	client     = "a client knows the wire types and nothing of the daemon"
	wiring     = "daemon is the only room that knows all others; commands and tests are not its business"
	command    = "a command is thin: what it does belongs to a room"
	inner      = "internal packages serve every room, so they may know none"
	player     = "the demo plays what a user would do: it starts our binaries and speaks to the socket"
	outside    = "end-to-end tests see what a user sees: binaries, files, the socket, the kernel"
)

// rooms is the list of all packages. A new one gets a line here, with its
// reason, and a line in ARCHITECTURE.md.
func rooms() []room {
	return []room{
		{"traffic", nil, vocabulary},
		{"configs", []string{"traffic"}, values},
		{"state", []string{"traffic"}, values},
		{"splitter", []string{"traffic"}, plane},
		{"netfilter", []string{"traffic"}, plane},
		{"metrics", []string{"traffic"}, "metrics pulls from a Source of its own; daemon gives it one"},
		{"control", []string{"control/api", "traffic"}, operator},
		{"control/api", nil, wire},
		{"control/client", []string{"control/api"}, client},
		{"daemon", []string{
			"configs", "control/...", "internal/build", "metrics", "netfilter", "splitter", "state", "traffic",
		}, wiring},
		{"cmd/splitd", []string{"configs", "daemon", "internal/..."}, command},
		{"cmd/splitctl", []string{"configs", "control/api", "control/client", "internal/...", "netfilter", "traffic"}, command},
		{"internal/arch", nil, inner},
		{"internal/build", nil, inner},
		{"internal/netns", nil, inner},
		{"internal/nettest", []string{"internal/netns"}, inner},
		{"e2e", []string{"control/api", "control/client", "internal/netns", "internal/nettest"}, outside},
		{"e2e/real", []string{"control/api", "control/client", "internal/netns", "internal/nettest"}, outside},
	}
}

// testsMay lists what the tests of every room may import beside their own
// package.
func testsMay() []string { return []string{"internal/netns", "internal/nettest"} }

// An owner says where a module from outside may be imported. A module that has
// no line is one nobody decided on.
type owner struct {
	module string
	in     []string // "": everywhere
	tests  bool     // tests of every room too
	why    string
}

func owners() []owner {
	kernel := []string{"netfilter", "splitter", "daemon", "control", "control/client", "internal/netns"}
	const system = "the kernel is spoken to in few rooms: the data planes, peer credentials, internal/netns"
	return []owner{
		{"github.com/prometheus", []string{"metrics"}, false, "only metrics imports prometheus: the other rooms count in plain numbers"},
		{"golang.org/x/sys", kernel, true, system},
		{"github.com/vishvananda", kernel, true, system},
		{"github.com/google/nftables", []string{"netfilter"}, true, system},
		{"github.com/ti-mo", []string{"netfilter", "internal/netns"}, true, system},
		{"github.com/mdlayher/netlink", []string{"netfilter"}, true, system},
		{"go.etcd.io/bbolt", []string{"state"}, false, "the database is state's secret"},
		{"github.com/spf13/viper", []string{"configs"}, false, "viper knows the daemon's scalars, in configs alone"},
		{"go.yaml.in/yaml/v3", []string{"configs", "cmd/splitctl"}, true, "configurations are parsed in configs; splitctl prints -o yaml"},
		{"github.com/spf13/cobra", []string{"cmd/splitd", "cmd/splitctl"}, false, "only commands know of command lines"},
		{"github.com/coreos/go-systemd/v22", []string{"daemon"}, true, "the daemon alone tells systemd how it is"},
		{"github.com/emersion/go-smtp", []string{"internal/demo"}, true, "we split connections, we do not speak SMTP: only the demo and tests do"},
		{"github.com/google/go-cmp", nil, true, "cmp is for tests: it panics on purpose"},
		{"github.com/rogpeppe/go-internal", nil, true, "testscript is for tests"},
		{"golang.org/x/sync", []string{""}, true, ""},
	}
}
