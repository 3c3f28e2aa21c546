package traffic

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Generation numbers the states of one split: +1 for every change of its
// definition or weights, whoever makes it. It survives restart and removal.
type Generation uint64

// Mode is the data plane that carries a split.
type Mode string

// The modes. ModeAuto becomes ModeKernel where this process may program the
// kernel and ModeProxy elsewhere.
const (
	ModeKernel Mode = "kernel"
	ModeProxy  Mode = "proxy"
	ModeAuto   Mode = "auto"
)

// Affinity says whether a client keeps its side.
type Affinity string

// AffinityNone draws anew for each flow; AffinitySource keeps a client network
// on its side.
const (
	AffinityNone   Affinity = "none"
	AffinitySource Affinity = "source"
)

// Return says how replies of a flow that was sent to another host come back
// through this one.
type Return string

// ReturnPolicy relies on return_paths of the backend's host, ReturnMasquerade
// gives the flow our own source address, ReturnGateway relies on the backend's
// normal routes passing here.
const (
	ReturnPolicy     Return = "policy"
	ReturnMasquerade Return = "masquerade"
	ReturnGateway    Return = "gateway"
)

// Fallback says who serves a flow whose candidate cannot be connected.
type Fallback string

// FallbackPrimary hands the flow to the primary; FallbackNone closes it.
const (
	FallbackPrimary Fallback = "primary"
	FallbackNone    Fallback = "none"
)

// SendProxy is the version of the PROXY protocol by which backends are told whose
// a flow is; the zero value tells them nothing.
type SendProxy string

// SendProxyV1 is the header of one line of text, SendProxyV2 the binary one.
const (
	SendProxyV1 SendProxy = "v1"
	SendProxyV2 SendProxy = "v2"
)

// Own is the header of a connection that is nobody's but the sender's, as checks
// are: UNKNOWN in version 1, the command LOCAL in version 2
// (proxy-protocol.txt in HAProxy's sources, sections 2.1 and 2.2).
func (v SendProxy) Own() string {
	switch v {
	case SendProxyV1:
		return "PROXY UNKNOWN\r\n"
	case SendProxyV2:
		return "\r\n\r\n\x00\r\nQUIT\n\x20\x00\x00\x00"
	}
	return ""
}

// Transport is what a port speaks: "tcp" or "udp".
type Transport string

// The transports.
const (
	TCP Transport = "tcp"
	UDP Transport = "udp"
)

// Port is one port of a service, written "25/tcp", or a run of them, written
// "40000-40100/tcp".
type Port struct {
	Number uint16 `json:"number"` // the first one
	// Last is the last one of a run; 0 for a single port.
	Last      uint16    `json:"last,omitempty"`
	Transport Transport `json:"transport"`
}

// String writes the port as it stands in a configuration: "25/tcp".
func (p Port) String() string {
	text := strconv.Itoa(int(p.Number))
	if p.IsRange() {
		text += "-" + strconv.Itoa(int(p.Last))
	}
	return text + "/" + string(p.Transport)
}

// IsRange says whether p is more than one port.
func (p Port) IsRange() bool { return p.Last > p.Number }

// End is the last port of p: the only one, or that of a run.
func (p Port) End() uint16 { return max(p.Number, p.Last) }

// Contains says whether the port is one of p.
func (p Port) Contains(number uint16) bool { return p.Number <= number && number <= p.End() }

// Overlaps says whether p and q share a port of one transport.
func (p Port) Overlaps(q Port) bool {
	return p.Transport == q.Transport && p.Number <= q.End() && q.Number <= p.End()
}

// Service is the set of addresses and ports that clients use. Kernel mode
// matches them as destinations; proxy mode listens on them.
type Service struct {
	Addresses []netip.Addr `json:"addresses"`
	Ports     []Port       `json:"ports"`
}

// Address is one address of a backend. Port 0 means: the port that the client
// asked for is kept.
type Address struct {
	IP   netip.Addr `json:"ip"`
	Port uint16     `json:"port,omitempty"`
}

// String writes the address as it stands in a configuration: "10.0.0.12",
// "10.0.0.12:2525", "[2001:db8::1]:2525".
func (a Address) String() string {
	if a.Port == 0 {
		return a.IP.String()
	}
	return netip.AddrPortFrom(a.IP, a.Port).String()
}

