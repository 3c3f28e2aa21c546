// Package api holds the wire types of the control API, version splitd/v1:
// what travels as JSON over the control socket and what `splitctl -o json`
// prints. Standard library only. Fields are only ever added.
//
// Every answer is an envelope with apiVersion and kind. Weights are integers
// in parts per million, rates 0..1, times RFC 3339 in UTC. What a data plane
// cannot know is null, never 0. All other keys are snake_case.
package api

import "time"

// Version is the apiVersion of every envelope.
const Version = "splitd/v1"

// DeadlineHeader is an HTTP header of requests: until when (RFC 3339) the caller
// waits. A raise that has not been made by then is refused, so that one which a
// stopped daemon finds in its queue does not beat the `off` that came after it.
// Lowering is made however late.
const DeadlineHeader = "Splitd-Deadline"

// ProgressHeader is an HTTP header of requests: with any value, a caller who
// would soon give up is told by an interim answer (HTTP status 102) that what it
// asked for is under way. Switching thousands of splits off takes a second.
const ProgressHeader = "Splitd-Progress"

// The kinds of envelopes.
const (
	KindSplitList  = "SplitList"
	KindChange     = "Change"
	KindChangeList = "ChangeList"
	KindHistory    = "History"
	KindPlan       = "Plan"
	KindDoctor     = "Doctor"
	KindApply      = "Apply"
	KindWhere      = "WhereList"
	KindVersion    = "Version"
	KindVersions   = "Versions"
	KindError      = "Error"
	// KindShadowReport is what a comparison has found; package shadow/report of this
	// module says what is in it.
	KindShadowReport = "ShadowReport"
)

// Envelope begins every answer.
type Envelope struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
}

// Of makes the envelope of a kind.
func Of(kind string) Envelope { return Envelope{APIVersion: Version, Kind: kind} }

// SplitList is what `splitctl status` and `show` read.
type SplitList struct {
	Envelope
	Items []Split `json:"items"`
	// ReturnPaths are what this host does as the new one: with all splits only.
	ReturnPaths []ReturnPath `json:"return_paths,omitempty"`
	// Warnings are about the daemon as a whole: the store, the host.
	Warnings []string `json:"warnings,omitempty"`
}

// ReturnPath is a way back for replies, on the new host.
type ReturnPath struct {
	Name    string `json:"name"`
	Via     string `json:"via,omitempty"`
	Device  string `json:"device"`
	Match   string `json:"match"`             // address | mark
	Address string `json:"address,omitempty"` // match address only
	InSync  *bool  `json:"in_sync"`           // null when the kernel cannot be read
}

// Split is the state of one split.
type Split struct {
	Name           string    `json:"name"`
	Mode           string    `json:"mode"`            // the plane in use: kernel or proxy
	ModeConfigured string    `json:"mode_configured"` // as written: kernel, proxy or auto
	Protocol       string    `json:"protocol"`
	Service        Service   `json:"service"`
	Generation     uint64    `json:"generation"`
	WeightPPM      int       `json:"weight_ppm"`   // sum of the candidates
	ObservedPPM    *int      `json:"observed_ppm"` // since this generation began; null at no flow
	Origin         Origin    `json:"origin"`
	Pinned         bool      `json:"pinned"`
	Flows          Flows     `json:"flows"`
	Health         *Health   `json:"health,omitempty"` // null: nothing checks its backends
	Backends       []Backend `json:"backends"`         // the primary first
	Shadow         Shadow    `json:"shadow"`
	Ramp           *struct{} `json:"ramp"`
	Kernel         *Kernel   `json:"kernel"` // null in proxy mode
	Draw
	// Evidence is of each backend by generation, the youngest first.
	Evidence    []Evidence `json:"evidence,omitempty"`
	Definition  string     `json:"definition,omitempty"`   // where it stands: "FILE:LINE"
	DiffersFrom string     `json:"differs_from,omitempty"` // set after `apply -f`: the file that says otherwise
	Warnings    []string   `json:"warnings,omitempty"`
}

// Draw is whom a split draws and how, in the words of a configuration.
type Draw struct {
	Affinity       string          `json:"affinity"`                  // none | source
	AffinityPrefix *AffinityPrefix `json:"affinity_prefix,omitempty"` // with source
	AffinitySeed   string          `json:"affinity_seed,omitempty"`   // empty: made from the name
	LocalClients   bool            `json:"local_clients"`             // flows that start on this host are split too
	// UDPTimeoutSeconds is left out where the host's is in force.
	UDPTimeoutSeconds int     `json:"udp_timeout_seconds,omitempty"`
	Mirror            *Mirror `json:"mirror,omitempty"`
	// Slots say who draws what where that is state: with affinity source and
	// more than two candidates, or where others stood before these once.
	// Another router takes them over as its `slots`.
	Slots []Slot `json:"slots,omitempty"`
}

