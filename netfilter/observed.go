package netfilter

import (
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

// observed is the table of the splits as the kernel has it.
type observed struct {
	exists   bool
	dormant  bool
	counters map[string]uint64   // packets by name
	maps     map[serviceMap]bool // whether it is of the right type
	sets     []string            // named sets that are not ours
	elements map[service]string  // the chain that serves it
	foreign  []removeElement     // elements that we cannot have made
	chains   map[string]observedChain
	// candidates are the backends under trial, by split.
	candidates map[string][]string
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
	target   string  // where it always goes, if it does nothing else
	leads    string  // where it goes when its conditions hold
	shares   []share // what it draws, if it does
}

func (o observed) chainNames() []string { return slices.Sorted(maps.Keys(o.chains)) }

// identity is what observedRule.identity is for a rule of ours.
func (r rule) identity() string {
	var all []expr.Any
	var shares []share
	for _, s := range r.statements {
		all = append(all, s.expressions()...)
		if d, ok := s.(draw); ok {
			shares = d.shares
		}
	}
	return identity(all, shares, r.comment)
}

// identity prints expressions so that equal rules print alike. Byteorder and Rt
// are left out because the library does not read them back; an anonymous map shows
// what it holds instead of its name.
func identity(expressions []expr.Any, shares []share, comment string) string {
	var b strings.Builder
	for _, e := range expressions {
		switch e := e.(type) {
		case *expr.Byteorder, *expr.Rt:
		case *expr.Counter:
			b.WriteString("counter;")
		case *expr.Lookup:
			name := e.SetName
			if len(shares) > 0 {
				name = draw{shares: shares}.text()
			}
			fmt.Fprintf(&b, "lookup %d %d %t %s;", e.SourceRegister, e.DestRegister, e.Invert, name)
		case *expr.NAT:
			// The kernel fills the end of a range of one.
			nat := *e
			nat.RegAddrMax, nat.RegProtoMax = max(nat.RegAddrMax, nat.RegAddrMin), max(nat.RegProtoMax, nat.RegProtoMin)
			nat.Specified = nat.RegProtoMin != 0
			fmt.Fprintf(&b, "%T%+v;", e, nat)
		default:
			fmt.Fprintf(&b, "%T%+v;", e, e)
		}
	}
	return b.String() + "#" + comment
}

// A scope says which chains' rules are worth reading.
type scope func(chain string) bool

func everything(string) bool { return true }

// weightsOnly leaves out the chains of the backends.
func weightsOnly(chain string) bool {
	_, kind, _ := nameOf(chain)
	return kind != string(traffic.RolePrimary) && kind != string(traffic.RoleCandidate)
}

// reader reads the table over a link.
type reader struct {
	conn  *nftables.Conn
	table *nftables.Table
}

func (l *link) reader() (reader, error) {
	if err := l.open(); err != nil {
		return reader{}, err
	}
	return reader{conn: l.conn, table: &nftables.Table{Name: TableSplits, Family: nftables.TableFamilyINet}}, nil
}

// errNeverQuiet says that no reading fell between two changes.
var errNeverQuiet = errors.New("the ruleset changes faster than it can be read")

// observe reads the table. The kernel does not answer several questions at one
// moment, and neither library reports an interrupted dump: when the generation
// of the ruleset moved meanwhile, it is read again.
func (l *link) observe(of scope) (observed, error) {
	const tries = 20
	r, err := l.reader()
	if err != nil {
		return observed{}, err
	}
	for range tries {
		before, err := r.conn.GetGen()
		if err != nil {
			l.close()
			return observed{}, fmt.Errorf("read the generation of the ruleset: %w", err)
		}
		o, readErr := r.read(of)
		after, err := r.conn.GetGen()
		if err != nil {
			l.close()
			return observed{}, fmt.Errorf("read the generation of the ruleset: %w", err)
		}
		if before.ID == after.ID {
			return o, readErr
		}
	}
	return observed{}, fmt.Errorf("read table %q: %w", TableSplits, errNeverQuiet)
}

func (r reader) read(of scope) (observed, error) {
	o := observed{
		counters: map[string]uint64{}, maps: map[serviceMap]bool{},
		elements: map[service]string{}, chains: map[string]observedChain{}, candidates: map[string][]string{},
	}
	table, err := r.conn.ListTableOfFamily(TableSplits, nftables.TableFamilyINet)
	if errors.Is(err, unix.ENOENT) {
		return o, nil
	}
	if err != nil {
		return o, fmt.Errorf("read table %q: %w", TableSplits, err)
	}
	o.exists, o.dormant = true, table.Flags&nftables.TableFlagDormant != 0
	if o.counters, err = r.counters(); err != nil {
		return o, err
	}
	draws, err := r.readSets(&o)
	if err != nil {
		return o, err
	}
	return o, r.readChains(&o, of, draws)
}

func (r reader) counters() (map[string]uint64, error) {
	objects, err := r.conn.GetNamedObjects(r.table)
	if err != nil {
		return nil, fmt.Errorf("read counters of table %q: %w", TableSplits, err)
	}
	counters := map[string]uint64{}
	for _, object := range objects {
		if named, ok := object.(*nftables.NamedObj); ok {
			if c, ok := named.Obj.(*expr.Counter); ok {
				counters[named.Name] = c.Packets
			}
		}
	}
	return counters, nil
}

// readSets reads the maps of services and returns the anonymous ones, the
// draws, by name and still unread.
func (r reader) readSets(o *observed) (map[string]*nftables.Set, error) {
	sets, err := r.conn.GetSets(r.table)
	if err != nil {
		return nil, fmt.Errorf("read sets of table %q: %w", TableSplits, err)
	}
	draws := map[string]*nftables.Set{}
	w := writer{}
	for _, s := range sets {
		name := serviceMap(s.Name)
		switch {
		case s.Anonymous:
			draws[s.Name] = s
		case name == services4 || name == services6:
			want := w.set(name)
			o.maps[name] = s.IsMap && !s.Interval && s.KeyType.Name == want.KeyType.Name && s.DataType.Name == want.DataType.Name
			if err := r.readServices(o, s); err != nil {
				return nil, err
			}
		default:
			o.sets = append(o.sets, s.Name)
		}
	}
	return draws, nil
}

func (r reader) readServices(o *observed, s *nftables.Set) error {
	elements, err := r.conn.GetSetElements(s)
	if err != nil {
		return fmt.Errorf("read map %q: %w", s.Name, err)
	}
	for _, e := range elements {
		key, ok := parseService(e.Key)
		kind, target := parseVerdict(e.Val)
		if !ok || kind != expr.VerdictGoto {
			o.foreign = append(o.foreign, removeElement{set: s.Name, key: e.Key})
			continue
		}
		o.elements[key] = target
	}
	return nil
}

// parseService reads what service.key writes.
func parseService(key []byte) (service, bool) {
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
	return s, true
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

func (r reader) readChains(o *observed, of scope, draws map[string]*nftables.Set) error {
	chains, err := r.chains()
	if err != nil {
		return err
	}
	for _, c := range chains {
		made := observedChain{}
		if c.Hooknum != nil {
			made.hook, made.odd = parseHook(c)
		}
		if of(c.Name) {
			if made.rules, err = r.rules(c.Name, draws); err != nil {
				return err
			}
		}
		o.chains[c.Name] = made
		if split, kind, backend := nameOf(c.Name); kind == string(traffic.RoleCandidate) {
			o.candidates[split] = append(o.candidates[split], backend)
		}
	}
	return nil
}

// chains lists the chains of the table.
func (r reader) chains() ([]*nftables.Chain, error) {
	chains, err := r.conn.ListChainsOfTableFamily(nftables.TableFamilyINet)
	if err != nil {
		return nil, fmt.Errorf("read chains of table %q: %w", TableSplits, err)
	}
	return slices.DeleteFunc(chains, func(c *nftables.Chain) bool { return c.Table == nil || c.Table.Name != TableSplits }), nil
}

func parseHook(c *nftables.Chain) (*hook, bool) {
	h := &hook{priority: int(*c.Priority)}
	switch *c.Hooknum {
	case *nftables.ChainHookPrerouting:
		h.name = hookPrerouting
	case *nftables.ChainHookPostrouting:
		h.name = hookPostrouting
	}
	if c.Type == nftables.ChainTypeFilter {
		h.kind = kindFilter
	}
	odd := h.name == "" || h.kind == "" && c.Type != nftables.ChainTypeNAT || c.Policy == nil || *c.Policy != nftables.ChainPolicyAccept
	return h, odd
}

func (r reader) rules(chain string, draws map[string]*nftables.Set) ([]observedRule, error) {
	rules, err := r.conn.GetRules(r.table, &nftables.Chain{Name: chain, Table: r.table})
	if err != nil {
		return nil, fmt.Errorf("read chain %q: %w", chain, err)
	}
	var all []observedRule
	for _, raw := range rules {
		made := observedRule{handle: raw.Handle, comment: commentOf(raw.UserData)}
		for _, e := range raw.Exprs {
			lookup, ok := e.(*expr.Lookup)
			if !ok || draws[lookup.SetName] == nil {
				continue
			}
			if made.shares, err = r.shares(draws[lookup.SetName]); err != nil {
				return nil, err
			}
		}
		if n := len(raw.Exprs); n > 0 {
			if v, ok := raw.Exprs[n-1].(*expr.Verdict); ok && v.Kind == expr.VerdictGoto {
				made.leads = v.Chain
			}
			if n == 1 {
				made.target = made.leads
			}
		}
		made.identity = identity(raw.Exprs, made.shares, made.comment)
		all = append(all, made)
	}
	return all, nil
}

// shares reads the map of a draw. A map that we cannot have made gives none.
func (r reader) shares(s *nftables.Set) ([]share, error) {
	elements, err := r.conn.GetSetElements(s)
	if err != nil {
		return nil, fmt.Errorf("read map %q: %w", s.Name, err)
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