// Role is a backend's part in its split.
type Role string

// The roles.
const (
	RolePrimary   Role = "primary"
	RoleCandidate Role = "candidate"
)

// Backend is one place flows can go: this host itself (Local, then without
// addresses), or one or more addresses per family, which share its weight
// equally.
type Backend struct {
	Name      string    `json:"name"`
	Local     bool      `json:"local,omitempty"`
	Addresses []Address `json:"addresses,omitempty"`
	// Weight is the share of new flows of a candidate. A primary's is not
	// used: it takes what is left, see Split.PrimaryWeight.
	Weight Weight `json:"weight_ppm"`
	// Clients are the groups of a candidate.
	Clients Clients `json:"clients,omitzero"`
	// Closed, in a state, says that a candidate takes no new flow whatever its
	// weight and its groups say: it is drained or switched off.
	Closed bool `json:"closed,omitempty"`
	// Down, in a state, are the addresses that health checks have found dead.
	// They are left out; a candidate without a living address of a family takes
	// no new flow of that family, a primary without one takes its share all the
	// same. Of a local backend they are addresses of the service, in
	// mode proxy the loopback addresses that it is reached at.
	Down []netip.Addr `json:"-"`
}

// Clients are the client networks that always or never go to a candidate,
// whatever its weight. Networks of one list do not overlap.
type Clients struct {
	Always []netip.Prefix `json:"always,omitempty"`
	Never  []netip.Prefix `json:"never,omitempty"`
}

// IsZero says whether there is no group.
func (c Clients) IsZero() bool { return len(c.Always) == 0 && len(c.Never) == 0 }

// Address returns the backend's first address of the family of ip, if it has
// one.
func (b Backend) Address(ip netip.Addr) (Address, bool) {
	for _, a := range b.Addresses {
		if a.IP.Is4() == ip.Is4() {
			return a, true
		}
	}
	return Address{}, false
}

// Living are the backend's addresses of the family of ip that are not down.
func (b Backend) Living(ip netip.Addr) []Address {
	var living []Address
	for _, a := range b.Addresses {
		if a.IP.Is4() == ip.Is4() && !slices.Contains(b.Down, a.IP) {
			living = append(living, a)
		}
	}
	return living
}

// Usable are the addresses of the family of ip among which flows are shared: the
// living ones. Where none lives all are used: of a primary, whose place nobody
// can take.
func (b Backend) Usable(ip netip.Addr) []Address {
	if living := b.Living(ip); len(living) > 0 {
		return living
	}
	b.Down = nil
	return b.Living(ip)
}

// Withdrawn says whether every address of the family of ip is down. Of a local
// backend that is any of this host.
func (b Backend) Withdrawn(ip netip.Addr) bool {
	ofFamily := func(one netip.Addr) bool { return one.Is4() == ip.Is4() }
	if b.Local {
		return slices.ContainsFunc(b.Down, ofFamily)
	}
	_, has := b.Address(ip)
	return has && len(b.Living(ip)) == 0
}

// AddressTexts lists the backend's addresses as they stand in a configuration;
// a local backend's is "local".
func (b Backend) AddressTexts() []string {
	if b.Local {
		return []string{"local"}
	}
	texts := make([]string, 0, len(b.Addresses))
	for _, a := range b.Addresses {
		texts = append(texts, a.String())
	}
	return texts
}