// AffinityPrefix is how many bits of a client's address are its network.
type AffinityPrefix struct {
	IPv4 int `json:"ipv4"`
	IPv6 int `json:"ipv6"`
}

// Mirror copies a share of the UDP flows to a collector.
type Mirror struct {
	To        string `json:"to"`
	SamplePPM int    `json:"sample_ppm"`
}

// Slot is a run of the draw, of a million numbers, and whose it is.
type Slot struct {
	First     int    `json:"first"`
	Last      int    `json:"last"`
	Candidate string `json:"candidate"`
}

// Service is what clients use.
type Service struct {
	Addresses []string `json:"addresses"`
	Ports     []string `json:"ports"`
}

// Origin says which layer decided the weights in force.
type Origin struct {
	Layer  string     `json:"layer"` // file | operator
	Actor  string     `json:"actor,omitempty"`
	Reason string     `json:"reason,omitempty"`
	Since  *time.Time `json:"since,omitempty"`
	Until  *time.Time `json:"until,omitempty"`
}

// Flows counts flows of the whole split.
type Flows struct {
	Total  *uint64   `json:"total"` // null: a backend's count is unknown
	Active *uint64   `json:"active"`
	AsOf   time.Time `json:"as_of"`
	Note   string    `json:"note,omitempty"` // why something is not counted, and the cure
}

// Backend is the state of one backend.
type Backend struct {
	Name        string   `json:"name"`
	Role        string   `json:"role"` // primary | candidate
	Addresses   []string `json:"addresses"`
	WeightPPM   int      `json:"weight_ppm"`
	State       string   `json:"state"`                  // up | down | checking: nothing is known yet | unchecked
	StateReason string   `json:"state_reason,omitempty"` // what is down or could not be checked, and why
	Checks      []Check  `json:"checks,omitempty"`       // by address; a local backend's is the one that is checked
	Withdrawn   []string `json:"withdrawn,omitempty"`    // addresses that get no new flows, because they are down
	// LeftOut are addresses that the relay gives no flows but one now and then, because
	// those before were not served there.
	LeftOut       []LeftOut `json:"left_out,omitempty"`
	FlowsTotal    *uint64   `json:"flows_total"`
	FlowsActive   *uint64   `json:"flows_active"`
	BytesIn       *uint64   `json:"bytes_in"`
	BytesOut      *uint64   `json:"bytes_out"`
	ConnectFailed *uint64   `json:"connect_failed"`
	// HalfOpen are of FlowsActive: no answer yet. Unanswered and Refused are
	// attempts that failed: without any answer, or with nothing but a reset;
	// Resets are flows that a reset of whichever side ended. Kernel mode alone.
	HalfOpen   *uint64 `json:"half_open,omitempty"`
	Unanswered *uint64 `json:"unanswered,omitempty"`
	Refused    *uint64 `json:"refused,omitempty"`
	Resets     *uint64 `json:"resets,omitempty"`
	// Closed: it takes no new flow, not even of its groups.
	Closed  bool     `json:"closed,omitempty"`
	Drain   *Drain   `json:"drain,omitempty"`   // while it is drained
	Origin  *Origin  `json:"origin,omitempty"`  // candidates: the layer that decided this weight
	Clients *Clients `json:"clients,omitempty"` // candidates with groups
}

// LeftOut is an address that the relay leaves out.
type LeftOut struct {
	Address   string    `json:"address"`
	Transport string    `json:"transport"` // tcp | udp
	Since     time.Time `json:"since"`
}

// Clients counts the networks in the groups of a candidate.
type Clients struct {
	Always int `json:"always"`
	Never  int `json:"never"`
}

// Check is what the health checks say of one address of a backend.
type Check struct {
	Address string     `json:"address"`
	Port    uint16     `json:"port"`              // at which it is checked
	State   string     `json:"state"`             // up | down | checking
	Since   time.Time  `json:"since"`             // of the state
	Reason  string     `json:"reason,omitempty"`  // of the newest failure
	Trouble string     `json:"trouble,omitempty"` // why the newest check could not be made
	Checked *time.Time `json:"checked"`           // when the newest check ended; null before the first
}

