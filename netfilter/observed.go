package netfilter

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
	"golang.org/x/sys/unix"

	"github.com/splitd/splitd/traffic"
)

// observed is one table of the splits as the kernel has it.
type observed struct {
	table    string
	exists   bool
	dormant  bool
	owned    bool                        // it is its owner's alone to change
	counters map[string]uint64           // packets by name
	timeouts map[string]bool             // named objects for flows of UDP
	maps     map[serviceMap]bool         // whether it is of the right type
	groups   map[string]map[network]bool // by the name of the set
	sets     []string                    // named sets that are not ours
	elements map[place]string            // the chain that serves it
	foreign  []removeElement             // elements that we cannot have made
	chains   map[string]observedChain
	// candidates are the backends under trial, by split.
	candidates map[string][]string
}

// sight is all tables of the splits, by name.
type sight map[string]observed

// missing is a table that is not there.
func missing(table string) observed {
	return observed{
		table: table, counters: map[string]uint64{}, timeouts: map[string]bool{}, maps: map[serviceMap]bool{},
		groups: map[string]map[network]bool{}, elements: map[place]string{}, chains: map[string]observedChain{}, candidates: map[string][]string{},
	}
}

// names lists the tables in their order.
func (s sight) names() []string {
	names := slices.Collect(maps.Keys(s))
	slices.SortFunc(names, func(a, b string) int {
		i, _ := tableNumber(a)
		j, _ := tableNumber(b)
		return cmp.Compare(i, j)
	})
	return names
}

// table is the table of that name, which may be missing.
func (s sight) table(name string) observed {
	if o, ok := s[name]; ok {
		return o
	}
	return missing(name)
}

// standing says which table each split stands in.
func (s sight) standing() map[string]string {
	where := map[string]string{}
	for _, name := range s.names() {
		for _, split := range s[name].splits() {
			where[split] = name
		}
	}
	return where
}

type observedChain struct {
	hook  *hook
	odd   bool // its type or policy is not ours
	rules []observedRule
}

// observedRule is a rule reduced to what can be compared: identity is the same
// text for the same rule, whoever made it.
type observedRule struct {
	handle   uint64
	identity string
	comment  string
	six      bool    // it begins with the condition that a packet is of IPv6
	target   string  // where it always goes, if it does nothing else
	leads    string  // where it goes when its conditions hold
	shares   []share // what it draws, if it does
	byClient bool    // the draw is a hash of the client's network
}

func (o observed) chainNames() []string { return slices.Sorted(maps.Keys(o.chains)) }

// A scope says which chains' rules are worth reading.
type scope func(chain string) bool

func everything(string) bool { return true }

// weightsOnly leaves out the chains of the backends.
func weightsOnly(chain string) bool {
	_, kind, _ := nameOf(chain)
	return kind != string(traffic.RolePrimary) && kind != string(traffic.RoleCandidate)
}

// reader reads one table over a link, until a read fails.
type reader struct {
	link  *link
	conn  *nftables.Conn
	table *nftables.Table
}

func (l *link) reader(table string) (reader, error) {
	if err := l.open(); err != nil {
		return reader{}, err
	}
	return l.readerOf(&nftables.Table{Name: table, Family: nftables.TableFamilyINet}), nil
}

// readerOf is reader on a link that is open.
func (l *link) readerOf(table *nftables.Table) reader {
	return reader{link: l, conn: l.conn, table: table}
}

// errNeverQuiet says that no reading fell between two changes.
var errNeverQuiet = errors.New("the ruleset changes faster than it can be read")

// observe reads the tables. The kernel does not answer several questions at one
// moment, and neither library reports an interrupted dump: when the generation
// of the ruleset moved meanwhile, they are read again.
func (l *link) observe(of scope) (sight, error) {
	s, _, err := l.observeAt(of)
	return s, err
}

// observeAt tells the generation, too, at which the tables were as it says.
func (l *link) observeAt(of scope) (sight, uint32, error) {
	const tries = 20
	for range tries {
		before, err := l.generation()
		if err != nil {
			return nil, 0, err
		}
		s, readErr := l.readTables(of)
		after, err := l.generation()
		if err != nil {
			return nil, 0, err
		}
		if before == after {
			return s, after, readErr
		}
	}
	return nil, 0, fmt.Errorf("read table %q: %w", TableSplits, errNeverQuiet)
}

