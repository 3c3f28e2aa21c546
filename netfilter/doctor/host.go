package doctor

import (
	"net/netip"
	"slices"

	"github.com/splitd/splitd/netfilter"
	"github.com/splitd/splitd/traffic"
)

// Question is what a host is asked to carry. Splits are those of kernel mode,
// Relayed those whose relay is transparent.
type Question struct {
	Splits   []traffic.Split
	Relayed  []traffic.Split
	Paths    []traffic.ReturnPath
	Settings netfilter.Settings
	// Replies are what backends have answered; of one that is missing nothing is
	// known.
	Replies map[traffic.BackendKey]Replies
	// IncludeDir is where the daemon keeps the file for nftables.conf.
	IncludeDir string
	Shadows    []Shadow
}

// Shadow is what who asks knows of the shadow of a split, in either mode: certificates and
// reports are not read here.
type Shadow struct {
	Split string
	// Broken says which files of its certificates cannot be served or are over, Remarks what
	// else is worth knowing of them.
	Broken, Remarks []string
	// SeenInto says that it has certificates. Encrypted is how many flows went into TLS into
	// which nobody saw, of how many, as its report has them: with certificates of those that
	// began TLS, else of all.
	SeenInto               bool
	Encrypted, EncryptedOf int64
}

// Host is what was seen of a host. Maps hold what the question asks for.
type Host struct {
	// Release is the kernel's (uname -r).
	Release string
	// Sysctls are by name with slashes; one that the kernel has not is absent.
	Sysctls map[string]int
	// Here are the addresses that are this host's own.
	Here map[netip.Addr]bool
	// Ways are the routes to addresses; one without a route is absent.
	Ways map[netip.Addr]Way
	// Clients4 and Clients6 are the default routes.
	Clients4, Clients6 Way
	Devices            map[string]Device
	// Silent are the neighbours that do not answer ARP or neighbour discovery.
	Silent map[netip.Addr]string // the device
	names  map[int]string        // of the devices, by index
	// Refusals are why backends could not be connected; only a whole look
	// tries.
	Refusals map[netip.AddrPort]string
	Rules    []Rule
	// Taken are other programs' routes in the route tables that are ours.
	Taken []TakenRoute
	// Loops are marks that lead the outer packets of a tunnel into it.
	Loops []Loop
	// Tables are other programs' nftables tables; Own is what our tables do.
	Tables []Table
	Own    Own
	// Legacy are the tables of iptables-legacy, which cannot be read.
	Legacy   []string
	Tracking Tracking
	Counters Counters
	// AnyUDP are the ports of UDP sockets that are bound to no address.
	AnyUDP []uint16
	Files  Files
	// Missing are the features of nf_tables that this kernel lacks.
	Missing []Feature
	// Unread says what could not be looked at, why by the part.
	Unread map[part]string
}

// Way is a route; its zero value is none.
type Way struct {
	Device  string
	Source  netip.Addr // that packets of this host get
	Gateway netip.Addr // invalid on the link
	MTU     int        // learned or set for the route; 0: that of the device
}

// Device is one network device.
type Device struct {
	MTU      int
	Up       bool
	Loopback bool
	Ethernet bool           // who is on its link is asked for by ARP or neighbour discovery
	Networks []netip.Prefix // its addresses with their prefix lengths
	// AdvertisedRoute says that a router advertisement made a default route.
	AdvertisedRoute bool
}

// has says whether the address is in a network of the device.
func (d Device) has(a netip.Addr) bool {
	return slices.ContainsFunc(d.Networks, func(p netip.Prefix) bool { return p.Contains(a) })
}

// Rule is an `ip rule` that looks at the packet mark or stands where ours do.
type Rule struct {
	Priority   int
	Mark, Mask uint32
	Table      int
	Ours       bool
	Text       string // as `ip rule` lists it
}

func (r Rule) looksAtMark() bool { return r.Mark != 0 || r.Mask != ^uint32(0) }