// Health says how the backends of a split are checked.
type Health struct {
	Check           string  `json:"check"`
	IntervalSeconds float64 `json:"interval_seconds"`
	TimeoutSeconds  float64 `json:"timeout_seconds"`
	Fall            int     `json:"fall"`
	Rise            int     `json:"rise"`
	WhenDown        string  `json:"when_down"` // primary | keep
}

// Drain is how far a drain is. It is done when the backend's flows_active is 0.
type Drain struct {
	Since         time.Time `json:"since"`
	RatePerSecond float64   `json:"rate_per_second,omitempty"` // open flows that are ended; 0: none
	// KillAt is when all are ended that are open then.
	KillAt *time.Time `json:"kill_at,omitempty"`
	Ended  uint64     `json:"ended,omitempty"` // so far, by this daemon
}

// Evidence is what is known of the flows that one generation gave to one
// backend.
type Evidence struct {
	Backend    string     `json:"backend"`
	Generation uint64     `json:"generation"` // 0: not known
	Since      time.Time  `json:"since"`
	Until      time.Time  `json:"until"`
	Flows      uint64     `json:"flows"`
	Active     uint64     `json:"active"`
	HalfOpen   uint64     `json:"half_open"`
	Ended      uint64     `json:"ended"`
	Unanswered uint64     `json:"unanswered"`
	Overdue    uint64     `json:"overdue"` // of half_open and unanswered: without an answer for 5 s and more
	Refused    uint64     `json:"refused"`
	Resets     uint64     `json:"resets"`
	BytesIn    *uint64    `json:"bytes_in"`
	BytesOut   *uint64    `json:"bytes_out"`
	Lifetime   *Lifetimes `json:"lifetime"` // null: none is known
	Lost       uint64     `json:"lost,omitempty"`
}

// Lifetimes are of ended flows: bounds that so many of a hundred do not exceed,
// null where it is longer than what is told apart.
type Lifetimes struct {
	Known uint64   `json:"known"` // of how many
	P50   *float64 `json:"p50_seconds"`
	P95   *float64 `json:"p95_seconds"`
	P99   *float64 `json:"p99_seconds"`
}

// Kernel says whether the kernel does what the daemon wants.
type Kernel struct {
	InSync *bool `json:"in_sync"` // null: it could not be read
}

// Synced says whether the kernel is known to do what the daemon wants. It may
// be asked of nil.
func (k *Kernel) Synced() bool { return k != nil && k.InSync != nil && *k.InSync }

// Change is what a changing command did to one split.
type Change struct {
	Envelope
	Split         string     `json:"split"`
	Changed       bool       `json:"changed"`
	Generation    uint64     `json:"generation"`
	PreviousPPM   int        `json:"previous_ppm"`
	WeightPPM     int        `json:"weight_ppm"`
	ConfirmBefore *time.Time `json:"confirm_before"`
	// The sample of the split before and after; left out where it is 0.
	PreviousSamplePPM int        `json:"previous_sample_ppm,omitempty"`
	SamplePPM         int        `json:"sample_ppm,omitempty"`
	Removed           bool       `json:"removed,omitempty"`   // the definition no longer has the split
	Ended             *int       `json:"ended,omitempty"`     // open flows that were ended with --kill
	Undone            *Entry     `json:"undone,omitempty"`    // what an undo took back
	Forgotten         *Forgotten `json:"forgotten,omitempty"` // what the reset of a report threw away
	Warnings          []string   `json:"warnings,omitempty"`
}

// Forgotten is what a report held that was reset. Exchanges are all that were seen,
// the times those of the first and the last; null when there was none.
type Forgotten struct {
	Exchanges int64      `json:"exchanges"`
	Compared  int64      `json:"compared"`
	From      *time.Time `json:"from"`
	To        *time.Time `json:"to"`
}

// ChangeList is the answer to `off --all`.
type ChangeList struct {
	Envelope
	Items    []Change `json:"items"`
	Warnings []string `json:"warnings,omitempty"`
}

// Request is what every changing request carries. Who asks is taken from the
// socket's peer credentials, never from here.
type Request struct {
	Reason  string `json:"reason,omitempty"`
	Command string `json:"command,omitempty"` // the command line, for the history
	// SudoUser is SUDO_USER of the caller: recorded as "claimed".
	SudoUser string `json:"sudo_user,omitempty"`
	// ExpectGeneration refuses the change (conflict) when the split is at
	// another generation.
	ExpectGeneration *uint64 `json:"expect_generation,omitempty"`
}