// splitTables lists the tables of the splits that there are.
func (l *link) splitTables() ([]*nftables.Table, error) {
	if err := l.open(); err != nil {
		return nil, err
	}
	tables, err := l.conn.ListTablesOfFamily(nftables.TableFamilyINet)
	if err != nil {
		return nil, fmt.Errorf("list tables: %w", l.failed(err))
	}
	return slices.DeleteFunc(tables, func(t *nftables.Table) bool {
		_, ours := tableNumber(t.Name)
		return !ours
	}), nil
}

func (l *link) readTables(of scope) (sight, error) {
	tables, err := l.splitTables()
	if err != nil {
		return nil, err
	}
	chains, err := l.splitChains()
	if err != nil {
		return nil, err
	}
	s := sight{}
	for _, t := range tables {
		r := l.readerOf(&nftables.Table{Name: t.Name, Family: nftables.TableFamilyINet})
		rules, err := l.allRules(r.table)
		if err != nil {
			return nil, err
		}
		o, err := r.read(of, chains[t.Name], rules)
		if err != nil {
			return nil, err
		}
		o.dormant, o.owned = t.Flags&nftables.TableFlagDormant != 0, t.Flags&ownedFlags == ownedFlags
		s[t.Name] = o
	}
	return s, nil
}

// splitChains lists the chains of the tables of the splits, by table.
func (l *link) splitChains() (map[string][]*nftables.Chain, error) {
	if err := l.open(); err != nil {
		return nil, err
	}
	chains, err := l.conn.ListChainsOfTableFamily(nftables.TableFamilyINet)
	if err != nil {
		return nil, fmt.Errorf("list chains: %w", l.failed(err))
	}
	byTable := map[string][]*nftables.Chain{}
	for _, c := range chains {
		if c.Table == nil {
			continue
		}
		if _, ours := tableNumber(c.Table.Name); ours {
			byTable[c.Table.Name] = append(byTable[c.Table.Name], c)
		}
	}
	return byTable, nil
}

func (r reader) read(of scope, chains []*nftables.Chain, rules map[string][]*nftables.Rule) (observed, error) {
	o := missing(r.table.Name)
	o.exists = true
	if err := r.readObjects(&o); err != nil {
		return o, err
	}
	draws, err := r.readSets(&o)
	if err != nil {
		return o, err
	}
	for _, c := range chains {
		if err := r.readChain(&o, of, c, rules[c.Name], draws); err != nil {
			return o, err
		}
	}
	return o, nil
}

// readObjects reads the named objects.
func (r reader) readObjects(o *observed) error {
	objects, err := r.conn.GetNamedObjects(r.table)
	if err != nil {
		return fmt.Errorf("read counters of table %q: %w", r.table.Name, r.link.failed(err))
	}
	for _, object := range objects {
		named, ok := object.(*nftables.NamedObj)
		if !ok {
			continue
		}
		switch kind := named.Obj.(type) {
		case *expr.Counter:
			o.counters[named.Name] = kind.Packets
		case *expr.CtTimeout:
			o.timeouts[named.Name] = true
		}
	}
	return nil
}

// readSets reads the maps of services and returns the anonymous ones, the
// draws, by name and still unread.
func (r reader) readSets(o *observed) (map[string]*nftables.Set, error) {
	sets, err := r.conn.GetSets(r.table)
	if err != nil {
		return nil, fmt.Errorf("read sets of table %q: %w", r.table.Name, r.link.failed(err))
	}
	draws := map[string]*nftables.Set{}
	w := writer{name: r.table.Name}
	for _, s := range sets {
		m, mapped := mapNamed(s.Name)
		switch {
		case s.Anonymous:
			draws[s.Name] = s
		case mapped:
			want := w.set(m)
			o.maps[m] = s.IsMap && s.Interval == want.Interval && s.KeyType.Name == want.KeyType.Name && s.DataType.Name == want.DataType.Name
			if err := r.readServices(o, m, s); err != nil {
				return nil, err
			}
		case isGroup(s, w.group(s.Name)):
			if o.groups[s.Name], err = r.readGroup(s); err != nil {
				return nil, err
			}
		default:
			o.sets = append(o.sets, s.Name)
		}
	}
	return draws, nil
}

// isGroup says whether a set is one of ours, of the type that we give it.
func isGroup(s, want *nftables.Set) bool {
	split, candidate := candidateOfGroup(s.Name)
	return split != "" && candidate != "" && !s.IsMap && s.Interval && s.KeyType.Name == want.KeyType.Name
}

