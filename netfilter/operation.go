package netfilter

import (
	"cmp"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
	"golang.org/x/sys/unix"
)

// An operation changes one table. size is a generous guess of its bytes on the
// wire.
type operation interface {
	write(w *writer) error
	size() int
}

// A step is one part of a transaction: an operation on a table.
type step struct {
	table  string
	family nftables.TableFamily // 0 is inet
	operation
}

// on makes steps of operations on one table.
func on(table string, operations ...operation) []step {
	all := make([]step, 0, len(operations))
	for _, o := range operations {
		all = append(all, step{table: table, operation: o})
	}
	return all
}

// The operations.
type (
	addTable      struct{}
	removeTable   struct{}
	addCounter    struct{ name string }
	removeCounter struct{ name string }
	addTimeout    struct{ timeout timeout }
	removeTimeout struct{ name string }
	addMap        struct{ name serviceMap }
	// addGroup makes a set of a group; addNetworks and removeNetworks change
	// the networks of one that stands.
	addGroup    struct{ set string }
	addNetworks struct {
		group    string
		networks []network
	}
	removeNetworks struct {
		group    string
		networks []network
	}
	removeSet struct{ name string }
	// addChain makes the chain with its rules.
	addChain    struct{ chain chain }
	removeChain struct{ name string }
	flushChain  struct{ name string }
	// replaceRules gives the chain other rules in one step. Packets see all of
	// the old or all of the new ones, as long as neither own a set.
	replaceRules struct{ chain chain }
	replaceRule  struct {
		chain  string
		handle uint64
		rule   rule
	}
	removeRule struct {
		chain  string
		handle uint64
	}
	addElement    struct{ element element }
	removeElement struct {
		set      string
		key, end []byte // end: the last key of a run
	}
)

// writer collects the messages of one transaction. A nftables.Conn mixes what
// several goroutines write: each transaction has one of its own.
type writer struct {
	conn   *nftables.Conn
	name   string // of the table that the step is about
	family nftables.TableFamily
	owner
}

func (w *writer) write(s step) error {
	w.name, w.family = s.table, s.family
	return s.operation.write(w) //nolint:staticcheck // step has a method of that name too
}

func (w *writer) table() *nftables.Table {
	return &nftables.Table{Name: w.name, Family: cmp.Or(w.family, nftables.TableFamilyINet)}
}

// newTable is the table with the flags that it is made with.
func (w *writer) newTable() *nftables.Table {
	t := w.table()
	t.Flags = w.flags(w.name)
	return t
}

func (w *writer) chain(name string) *nftables.Chain {
	return &nftables.Chain{Name: name, Table: w.table()}
}

// set describes a service map to the kernel and to those who list it.
func (w *writer) set(m serviceMap) *nftables.Set {
	address := nftables.TypeIPAddr
	if m.six {
		address = nftables.TypeIP6Addr
	}
	return &nftables.Set{
		Table: w.table(), Name: m.name(), IsMap: true, Concatenation: true, Interval: m.ranges,
		KeyType:  nftables.MustConcatSetType(address, nftables.TypeInetProto, nftables.TypeInetService),
		DataType: nftables.TypeVerdict,
	}
}

func (o addTable) write(w *writer) error    { w.conn.AddTable(w.newTable()); return nil }
func (o removeTable) write(w *writer) error { w.conn.DelTable(w.table()); return nil }
func (o addCounter) write(w *writer) error  { w.conn.AddObj(w.counter(o.name)); return nil }

func (o removeCounter) write(w *writer) error {
	w.conn.DeleteObject(w.counter(o.name))
	return nil
}

func (w *writer) counter(name string) *nftables.NamedObj {
	return &nftables.NamedObj{Table: w.table(), Name: name, Type: nftables.ObjTypeCounter, Obj: &expr.Counter{}}
}

func (o addTimeout) write(w *writer) error {
	w.conn.AddObj(&nftables.NamedObj{
		Table: w.table(), Name: o.timeout.name(), Type: nftables.ObjTypeCtTimeout,
		Obj: &expr.CtTimeout{
			L3Proto: unix.NFPROTO_INET, L4Proto: unix.IPPROTO_UDP,
			Policy: expr.CtStatePolicyTimeout{expr.CtStateUDPUNREPLIED: o.timeout.unanswered(), expr.CtStateUDPREPLIED: o.timeout.seconds()},
		},
	})
	return nil
}