// Proxy holds what only proxy mode uses. The zero value of a duration means
// that the limit is off.
type Proxy struct {
	ConnectTimeout time.Duration `json:"connect_timeout"` // per backend tried; the relay gives the last one more
	Fallback       Fallback      `json:"fallback"`
	IdleTimeout    time.Duration `json:"idle_timeout"`  // no byte in either direction
	DrainTimeout   time.Duration `json:"drain_timeout"` // for flows still open when the relay stops
	// MaxFlows and MaxClientFlows are the most that may be open at once, of all
	// clients together and of one address, TCP and UDP each; 0 is no limit.
	MaxFlows       int `json:"max_flows,omitempty"`
	MaxClientFlows int `json:"max_client_flows,omitempty"`
	// HalfClosedTimeout is how long a flow may last, without a byte in either
	// direction, of which one side has ended; FirstByteTimeout how long until the
	// first byte comes from the backend; PeerTimeout how long a peer may leave
	// what it is sent without acknowledgement, or keep-alives without an answer.
	HalfClosedTimeout time.Duration `json:"half_closed_timeout,omitempty"`
	FirstByteTimeout  time.Duration `json:"first_byte_timeout,omitempty"`
	PeerTimeout       time.Duration `json:"peer_timeout,omitempty"`
	// SendProxy begins every connection to a backend, the primary too.
	SendProxy SendProxy `json:"send_proxy,omitempty"`
	// Transparent has the relay's own connections to backends begin at the
	// client's address.
	Transparent bool `json:"transparent,omitempty"`
	// AcceptProxy are the networks whose connections begin with a PROXY header,
	// by which their clients are known.
	AcceptProxy []netip.Prefix `json:"accept_proxy,omitempty"`
	// NoSplice has bytes copied where they could be spliced.
	NoSplice bool `json:"no_splice,omitempty"`
}

// AffinityPrefix says how many bits of a client's address are its network, per
// family: multiples of 8.
type AffinityPrefix struct {
	IPv4 int `json:"ipv4"`
	IPv6 int `json:"ipv6"`
}

// Split is a named service and its weighted backends. In a definition (from a
// file) the weights are the file's and Generation is 0; in a state (given to a
// data plane) they are the weights in force and Generation numbers them.
type Split struct {
	Name       string     `json:"name"`
	Generation Generation `json:"generation,omitempty"`
	Service    Service    `json:"service"`
	Protocol   string     `json:"protocol"`
	Mode       Mode       `json:"mode"`
	Affinity   Affinity   `json:"affinity"`
	// AffinityPrefix and AffinitySeed are used with AffinitySource alone. An
	// empty seed is made from the name, so that every router draws alike.
	AffinityPrefix AffinityPrefix `json:"affinity_prefix,omitzero"`
	AffinitySeed   string         `json:"affinity_seed,omitempty"`
	LocalClients   bool           `json:"local_clients,omitempty"` // flows that start on this host are split too
	Primary        Backend        `json:"primary"`
	Candidates     []Backend      `json:"candidates"`
	Return         Return         `json:"return"`
	WhenDown       WhenDown       `json:"when_down"`
	Pinned         bool           `json:"pinned,omitempty"` // the file's weights win over an operator's
	// UDPTimeout is how long an answered UDP flow may be silent before it is
	// forgotten (nf_conntrack_udp_timeout_stream of this split alone); 0 leaves
	// it to the host, in mode proxy to the relay, which has what Linux has. An
	// unanswered one has a third of it.
	UDPTimeout time.Duration `json:"udp_timeout,omitempty"`
	Health     Health        `json:"health"`
	Mirror     Mirror        `json:"mirror,omitzero"` // kernel mode and UDP alone
	Proxy      Proxy         `json:"proxy"`
	Shadow     Shadow        `json:"shadow,omitzero"`
	// Sample is the share of those flows drawn for the primary that are shadowed:
	// the file's in a definition, in a state the one in force. In mode kernel a
	// relay on this host gets them first. It listens at SamplePort of
	// 127.0.0.1 and ::1 with transparent sockets. With a port and a Sample of 0 the
	// flows that the relay has keep their way to it; without a port there is none.
	Sample     Weight `json:"sample_ppm,omitempty"`
	SamplePort uint16 `json:"sample_port,omitempty"`
	// Slots, in a state, say which part of the draw is whose where weights
	// alone do not, with AffinitySource. See Slotted and Layout.
	Slots Slots `json:"slots,omitempty"`
}

// CandidateWeight is the sum of the candidates' weights.
func (s Split) CandidateWeight() Weight {
	var sum Weight
	for _, c := range s.Candidates {
		sum += c.Weight
	}
	return sum
}

// PrimaryWeight is what the candidates leave to the primary.
func (s Split) PrimaryWeight() Weight { return Whole - s.CandidateWeight() }

// Candidate returns the candidate of that name.
func (s Split) Candidate(name string) (Backend, bool) {
	i := slices.IndexFunc(s.Candidates, func(c Backend) bool { return c.Name == name })
	if i < 0 {
		return Backend{}, false
	}
	return s.Candidates[i], true
}