func (r reader) readServices(o *observed, m serviceMap, s *nftables.Set) error {
	elements, err := r.conn.GetSetElements(s)
	if err != nil {
		return fmt.Errorf("read map %q: %w", s.Name, r.link.failed(err))
	}
	for _, e := range elements {
		key, ok := parseService(e.Key, e.KeyEnd)
		kind, target := parseVerdict(e.Val)
		if !ok || kind != expr.VerdictGoto || key.ip.Is6() != m.six || key.port.IsRange() != m.ranges {
			o.foreign = append(o.foreign, removeElement{set: s.Name, key: e.Key, end: e.KeyEnd})
			continue
		}
		o.elements[place{in: m, service: key}] = target
	}
	return nil
}

// readGroup reads the networks of a group.
func (r reader) readGroup(s *nftables.Set) (map[network]bool, error) {
	elements, err := r.conn.GetSetElements(s)
	if err != nil {
		return nil, fmt.Errorf("read set %q: %w", s.Name, r.link.failed(err))
	}
	return parseNetworks(elements), nil
}

// parseNetworks joins the beginnings and ends of an interval set. Where one
// run ends and another begins at the same address, the end comes first.
func parseNetworks(elements []nftables.SetElement) map[network]bool {
	slices.SortFunc(elements, func(a, b nftables.SetElement) int {
		if order := slices.Compare(a.Key, b.Key); order != 0 || a.IntervalEnd == b.IntervalEnd {
			return order
		}
		if a.IntervalEnd {
			return -1
		}
		return 1
	})
	networks := map[network]bool{}
	open := ""
	for _, e := range elements {
		if open != "" {
			networks[network{first: open, end: string(e.Key)}] = true
			open = ""
		}
		if !e.IntervalEnd {
			open = string(e.Key)
		}
	}
	if open != "" {
		networks[network{first: open}] = true
	}
	return networks
}

// parseService reads what service.keys writes.
func parseService(key, end []byte) (service, bool) {
	ip, ok := netip.AddrFromSlice(key[:max(len(key)-8, 0)])
	if !ok {
		return service{}, false
	}
	rest := key[len(key)-8:]
	s := service{ip: ip, port: traffic.Port{Number: binary.BigEndian.Uint16(rest[4:]), Transport: traffic.TCP}}
	switch rest[0] {
	case unix.IPPROTO_TCP:
	case unix.IPPROTO_UDP:
		s.port.Transport = traffic.UDP
	default:
		return service{}, false
	}
	if len(end) == 0 {
		return s, true
	}
	if len(end) != len(key) {
		return service{}, false
	}
	s.port.Last = binary.BigEndian.Uint16(end[len(end)-4:])
	_, want := s.keys()
	return s, slices.Equal(end, want)
}

// parseVerdict reads the data of a verdict map's element: attributes
// NFTA_VERDICT_CODE and NFTA_VERDICT_CHAIN, which the library leaves raw.
func parseVerdict(data []byte) (kind expr.VerdictKind, target string) {
	for len(data) >= unix.NLA_HDRLEN {
		length := int(binary.NativeEndian.Uint16(data))
		if length < unix.NLA_HDRLEN || length > len(data) {
			break
		}
		value := data[unix.NLA_HDRLEN:length]
		switch binary.NativeEndian.Uint16(data[2:]) &^ (unix.NLA_F_NESTED | unix.NLA_F_NET_BYTEORDER) {
		case unix.NFTA_VERDICT_CODE:
			if len(value) == 4 {
				kind = expr.VerdictKind(int32(binary.BigEndian.Uint32(value)))
			}
		case unix.NFTA_VERDICT_CHAIN:
			target = strings.TrimRight(string(value), "\x00")
		}
		data = data[min((length+3)&^3, len(data)):]
	}
	return kind, target
}

func (r reader) readChain(o *observed, of scope, c *nftables.Chain, rules []*nftables.Rule, draws map[string]*nftables.Set) error {
	made := observedChain{}
	if c.Hooknum != nil {
		made.hook, made.odd = parseHook(c)
	}
	if of(c.Name) {
		var err error
		if made.rules, err = r.parse(rules, draws); err != nil {
			return err
		}
	}
	o.chains[c.Name] = made
	if split, kind, backend := nameOf(c.Name); kind == string(traffic.RoleCandidate) {
		o.candidates[split] = append(o.candidates[split], backend)
	}
	return nil
}