func (o removeTimeout) write(w *writer) error {
	w.conn.DeleteObject(&nftables.NamedObj{Table: w.table(), Name: o.name, Type: nftables.ObjTypeCtTimeout, Obj: &expr.CtTimeout{}})
	return nil
}

func (o addMap) write(w *writer) error { return w.conn.AddSet(w.set(o.name), nil) }

func (o addGroup) write(w *writer) error {
	return w.conn.AddSet(w.group(o.set), nil)
}

func (o addNetworks) write(w *writer) error {
	return w.conn.SetAddElements(w.group(o.group), networkElements(o.networks))
}

func (o removeNetworks) write(w *writer) error {
	return w.conn.SetDeleteElements(w.group(o.group), networkElements(o.networks))
}

// group describes the set of a group.
func (w *writer) group(name string) *nftables.Set {
	set := &nftables.Set{Table: w.table(), Name: name, Interval: true, KeyType: nftables.TypeIPAddr}
	if groupIs6(name) {
		set.KeyType = nftables.TypeIP6Addr
	}
	return set
}

func networkElements(networks []network) []nftables.SetElement {
	elements := make([]nftables.SetElement, 0, 2*len(networks))
	for _, n := range networks {
		elements = append(elements, nftables.SetElement{Key: []byte(n.first)})
		if n.end != "" {
			elements = append(elements, nftables.SetElement{Key: []byte(n.end), IntervalEnd: true})
		}
	}
	return elements
}

func (o removeSet) write(w *writer) error {
	w.conn.DelSet(&nftables.Set{Table: w.table(), Name: o.name})
	return nil
}

func (o addChain) write(w *writer) error {
	c := &nftables.Chain{Name: o.chain.name, Table: w.table()}
	if h := o.chain.hook; h != nil {
		policy := nftables.ChainPolicyAccept
		c.Type, c.Hooknum, c.Policy = nftables.ChainTypeNAT, nftables.ChainHookPrerouting, &policy
		c.Priority = new(nftables.ChainPriority(h.priority))
		switch h.name {
		case hookPostrouting:
			c.Hooknum = nftables.ChainHookPostrouting
		case hookOutput:
			c.Hooknum = nftables.ChainHookOutput
		}
		switch h.kind {
		case kindFilter:
			c.Type = nftables.ChainTypeFilter
		case kindRoute:
			c.Type = nftables.ChainTypeRoute
		}
	}
	w.conn.AddChain(c)
	return w.addRules(c, o.chain.rules)
}

func (o removeChain) write(w *writer) error { w.conn.DelChain(w.chain(o.name)); return nil }
func (o flushChain) write(w *writer) error  { w.conn.FlushChain(w.chain(o.name)); return nil }

func (o replaceRules) write(w *writer) error {
	c := w.chain(o.chain.name)
	w.conn.FlushChain(c)
	return w.addRules(c, o.chain.rules)
}

func (o replaceRule) write(w *writer) error {
	r, err := w.rule(w.chain(o.chain), o.rule)
	if err != nil {
		return err
	}
	r.Handle = o.handle
	w.conn.ReplaceRule(r)
	return nil
}

func (o removeRule) write(w *writer) error {
	return w.conn.DelRule(&nftables.Rule{Table: w.table(), Chain: w.chain(o.chain), Handle: o.handle})
}

func (o addElement) write(w *writer) error {
	key, end := o.element.service.keys()
	return w.conn.SetAddElements(w.set(o.element.in), []nftables.SetElement{{
		Key: key, KeyEnd: end,
		VerdictData: &expr.Verdict{Kind: expr.VerdictGoto, Chain: o.element.chain},
	}})
}

func (o removeElement) write(w *writer) error {
	set := &nftables.Set{Table: w.table(), Name: o.set, Concatenation: o.end != nil, Interval: o.end != nil}
	return w.conn.SetDeleteElements(set, []nftables.SetElement{{Key: o.key, KeyEnd: o.end}})
}

func (w *writer) addRules(c *nftables.Chain, rules []rule) error {
	for _, r := range rules {
		made, err := w.rule(c, r)
		if err != nil {
			return err
		}
		w.conn.AddRule(made)
	}
	return nil
}