// SetRequest is POST /v1/splits/{split}/weight.
type SetRequest struct {
	Request
	// WeightPPM is for the split's only candidate.
	WeightPPM *int `json:"weight_ppm,omitempty"`
	// Weights is by candidate; others keep theirs.
	Weights map[string]int `json:"weights,omitempty"`
	// Default drops the operator's overrides of weights: the file's again.
	Default bool `json:"default,omitempty"`
	// TTL in seconds ends the override by itself; 0 means never.
	TTLSeconds float64 `json:"ttl_seconds,omitempty"`
	// Kill ends the open flows of the candidates that are set to 0.
	Kill bool `json:"kill,omitempty"`
}

// ShadowRequest is POST /v1/splits/{split}/shadow: it asks for one of SamplePPM and
// Default.
type ShadowRequest struct {
	Request
	// SamplePPM is the share of the primary's flows that is to be shadowed.
	SamplePPM *int `json:"sample_ppm,omitempty"`
	// Default drops the operator's override: the file's sample again.
	Default bool `json:"default,omitempty"`
	// TTLSeconds ends the override by itself; 0 means never.
	TTLSeconds float64 `json:"ttl_seconds,omitempty"`
}

// DrainRequest is POST /v1/splits/{split}/drain: the candidate gets no new
// flow, not even of its groups, until its weight is set.
type DrainRequest struct {
	Request
	Backend string `json:"backend"`
	// Kill ends its open flows now; without it RatePerSecond ends so many a
	// second, and KillAfterSeconds those that are left then.
	Kill             bool    `json:"kill,omitempty"`
	KillAfterSeconds float64 `json:"kill_after_seconds,omitempty"`
	RatePerSecond    float64 `json:"rate_per_second,omitempty"`
}

// WhereList is GET /v1/where?client=ADDRESS, and of one split
// /v1/splits/{split}/where.
type WhereList struct {
	Envelope
	Client string  `json:"client"`
	Items  []Where `json:"items"`
	// Warnings say why the open flows are not known, and which candidates the relay leaves out.
	Warnings []string `json:"warnings,omitempty"`
}

// Where is where the new flows of a client go in one split.
type Where struct {
	Split   string `json:"split"`
	Mode    string `json:"mode"`
	Network string `json:"network"` // whose side it is: the client's network under affinity
	// Why: family (not served) | backend | always | affinity | draw
	Why     string `json:"why"`
	Backend string `json:"backend,omitempty"` // empty: each flow draws anew, see odds
	Address string `json:"address,omitempty"` // of the backend, where the client keeps it
	// NumberPPM is what the network has drawn; with affinity alone.
	NumberPPM *int `json:"number_ppm,omitempty"`
	// Meant is the candidate that the flows were meant for, which But keeps them
	// from: closed | down | never
	Meant string `json:"meant,omitempty"`
	But   string `json:"but,omitempty"`
	Odds  []Odds `json:"odds,omitempty"`
	// Sampled says which of the flows that the draw leaves to the primary are
	// shadowed; left out where none is.
	Sampled *Sampled `json:"sampled,omitempty"`
	// Flows are those of the client that are open now; null: not known.
	Flows []ClientFlow `json:"flows"`
}

// Sampled is a client's share of the sample.
type Sampled struct {
	SharePPM int `json:"share_ppm"` // of its flows to the primary; with affinity all or none
	// NumberPPM is what the network has drawn for it; with affinity alone.
	NumberPPM *int `json:"number_ppm,omitempty"`
	// Paused is why none is played now, although it would be by the sample.
	Paused string `json:"paused,omitempty"`
}

// Odds are a backend's chance of each new flow.
type Odds struct {
	Backend   string `json:"backend"`
	WeightPPM int    `json:"weight_ppm"`
}

// ClientFlow is one open flow of a client.
type ClientFlow struct {
	Backend    string  `json:"backend"`
	Generation uint64  `json:"generation"` // 0: not known
	Transport  string  `json:"transport"`
	Client     string  `json:"client"`
	Via        string  `json:"via,omitempty"` // who told of the client by a PROXY header
	Service    string  `json:"service"`
	Server     string  `json:"server"`
	HalfOpen   bool    `json:"half_open,omitempty"`
	BytesIn    *uint64 `json:"bytes_in"`
	BytesOut   *uint64 `json:"bytes_out"`
}

// ApplyRequest is POST /v1/apply. Without Text the daemon reads its files again.
type ApplyRequest struct {
	Request
	// Text is a whole configuration (splits and return_paths) to become the
	// running definition; Name is the file it came from, for error messages.
	Text string `json:"text,omitempty"`
	Name string `json:"name,omitempty"`
}

