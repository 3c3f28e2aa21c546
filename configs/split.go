package configs

import (
	"net/netip"
	"time"

	"github.com/splitd/splitd/traffic"
)

// What one split can have at most, so that judging it stays quick.
const (
	addressesMax  = 64
	portsMax      = 256
	candidatesMax = 64
)

// draft is a split under reading, with the places of what is judged later.
type draft struct {
	split traffic.Split
	at    spot // of its mapping
	name  spot
	// addresses and ports are the spots of split.Service's, one for one.
	addresses, ports []spot
	// whole says that every address and port of the service could be read.
	whole    bool
	backends []backendDraft // the primary first
	draw     drawDraft
	mirror   mirrorDraft
	shadow   shadowDraft
	tls      tlsDraft
	// transparent is that of proxy, where it may be on.
	transparent value
	// candidates says that each of them could be read, with its name.
	candidates bool
	// check says that the file itself says how backends are checked, or at which port.
	check bool
}

type backendDraft struct {
	backend   traffic.Backend
	primary   bool
	name      spot
	at        spot   // of its addresses
	addresses []spot // of backend.Addresses, one for one
	whole     bool
	members   []member // of its groups
}

func (v value) weight() (traffic.Weight, bool) {
	text, ok := v.scalar("a share such as 5%")
	if !ok {
		return 0, false
	}
	w, err := traffic.ParseWeight(text)
	if err != nil {
		v.refuse("%s", err)
	}
	return w, err == nil
}

// The protocols. protocolUnknown is that of a split whose protocol cannot be read.
const (
	protocolRaw     = "raw"
	protocolSMTP    = "smtp"
	protocolHTTP    = "http"
	protocolUnknown = ""
)

// modeUnknown is that of a split whose mode cannot be read: what another one
// would be wrong in is no mistake of its own.
const modeUnknown traffic.Mode = ""

// relayed says that the relay serves the split, or may.
func (d *draft) relayed() bool {
	return d.split.Mode == traffic.ModeProxy || d.split.Mode == traffic.ModeAuto
}

// newSplit returns a split with the defaults of everything that has one.
func newSplit(name string) traffic.Split {
	return traffic.Split{
		Name:     name,
		Protocol: protocolRaw,
		Mode:     traffic.ModeKernel,
		Affinity: traffic.AffinityNone,
		Return:   traffic.ReturnPolicy,
		WhenDown: traffic.WhenDownPrimary,
		Health:   defaultHealth(),
		Proxy:    defaultProxy(),
		Shadow:   defaultShadow(),
	}
}

// readSplit reads one entry of splits; false means that it is no mapping.
func readSplit(v value) (*draft, bool) {
	t, ok := v.table()
	if !ok {
		return nil, false
	}
	d := &draft{split: newSplit(""), at: v.spot, name: v.spot}
	if n, ok := t.need("name", "the word that commands, metrics and history use"); ok {
		d.name = n.spot
		d.split.Name = readName(n)
	}
	if s, ok := t.need("service", "the addresses and ports that clients use"); ok {
		d.readService(s)
	}
	d.readWords(t)
	d.readBackends(t)
	d.readProxy(t)
	d.readHealth(t)
	d.readDraw(t)
	d.readUDP(t)
	d.readShadow(t)
	t.laterParts()
	t.close()
	return d, true
}

// readName reads a name; one that is wrong is "".
func readName(v value) string {
	name, _ := v.checkedText(traffic.CheckName)
	return name
}

// readWords reads the keys that are one word.
func (d *draft) readWords(t *table) {
	if v, ok := t.take("protocol"); ok {
		d.split.Protocol, _ = oneOf(v, []string{protocolRaw, protocolSMTP, protocolHTTP}, []string{"dns", "redis", "line"})
	}
	if v, ok := t.take("mode"); ok {
		if word, ok := oneOf(v, []traffic.Mode{traffic.ModeKernel, traffic.ModeProxy, traffic.ModeAuto}, nil); ok {
			d.split.Mode = word
		} else {
			d.split.Mode = modeUnknown
		}
	}
	if v, ok := t.take("return"); ok {
		returns := []traffic.Return{traffic.ReturnPolicy, traffic.ReturnMasquerade, traffic.ReturnGateway}
		if word, ok := oneOf(v, returns, nil); ok {
			d.split.Return = word
		}
		d.unusedIn(v, traffic.ModeProxy)
	}
	if v, ok := t.take("pinned"); ok {
		d.split.Pinned, _ = v.boolean()
	}
}

// unusedIn notes a key that the other data plane would use. The mode must
// have been read.
func (d *draft) unusedIn(v value, mode traffic.Mode) {
	if d.split.Mode == mode {
		v.note("unused in mode %s", mode)
	}
}