func (w *writer) rule(c *nftables.Chain, r rule) (*nftables.Rule, error) {
	made := &nftables.Rule{Table: c.Table, Chain: c}
	if r.comment != "" {
		made.UserData = userdata.AppendString(nil, userdata.TypeComment, r.comment)
	}
	for _, s := range r.statements {
		expressions := s.expressions()
		if d, ok := s.(draw); ok {
			set, err := w.shares(c.Table, d)
			if err != nil {
				return nil, err
			}
			expressions[len(expressions)-1] = &expr.Lookup{
				SourceRegister: register1, DestRegister: unix.NFT_REG_VERDICT, IsDestRegSet: true,
				SetName: set.Name, SetID: set.ID,
			}
		}
		made.Exprs = append(made.Exprs, expressions...)
	}
	return made, nil
}

// shares makes the anonymous map of a draw. It is anonymous because a named
// one with integer keys cannot be loaded again from its listing.
func (w *writer) shares(table *nftables.Table, d draw) (*nftables.Set, error) {
	set := &nftables.Set{
		Table: table, Anonymous: true, Constant: true, IsMap: true, Interval: true,
		KeyType: nftables.TypeInteger, DataType: nftables.TypeVerdict,
	}
	var elements []nftables.SetElement
	for i, p := range d.shares {
		elements = append(elements, nftables.SetElement{
			Key:         binaryutil.BigEndian.PutUint32(p.first),
			VerdictData: &expr.Verdict{Kind: expr.VerdictGoto, Chain: p.chain},
		})
		if i+1 == len(d.shares) || d.shares[i+1].first != p.last+1 {
			elements = append(elements, nftables.SetElement{Key: binaryutil.BigEndian.PutUint32(p.last + 1), IntervalEnd: true})
		}
	}
	return set, w.conn.AddSet(set, elements)
}

// keys are the service as the kernel compares it, each field padded to 4 bytes:
// the key of a single port, or the first and the last one of a run.
func (s service) keys() (key, end []byte) {
	at := func(port uint16) []byte {
		key := append(s.ip.AsSlice(), protocolNumber(s.port.Transport), 0, 0, 0)
		return append(key, byte(port>>8), byte(port), 0, 0)
	}
	if s.port.IsRange() {
		end = at(s.port.Last)
	}
	return at(s.port.Number), end
}

// The sizes: headers and attributes of the messages, and what they hold.
const (
	sizeSmall      = 128
	sizeExpression = 80
	sizeElement    = 96
	sizeSet        = 200
)

func (o addTable) size() int      { return sizeSmall }
func (o removeTable) size() int   { return sizeSmall }
func (o addCounter) size() int    { return sizeSmall + len(o.name) }
func (o removeCounter) size() int { return sizeSmall + len(o.name) }
func (o addTimeout) size() int    { return 2 * sizeSmall }
func (o removeTimeout) size() int { return sizeSmall + len(o.name) }
func (o addMap) size() int        { return sizeSet }
func (o addGroup) size() int {
	return sizeSet + len(o.set)
}

func (o addNetworks) size() int {
	return sizeSmall + len(o.group) + 2*sizeElement*len(o.networks)
}

func (o removeNetworks) size() int {
	return sizeSmall + len(o.group) + 2*sizeElement*len(o.networks)
}
func (o removeSet) size() int     { return sizeSmall + len(o.name) }
func (o removeChain) size() int   { return sizeSmall + len(o.name) }
func (o flushChain) size() int    { return sizeSmall + len(o.name) }
func (o removeRule) size() int    { return sizeSmall + len(o.chain) }
func (o addElement) size() int    { return sizeSmall + sizeElement + len(o.element.chain) }
func (o removeElement) size() int { return sizeSmall + sizeElement }
func (o addChain) size() int      { return sizeSmall + o.chain.size() }
func (o replaceRules) size() int  { return sizeSmall + o.chain.size() }
func (o replaceRule) size() int   { return o.rule.size(o.chain) }

func (c chain) size() int {
	total := len(c.name)
	for _, r := range c.rules {
		total += r.size(c.name)
	}
	return total
}

func (r rule) size(chain string) int {
	total := sizeSmall + len(chain) + len(r.comment)
	for _, s := range r.statements {
		switch s := s.(type) {
		case draw:
			total += sizeSet
			for _, p := range s.shares {
				total += sizeElement + len(p.chain)
			}
		case verdict:
			total += len(s.chain)
		case count:
			total += len(s.name)
		}
		total += sizeExpression * len(s.expressions())
	}
	return total
}