// Apply is what an apply did.
type Apply struct {
	Envelope
	Changed bool     `json:"changed"`
	Items   []Change `json:"items"` // the splits that changed
	// ReturnPathsChanged says that they did, with or without splits.
	ReturnPathsChanged bool `json:"return_paths_changed,omitempty"`
	// FilesReadAgain are the splits whose certificates, keys and roots are.
	FilesReadAgain []string `json:"files_read_again,omitempty"`
	Warnings       []string `json:"warnings,omitempty"`
}

// History is a list of changes, newest first.
type History struct {
	Envelope
	Items []Entry `json:"items"`
}

// Entry is one change in the history.
type Entry struct {
	Sequence    uint64         `json:"sequence"`
	Time        time.Time      `json:"time"`
	Split       string         `json:"split"`
	Generation  uint64         `json:"generation"`
	Action      string         `json:"action"` // set | default | shadow | off | drain | undo | apply | adopt | expire | remove | revert | end
	PreviousPPM int            `json:"previous_ppm"`
	WeightPPM   int            `json:"weight_ppm"`
	Weights     map[string]int `json:"weights"` // by candidate, afterwards
	// The sample of the split before and after; left out where it is 0.
	PreviousSamplePPM int    `json:"previous_sample_ppm,omitempty"`
	SamplePPM         int    `json:"sample_ppm,omitempty"`
	Undoes            uint64 `json:"undoes,omitempty"`
	Ended             int    `json:"ended,omitempty"` // open flows, of an end
	UID               int    `json:"uid"`             // -1: the daemon itself
	User              string `json:"user,omitempty"`
	SudoUser          string `json:"sudo_user,omitempty"` // claimed, not proven
	PID               int    `json:"pid,omitempty"`
	Command           string `json:"command,omitempty"`
	Reason            string `json:"reason,omitempty"`
}

// Plan is what splitd would put into the kernel, and what differs from it.
type Plan struct {
	Envelope
	// Nft is the exact text of our tables, loadable with `nft -f`.
	Nft string `json:"nft"`
	// Rules and Routes are the `ip rule` and `ip route` lines of return_paths.
	Rules  []string `json:"rules"`
	Routes []string `json:"routes"`
	// Notes say what the operator should know: conntrack, keys unused in a mode.
	Notes []string `json:"notes"`
	// Differences are between this plan and the kernel, one a line; null when
	// nobody compared (no daemon).
	Differences []string `json:"differences"`
}

// Doctor is GET /v1/doctor: what was looked at on the daemon's host. Every row
// has at least one item.
type Doctor struct {
	Envelope
	Items []Finding `json:"items"`
}

// Finding is what one row of the doctor found.
type Finding struct {
	ID    string `json:"id"`    // of the row, stable
	Level string `json:"level"` // error | warning | note | ok
	Where string `json:"where"` // router | new host | router, new host
	Seen  string `json:"seen"`
	Why   string `json:"why,omitempty"`
	// Cure is the command that cures it, or the line to write; Advice is the
	// same as a sentence, with what to do it for.
	Cure   string `json:"cure,omitempty"`
	Advice string `json:"advice,omitempty"`
}

// VersionInfo is GET /v1/version.
type VersionInfo struct {
	Envelope
	Version   string    `json:"version"`
	Commit    string    `json:"commit,omitempty"`
	Go        string    `json:"go"`
	PID       int       `json:"pid"`
	StartedAt time.Time `json:"started_at"`
}

// Versions is what `splitctl version` prints; no request is answered with it.
type Versions struct {
	Envelope
	Client Build        `json:"client"`
	Daemon *VersionInfo `json:"daemon"` // null: none answers
}

// Build is one build of a program.
type Build struct {
	Version string `json:"version"`
	Commit  string `json:"commit,omitempty"`
	Go      string `json:"go"`
}

// Code classifies an error; splitctl maps it to its exit code.
type Code string

// The codes.
const (
	CodeFailed      Code = "failed"      // exit 1
	CodeInvalid     Code = "invalid"     // exit 2: the request makes no sense
	CodeUnavailable Code = "unavailable" // exit 2: not available in this version
	CodeNotFound    Code = "not_found"   // exit 1
	CodeForbidden   Code = "forbidden"   // exit 1
	CodeConflict    Code = "conflict"    // exit 7
)

// Error is every answer whose HTTP status is 400 or more. It is a Go error.
type Error struct {
	Envelope
	Code    Code   `json:"code"`
	Message string `json:"message"` // for people; may have several lines
}

// Error returns the message.
func (e *Error) Error() string { return e.Message }