// Transparent says whether a relay connects to the split's backends with the
// clients' addresses, for which it needs the kernel's help.
func (s Split) Transparent() bool { return s.Mode == ModeProxy && s.Proxy.Transparent }

// ProxyFamilies says by which families proxies may connect that name their clients in
// PROXY headers: those of addresses of the service and of networks of AcceptProxy.
func (s Split) ProxyFamilies() (ip4, ip6 bool) {
	if s.Mode != ModeProxy {
		return false, false
	}
	for _, network := range s.Proxy.AcceptProxy {
		if slices.ContainsFunc(s.Service.Addresses, func(a netip.Addr) bool { return a.Is4() == network.Addr().Is4() }) {
			ip4, ip6 = ip4 || network.Addr().Is4(), ip6 || network.Addr().Is6()
		}
	}
	return ip4, ip6
}

// Backends lists the primary and then the candidates, each with its weight.
func (s Split) Backends() []Backend {
	primary := s.Primary
	primary.Weight = s.PrimaryWeight()
	return append([]Backend{primary}, s.Candidates...)
}

// StaysHere says whether a flow to that service address is left alone when it
// is drawn for b: b is this host, or b's only address of the family is the
// service's own and keeps the port.
func (s Split) StaysHere(b Backend, service netip.Addr, port uint16) bool {
	if b.Local {
		return true
	}
	return slices.ContainsFunc(b.Addresses, func(a Address) bool {
		return a.IP == service && (a.Port == 0 || a.Port == port)
	})
}

// Weights returns the candidates' weights by name.
func (s Split) Weights() map[string]Weight {
	weights := make(map[string]Weight, len(s.Candidates))
	for _, c := range s.Candidates {
		weights[c.Name] = c.Weight
	}
	return weights
}

// WithWeights returns a copy of s whose candidates have the given weights;
// candidates that weights does not name keep theirs. It refuses a name that is
// not a candidate's and a sum over the whole.
func (s Split) WithWeights(weights map[string]Weight) (Split, error) {
	s.Candidates = slices.Clone(s.Candidates)
	for name, w := range weights {
		i := slices.IndexFunc(s.Candidates, func(c Backend) bool { return c.Name == name })
		if i < 0 {
			return Split{}, fmt.Errorf("split %q has no candidate %q: its candidates are %s", s.Name, name, s.candidateNames())
		}
		if !w.Valid() {
			return Split{}, fmt.Errorf("weight of %q is %s: it must lie between 0%% and 100%%", name, w)
		}
		s.Candidates[i].Weight = w
	}
	if sum := s.CandidateWeight(); sum > Whole {
		return Split{}, fmt.Errorf("weights of split %q add up to %s, over 100%%", s.Name, sum)
	}
	return s, nil
}

func (s Split) candidateNames() string {
	names := make([]string, 0, len(s.Candidates))
	for _, c := range s.Candidates {
		names = append(names, strconv.Quote(c.Name))
	}
	return strings.Join(names, ", ")
}

// SortSplits returns the splits in the order of their names, the order in
// which every list of ours is shown and built.
func SortSplits(splits []Split) []Split {
	sorted := slices.Clone(splits)
	slices.SortFunc(sorted, func(a, b Split) int { return cmp.Compare(a.Name, b.Name) })
	return sorted
}

// nameMax bounds the names of splits and backends so that what is built from
// them stays within the kernel's 255 bytes for names of chains and counters.
const nameMax = 63

// CheckName says what is wrong with a name of a split, a backend or a return
// path. Names appear in nftables chains, metric labels, file names and shell
// commands, so they are plain: lower-case letters, digits, "-" and "_",
// beginning with a letter, at most 63 bytes.
func CheckName(name string) error {
	if name == "" {
		return fmt.Errorf("a name is missing")
	}
	if len(name) > nameMax {
		return fmt.Errorf("name %q has %d bytes, over %d", name, len(name), nameMax)
	}
	for i, r := range name {
		letter := r >= 'a' && r <= 'z'
		if letter || i > 0 && (r >= '0' && r <= '9' || r == '-' || r == '_') {
			continue
		}
		return fmt.Errorf("name %q: use lower-case letters, digits, - and _, beginning with a letter", name)
	}
	return nil
}