// in says whether the rule has a priority or a route table that is to be ours.
func (r Rule) in(s netfilter.Settings) bool {
	return r.Priority >= s.RulePriority && r.Priority < s.RulePriority+rulePriorities ||
		r.Table >= s.RouteTable && r.Table < s.RouteTable+netfilter.RouteTables
}

// rulePriorities is how many are ours (netfilter.Settings).
const rulePriorities = 20

// hasRelay says whether a relay on this host gets a sample of a split's flows, or
// the replies to its own.
func (q Question) hasRelay() bool {
	return len(q.Relayed) > 0 || slices.ContainsFunc(q.Splits, func(s traffic.Split) bool { return s.Sample > 0 || s.SamplePort != 0 })
}

// hasRoutes says whether route tables and rules of ours are to be here.
func (q Question) hasRoutes() bool { return len(q.Paths) > 0 || q.hasRelay() }

// TakenRoute is a route of another program in a table of ours.
type TakenRoute struct {
	Table   int
	Default bool
	Text    string
}

// Loop is a mark that leads packets to a tunnel's far end into the tunnel.
type Loop struct {
	Device string
	Remote netip.Addr
	Rule   Rule
}

// Own is what of our tables matters to the host.
type Own struct {
	// Kept says that a table has the owner or the persist flag.
	Kept bool
	// Owned says that a table of splits has an owner now: nobody else can change
	// or flush it. The persist flag alone, which an owner leaves, keeps nobody out.
	Owned bool
	// Open are the tables of splits that were made without them: no daemon can
	// own those.
	Open []string
	// Clamps says that the segment size of forwarded flows is set by the route.
	Clamps bool
}

// Tracking is connection tracking.
type Tracking struct {
	// On says that it is at work already.
	On bool
	// Count and Max are flows; Max is 0 when the kernel does not say yet.
	Count, Max int
	// Lost counts the flows that found no room, since boot.
	Lost TrackingLosses
}

// TrackingLosses are from /proc/net/stat/nf_conntrack, summed over all CPUs.
type TrackingLosses struct {
	Dropped, EarlyDropped, InsertFailed uint64
}

// Counters are the kernel's own, since the namespace was made.
type Counters struct {
	ReversePathDrops uint64 // TcpExt IPReversePathFilter
	RedirectsSent    uint64 // Icmp OutRedirects
}

// Files are texts of /etc that matter.
type Files struct {
	// Saved are the rulesets that are loaded at boot, by path.
	Saved map[string]string
	// Units are the systemd units that are enabled, "nftables.service".
	Units map[string]bool
	// Networkd says that systemd-networkd runs, and KeepsRules and KeepsRoutes
	// what its configuration says of other programs' (networkd.conf(5)).
	Networkd, KeepsRules, KeepsRoutes bool
	// Unread are those that may not be read.
	Unread []string
	// NftVersion is of the nft program, "" without one.
	NftVersion string
}

// A Feature is something of nf_tables that a kernel may lack.
type Feature struct {
	Name string // as modprobe knows it, or in words
	For  string // what of ours needs it
	// Needed says that the question needs it.
	Needed bool
	Err    string
}

// sysctl is 0 when the kernel has no such setting.
func (h Host) sysctl(name string) int { return h.Sysctls[name] }

// strict judges a device as the kernel does: the higher of both settings
// counts (Documentation/networking/ip-sysctl.rst, rp_filter). IPv4 only.
func (h Host) strict(device string) bool {
	return device != "" && max(h.sysctl(confAll+"rp_filter"), h.sysctl(conf4(device, "rp_filter"))) == 1
}

const confAll = "net/ipv4/conf/all/"

func conf4(device, setting string) string { return "net/ipv4/conf/" + device + "/" + setting }
func acceptRA(device string) string       { return "net/ipv6/conf/" + device + "/accept_ra" }

// clients is the way to clients of the address's family.
func (h Host) clients(a netip.Addr) Way {
	if a.Is4() {
		return h.Clients4
	}
	return h.Clients6
}
