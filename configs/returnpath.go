package configs

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"unicode"

	"github.com/splitd/splitd/traffic"
)

// returnPathsMax is how many return paths a host can have: that many marks,
// tables and rule priorities are for them.
const returnPathsMax = 15

// pathDraft is a return path under reading.
type pathDraft struct {
	path                     traffic.ReturnPath
	name, via, address, spot spot
	// whole says that the match and all that it needs could be read.
	whole bool
}

// readReturnPath reads one entry of return_paths.
func readReturnPath(v value) (*pathDraft, bool) {
	t, ok := v.table()
	if !ok {
		return nil, false
	}
	d := &pathDraft{name: v.spot, spot: v.spot}
	if n, ok := t.need("name", "the word that plan and errors use"); ok {
		d.name = n.spot
		d.path.Name = readName(n)
	}
	if dev, ok := t.need("device", "the network device towards the router"); ok {
		d.path.Device = readDevice(dev)
	}
	via, hasVia := t.take("via")
	if hasVia {
		d.via = via.spot
		d.path.Via, hasVia = parsed(via, parseSource)
		d.whole = hasVia
	} else {
		d.whole = true
	}
	if m, ok := t.need("match", "address or mark"); ok {
		d.path.Match, ok = oneOf(m, []traffic.ReturnMatch{traffic.MatchAddress, traffic.MatchMark}, nil)
		d.whole = d.whole && ok && d.path.Device != ""
	} else {
		d.whole = false
	}
	d.readMatch(t)
	t.close()
	return d, true
}

// readMatch reads what goes with the match.
func (d *pathDraft) readMatch(t *table) {
	address, hasAddress := t.take("address")
	ports, hasPorts := t.take("ports")
	switch d.path.Match {
	case traffic.MatchAddress:
		if hasPorts {
			ports.refuse("only match: mark has ports: every reply from the address goes back")
		}
		if !hasAddress {
			_, _ = t.need("address", "the source address of the replies")
			d.whole = false
		}
	case traffic.MatchMark:
		if hasAddress {
			address.refuse("only match: address has one: remove it, or set match: address")
			hasAddress = false
		}
	}
	if hasAddress {
		d.address = address.spot
		ip, ok := parsed(address, parseSource)
		d.path.Address = ip
		d.whole = d.whole && ok
	}
	if hasPorts {
		d.whole = each(ports, portsMax, "a port, or leave ports out for every port", d.readPort) && d.whole
	}
}

func (d *pathDraft) readPort(item value) bool {
	port, ok := parsed(item, parseReturnPort)
	if ok && slices.Contains(d.path.Ports, port) {
		item.refuse("%s is there already", port)
		return false
	}
	d.path.Ports = append(d.path.Ports, port)
	return ok
}

// readDevice reads the name of a network device as the kernel takes them
// (dev_valid_name in net/core/dev.c): at most 15 bytes, no "/", ":" or space.
func readDevice(v value) string {
	name, ok := v.text()
	strange := func(r rune) bool { return r == '/' || r == ':' || unicode.IsSpace(r) || !unicode.IsPrint(r) }
	switch {
	case !ok:
	case name == "" || name == "." || name == "..", strings.ContainsFunc(name, strange):
		v.refuse("%q is not the name of a network device", name)
	case len(name) > 15:
		v.refuse("%q has %d bytes, a network device's name at most 15", name, len(name))
	default:
		return name
	}
	return ""
}

// parseSource reads an address that packets from or to other hosts can carry.
func parseSource(text string) (netip.Addr, error) {
	ip, err := parseHost(text)
	if err == nil && ip.IsLoopback() {
		return ip, fmt.Errorf("%s is a loopback address: other hosts cannot reach it", ip)
	}
	return ip, err
}

// judgePaths reports what is wrong with the return paths together.
func judgePaths(drafts []*pathDraft) {
	first := map[string]spot{}
	for i, d := range drafts {
		if i == returnPathsMax {
			d.spot.refuse("more than %d return paths", returnPathsMax)
		}
		if name := d.path.Name; name != "" {
			if at, twice := first[name]; twice {
				d.name.refuse("return path %q is there already: %s", name, at)
			} else {
				first[name] = d.name
			}
		}
		d.judgeFamilies()
		for _, other := range drafts[:min(i, returnPathsMax)] {
			if d.whole && other.whole && d.overlaps(other) {
				d.spot.refuse("replies of return path %q match this one too: %s", other.path.Name, other.spot)
				break
			}
		}
	}
}

func (d *pathDraft) judgeFamilies() {
	via, address := d.path.Via, d.path.Address
	switch {
	case !d.whole || !via.IsValid() || !address.IsValid():
	case via == address:
		d.via.refuse("%s is the address of the replies themselves: name the router's", via)
	case via.Is4() != address.Is4():
		d.via.refuse("%s is %s, but address %s is %s: both must be of one family", via, family(via), address, family(address))
	}
}

// overlaps says whether one reply can match both paths.
func (d *pathDraft) overlaps(other *pathDraft) bool {
	a, b := d.path, other.path
	if a.Match != b.Match {
		return false
	}
	if a.Match == traffic.MatchAddress {
		return a.Address == b.Address
	}
	if a.Device != b.Device || a.Via.IsValid() && b.Via.IsValid() && a.Via != b.Via {
		return false
	}
	return len(a.Ports) == 0 || len(b.Ports) == 0 ||
		slices.ContainsFunc(a.Ports, func(p traffic.Port) bool { return slices.Contains(b.Ports, p) })
}