func parseHook(c *nftables.Chain) (*hook, bool) {
	h := &hook{priority: int(*c.Priority)}
	switch *c.Hooknum {
	case *nftables.ChainHookPrerouting:
		h.name = hookPrerouting
	case *nftables.ChainHookPostrouting:
		h.name = hookPostrouting
	case *nftables.ChainHookOutput:
		h.name = hookOutput
	}
	switch c.Type {
	case nftables.ChainTypeFilter:
		h.kind = kindFilter
	case nftables.ChainTypeRoute:
		h.kind = kindRoute
	case nftables.ChainTypeNAT: // "" is kindNAT
	}
	odd := h.name == "" || h.kind == "" && c.Type != nftables.ChainTypeNAT || c.Policy == nil || *c.Policy != nftables.ChainPolicyAccept
	return h, odd
}

func (r reader) rules(chain string, draws map[string]*nftables.Set) ([]observedRule, error) {
	raw, err := r.raw(chain)
	if err != nil {
		return nil, err
	}
	return r.parse(raw, draws)
}

// raw reads the rules of a chain.
func (r reader) raw(chain string) ([]*nftables.Rule, error) {
	rules, err := r.conn.GetRules(r.table, &nftables.Chain{Name: chain, Table: r.table})
	if err != nil {
		return nil, fmt.Errorf("read chain %q: %w", chain, r.link.failed(err))
	}
	return rules, nil
}

// parse reads rules and what the maps of their draws hold.
func (r reader) parse(rules []*nftables.Rule, draws map[string]*nftables.Set) ([]observedRule, error) {
	var all []observedRule
	for _, raw := range rules {
		made := observedRule{handle: raw.Handle, comment: commentOf(raw.UserData)}
		for _, e := range raw.Exprs {
			if _, hashes := e.(*expr.Hash); hashes {
				made.byClient = true
			}
			lookup, ok := e.(*expr.Lookup)
			if !ok || draws[lookup.SetName] == nil {
				continue
			}
			shares, err := r.shares(draws[lookup.SetName])
			if err != nil {
				return nil, err
			}
			made.shares = shares
		}
		if n := len(raw.Exprs); n > 0 {
			if v, ok := raw.Exprs[n-1].(*expr.Verdict); ok && v.Kind == expr.VerdictGoto {
				made.leads = v.Chain
			}
			if n == 1 {
				made.target = made.leads
			}
		}
		made.six = forIPv6(raw.Exprs)
		made.identity = identity(raw.Exprs, made.shares, made.comment)
		all = append(all, made)
	}
	return all, nil
}

// forIPv6 says whether a rule begins with the condition of ofFamily(true).
func forIPv6(expressions []expr.Any) bool {
	if len(expressions) < 2 {
		return false
	}
	load, ok := expressions[0].(*expr.Meta)
	equals, ok2 := expressions[1].(*expr.Cmp)
	return ok && ok2 && load.Key == expr.MetaKeyNFPROTO && equals.Op == expr.CmpOpEq && slices.Equal(equals.Data, []byte{unix.NFPROTO_IPV6})
}

// shares reads the map of a draw. A map that we cannot have made gives none.
func (r reader) shares(s *nftables.Set) ([]share, error) {
	elements, err := r.conn.GetSetElements(s)
	if err != nil {
		return nil, fmt.Errorf("read map %q: %w", s.Name, r.link.failed(err))
	}
	slices.SortStableFunc(elements, func(a, b nftables.SetElement) int { return slices.Compare(a.Key, b.Key) })
	var shares []share
	for i, e := range elements {
		if e.IntervalEnd {
			continue
		}
		kind, target := parseVerdict(e.Val)
		if len(e.Key) != 4 || kind != expr.VerdictGoto || i+1 == len(elements) || len(elements[i+1].Key) != 4 {
			return nil, nil
		}
		first, end := binary.BigEndian.Uint32(e.Key), binary.BigEndian.Uint32(elements[i+1].Key)
		shares = append(shares, share{first: first, last: end - 1, chain: target})
	}
	return shares, nil
}

// commentOf reads the comment of a rule (userdata.Get panics on what another
// program cut short).
func commentOf(data []byte) string {
	for len(data) >= 2 {
		end := 2 + int(data[1])
		if end > len(data) {
			return ""
		}
		if userdata.Type(data[0]) == userdata.TypeComment {
			return strings.TrimRight(string(data[2:end]), "\x00")
		}
		data = data[end:]
	}
	return ""
}
