package arch

// A room is one package and what of ours it may import: paths below the module,
// where "dir/..." also means all that lies below dir. Its test files may import
// what tests and testsMay say too, and their own package.
type room struct {
	path  string
	may   []string
	tests []string
	why   string
}

const (
	vocabulary = "the vocabulary knows nobody: whoever imports it must get words and no behaviour"
	wire       = "wire types are for any program, so they bring nothing with them"
	plane      = "a data plane knows the vocabulary alone; daemon joins it to the other rooms through interfaces that the consumer owns"
	driver     = "a driver knows one protocol and the seam: it makes values of replies, and never sees who sends or compares them"
	comparer   = "shadow compares what it is given: daemon joins it to the relay that has the bytes, and to the store"
	values     = "it turns outside bytes into the vocabulary's values and back, for whoever asks"
	operator   = "control speaks to the daemon through its own interface Operator, never to a room behind it"
	client     = "a client knows the wire types and nothing of the daemon"
	wiring     = "daemon is the only room that knows all others; commands and tests are not its business"
	command    = "a command is thin: what it does belongs to a room, and the rooms are joined in daemon"
	rescuer    = "splitctl speaks to the socket, and writes reports and plans as people read them; only for `off --force` it knows kernel and state directory, and never the daemon"
	inner      = "internal packages serve every room, so they may know none"
	player     = "the demo plays what a user would do: it starts our binaries and speaks to the socket"
	outside    = "end-to-end tests see what a user sees: binaries, files, the socket, the kernel"
)

// rooms is the list of all packages. A new one gets a line here, with its
// reason, and a line in ARCHITECTURE.md.
func rooms() []room {
	return []room{
		{path: "traffic", why: vocabulary},
		{path: "configs", may: []string{"shadow", "shadow/http1", "shadow/raw", "shadow/secure", "shadow/smtp", "traffic"}, why: "it turns outside bytes into the vocabulary's values; rules of shadows, and files of certificates, are read by who knows them, so that a file is refused in the words of the room that would act on it"},
		{path: "state", may: []string{"traffic"}, why: values},
		{path: "splitter", may: []string{"traffic"}, why: plane},
		{path: "flowlog", may: []string{"traffic"}, why: values},
		{path: "netfilter", may: []string{"traffic"}, why: plane},
		{path: "health", may: []string{"traffic"}, why: "health says how backends are; daemon tells the data planes"},
		{path: "shadow", may: []string{"traffic"}, why: comparer},
		{path: "shadow/http1", may: []string{"shadow", "traffic"}, why: driver},
		{path: "shadow/runner", may: []string{"shadow", "traffic"}, tests: []string{"shadow/http1", "shadow/raw", "shadow/report", "shadow/smtp", "shadow/tally"}, why: "the runner owns goroutines and connections, and no protocol: daemon gives it drivers, and joins it to the relay"},
		{path: "shadow/ring", why: "a ring is memory, and knows nothing of what it carries"},
		{path: "shadow/shadower", may: []string{"internal/idle", "shadow", "shadow/play", "shadow/ring", "shadow/runner", "traffic"}, tests: []string{"shadow/report", "internal/nettest"}, why: "it carries flows to another process, which has package play do the rest; daemon gives it flows and a command line"},
		{path: "shadow/play", may: []string{"shadow", "shadow/http1", "shadow/raw", "shadow/report", "shadow/runner", "shadow/secure", "shadow/smtp", "shadow/tally", "traffic"}, why: "it joins the rooms of a shadow; daemon gives it flows, sockets and a place on the disk"},
		{path: "shadow/raw", may: []string{"shadow", "traffic"}, why: driver},
		{path: "shadow/secure", may: []string{"shadow", "traffic"}, why: "it opens TLS to a backend and says what became of it, for whoever plays a flow or stands in for a service"},
		{path: "terminator", may: []string{"shadow", "shadow/secure", "traffic"}, tests: []string{"shadow/..."}, why: "who stands in for a service carries its flows and tells what is said in them: daemon joins it to the relay and to the shadow"},
		{path: "shadow/smtp", may: []string{"shadow", "traffic"}, why: driver},
		{path: "shadow/report", may: []string{"shadow", "shadow/tally", "traffic"}, why: comparer},
		{path: "shadow/tally", may: []string{"shadow", "traffic"}, why: comparer},
		{path: "netfilter/doctor", may: []string{"netfilter", "traffic"}, why: "the doctor looks at a host for the kernel plane's sake: it knows that plane's names and nothing behind the daemon"},
		{path: "metrics", may: []string{"traffic"}, why: "metrics pulls from a Source of its own; daemon gives it one"},
		{path: "control", may: []string{"control/api", "traffic"}, tests: []string{"control/controltest"}, why: operator},
		{path: "control/api", why: wire},
		{path: "control/items", may: []string{"control/api", "traffic"}, why: values},
		{path: "control/client", may: []string{"control/api"}, tests: []string{"control", "control/controltest"}, why: client},
		{path: "control/controltest", may: []string{"control", "control/api", "control/items", "traffic"}, why: operator},
		{path: "daemon", may: []string{
			"configs", "control", "control/api", "control/client", "control/items", "flowlog", "health", "internal/build", "metrics", "netfilter", "netfilter/doctor", "shadow", "shadow/play", "shadow/report", "shadow/runner", "shadow/shadower", "splitter", "state", "terminator", "traffic",
		}, why: wiring},
		{path: "cmd/splitd", may: []string{"configs", "daemon", "internal/...", "shadow/shadower"}, why: command},
		{path: "cmd/splitctl", may: []string{
			"configs", "control/api", "control/client", "control/items", "internal/build", "internal/ladder", "internal/process", "netfilter", "netfilter/doctor", "shadow/play", "shadow/report", "state", "traffic",
		}, tests: []string{"control", "control/controltest", "shadow", "shadow/tally"}, why: rescuer},
		{path: "internal/arch", why: inner},
		{path: "internal/build", why: inner},
		{path: "internal/certs", why: inner},
		{path: "internal/demo", may: []string{"control/api", "control/client", "internal/certs", "internal/netns", "internal/process", "traffic"}, why: player},
		{path: "internal/idle", why: inner},
		{path: "internal/ladder", may: []string{"control/api", "control/client", "internal/certs", "internal/idle"}, why: "the ladder measures a splitd as a user has it: it starts the binary and speaks to the socket"},
		{path: "internal/netns", why: inner},
		{path: "internal/nettest", may: []string{"internal/netns"}, why: inner},
		{path: "internal/process", why: inner},
		{path: "internal/programs", may: []string{"internal/netns", "internal/nettest"}, why: inner},
		{path: "e2e", may: outsiders(), tests: []string{"e2e/soak"}, why: outside},
		{path: "e2e/soak", may: outsiders(), why: outside},
		{path: "e2e/real", may: outsiders(), why: outside},
		{path: "bench", may: []string{"netfilter", "traffic", "control/api", "control/client", "internal/certs", "internal/ladder", "internal/netns"}, tests: []string{"internal/programs"}, why: "benchmarks measure what users run, and the kernel plane by itself to tell its time from the daemon's"},
		{path: "e2e/kernel/init", why: "it is the first process of a kernel under test, and there is nothing else yet"},
	}
}