func (d *draft) readService(v value) {
	t, ok := v.table()
	if !ok {
		return
	}
	addresses, ok1 := t.need("addresses", "the IP addresses that clients connect to")
	ports, ok2 := t.need("ports", "the ports that clients connect to, such as 25/tcp")
	t.close()
	d.whole = ok1 && ok2
	if ok1 {
		d.whole = each(addresses, addressesMax, "an address", func(item value) bool {
			ip, ok := parsed(item, parseIP)
			if ok {
				d.split.Service.Addresses = append(d.split.Service.Addresses, ip)
				d.addresses = append(d.addresses, item.spot)
			}
			return ok
		}) && d.whole
	}
	if ok2 {
		d.whole = each(ports, portsMax, "a port", func(item value) bool {
			port, ok := parsed(item, parsePort)
			if ok {
				d.split.Service.Ports = append(d.split.Service.Ports, port)
				d.ports = append(d.ports, item.spot)
			}
			return ok
		}) && d.whole
	}
}

// each reads the items of a list that must not be empty, and says whether all
// of them could be read.
func each(v value, limit int, what string, read func(value) bool) bool {
	items, ok := v.list()
	if ok && len(items) == 0 {
		v.refuse("empty: name %s", what)
	}
	return v.readItems(items, limit, read) && ok && len(items) > 0
}

// eachOrNone reads the items of a list that may be empty.
func eachOrNone(v value, limit int, read func(value) bool) bool {
	items, ok := v.list()
	return v.readItems(items, limit, read) && ok
}

func (v value) readItems(items []value, limit int, read func(value) bool) bool {
	if len(items) > limit {
		v.refuse("%d entries, over %d", len(items), limit)
		return false
	}
	whole := true
	for _, item := range items {
		whole = read(item) && whole
	}
	return whole
}

func parsed[T any](v value, parse func(string) (T, error)) (T, bool) {
	var result T
	text, ok := v.scalar("one value")
	if !ok {
		return result, false
	}
	result, err := parse(text)
	if err != nil {
		v.refuse("%s", err)
	}
	return result, err == nil
}

func (d *draft) readBackends(t *table) {
	if v, ok := t.need("primary", "the known-good backend, such as {name: old, addresses: [local]}"); ok {
		if b, ok := readBackend(v, 0); ok {
			d.split.Primary = b.backend
			d.backends = append(d.backends, b)
		}
	}
	v, ok := t.need("candidates", "the backends under trial")
	if !ok {
		return
	}
	d.candidates = each(v, candidatesMax, "a backend under trial", func(item value) bool {
		b, ok := readBackend(item, 1+len(d.split.Candidates))
		if ok {
			d.split.Candidates = append(d.split.Candidates, b.backend)
			d.backends = append(d.backends, b)
		}
		return ok && b.backend.Name != ""
	})
	if sum := d.split.CandidateWeight(); sum > traffic.Whole {
		v.refuse("weights add up to %s, over 100%%", sum)
	}
}

// readBackend reads the backend with that number; 0 is the primary.
func readBackend(v value, number int) (backendDraft, bool) {
	t, ok := v.table()
	if !ok {
		return backendDraft{}, false
	}
	b := backendDraft{at: v.spot, name: v.spot, primary: number == 0}
	if n, ok := t.need("name", "the word that status, metrics and history use"); ok {
		b.name = n.spot
		b.backend.Name = readName(n)
	}
	if a, ok := t.need("addresses", "local, or IP addresses"); ok {
		b.at = a.spot
		b.readAddresses(a)
	}
	if !b.primary {
		if w, ok := t.take("weight"); ok {
			b.backend.Weight, _ = w.weight()
		}
		t.inside("clients", func(t *table) { b.readClients(t, number) })
	} else {
		t.notOfPrimary("weight", "a primary has no weight: it takes what the candidates leave")
		t.notOfPrimary("clients", "a primary has no groups: it gets whom a candidate's never keeps out")
	}
	t.close()
	return b, true
}

// notOfPrimary refuses a key that only candidates have.
func (t *table) notOfPrimary(key, why string) {
	if v, ok := t.given[key]; ok {
		t.asked = append(t.asked, key)
		v.refuse("%s", why)
	}
}

func (b *backendDraft) readAddresses(v value) {
	first := map[netip.Addr]spot{}
	locals, items := 0, 0
	b.whole = each(v, addressesMax, "local, or an IP address", func(item value) bool {
		items++
		if !item.refused() && item.node.Value == "local" {
			locals++
			return true
		}
		a, ok := parsed(item, parseAddress)
		if !ok {
			return false
		}
		if at, twice := first[a.IP]; twice {
			item.refuse("%s is there already: %s", a.IP, at)
			return false
		}
		first[a.IP] = item.spot
		b.backend.Addresses = append(b.backend.Addresses, a)
		b.addresses = append(b.addresses, item.spot)
		return true
	})
	if locals > 0 && items > 1 {
		v.refuse("local stands alone: it is this host itself, whatever its addresses")
		b.whole = false
	}
	b.backend.Local = locals > 0
}

func family(ip netip.Addr) string {
	if ip.Is4() {
		return "IPv4"
	}
	return "IPv6"
}

// duration reads a duration into target, if it is given.
func (t *table) duration(key string, target *time.Duration) {
	if v, ok := t.take(key); ok {
		if limit, ok := v.duration(); ok {
			*target = limit
		}
	}
}