func outsiders() []string {
	return []string{"control/api", "control/client", "internal/programs"}
}

// testsMay lists what the tests of every room may import beside their own
// package: namespaces and servers to test in, and certificates for those.
func testsMay() []string {
	return []string{"internal/certs", "internal/netns", "internal/nettest"}
}

// An owner says where a module from outside may be imported. A module that has
// no line is one nobody decided on.
type owner struct {
	module string
	in     []string // "": everywhere
	tests  bool     // tests of every room too
	why    string
}

func owners() []owner {
	kernel := []string{"shadow/shadower", "netfilter", "netfilter/doctor", "splitter", "health", "daemon", "control", "control/client", "internal/idle", "internal/ladder", "internal/netns", "internal/process", "e2e/kernel/init", "bench"}
	const system = "the kernel is spoken to in few rooms: the data planes, marks of checks, peer credentials, internal/netns, the ladder's clients, the init of a kernel under test"
	return []owner{
		{"github.com/prometheus", []string{"metrics"}, false, "only metrics imports prometheus: the other rooms count in plain numbers"},
		{"golang.org/x/sys", kernel, true, system},
		{"github.com/vishvananda", kernel, true, system},
		{"github.com/google/nftables", []string{"netfilter", "netfilter/doctor", "internal/netns", "internal/nettest"}, true, system},
		{"github.com/ti-mo", []string{"netfilter", "internal/netns"}, true, system},
		{"golang.org/x/net/bpf", []string{"netfilter"}, false, "filters of sockets of netlink are written in its bpf"},
		{"github.com/mdlayher/netlink", []string{"netfilter", "netfilter/doctor"}, true, system},
		{"go.etcd.io/bbolt", []string{"state", "e2e"}, false, "the database is state's secret"},
		{"github.com/spf13/viper", []string{"configs"}, false, "viper knows the daemon's scalars, in configs alone"},
		{"go.yaml.in/yaml/v3", []string{"configs", "cmd/splitctl"}, true, "configurations are parsed in configs; splitctl prints -o yaml"},
		{"github.com/spf13/cobra", []string{"cmd/splitd", "cmd/splitctl"}, false, "only commands know of command lines"},
		{"github.com/coreos/go-systemd/v22", []string{"daemon"}, true, "the daemon alone tells systemd how it is"},
		{"github.com/emersion/go-smtp", []string{"internal/demo"}, true, "we split connections, we do not speak SMTP: only the demo and tests do"},
		{"github.com/pires/go-proxyproto", []string{"splitter"}, true, "the relay alone speaks the PROXY protocol"},
		{"github.com/DataDog/sketches-go", []string{"shadow/tally"}, false, "latencies are added up in the tally alone; what it reads from a disk is read by its own rules"},
		{"github.com/google/go-cmp", nil, true, "cmp is for tests: it panics on purpose"},
		{"github.com/rogpeppe/go-internal", nil, true, "testscript is for tests"},
		{"golang.org/x/net/html", []string{"shadow/http1"}, true, "replies in HTML are compared by their text"},
		{"golang.org/x/net", []string{"health"}, true, "its dnsmessage reads and writes DNS for health's checks"},
		{"github.com/andybalholm/brotli", []string{"shadow/http1"}, true, "replies are decoded before they are compared"},
		{"github.com/klauspost/compress", []string{"shadow/http1"}, true, "its zstd, for the same"},
		{"github.com/cespare/xxhash/v2", []string{"shadow/http1"}, true, "bodies longer than what is kept are told apart by a hash that costs next to nothing"},
		{"golang.org/x/sync", []string{""}, true, ""},
	}
}
