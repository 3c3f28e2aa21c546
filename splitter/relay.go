package splitter

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"runtime"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/splitd/splitd/traffic"
)

// ErrStopped is returned by Apply, SetWeights and SetBackends once Run is ending.
var ErrStopped = errors.New("the relay has stopped")

// Options are what a Relay needs from outside.
type Options struct {
	// Log gets what an operator should know; nil discards it.
	Log *slog.Logger
	// Draw returns a number uniform in [0, traffic.Whole), one per flow. It is
	// called from many goroutines. Nil is math/rand/v2.
	Draw func() traffic.Weight
	// Workers is the number of threads that relay; 0 is one for each core that
	// this process may use.
	Workers int
	// FlowLog is told of flows; nil is none.
	FlowLog FlowLog
	// Tee is told of the sampled flows of splits; nil is none, and none is sampled.
	Tee Tee
	// LegMark is the packet mark (SO_MARK) of the relay's own connections that have
	// clients' addresses: without the kernel's rules for it the replies go to the
	// clients.
	LegMark uint32

	edge   func() edge   // nil is this kernel
	header time.Duration // how long PROXY headers are waited for; 0 is headerPatience
	last   time.Duration // how long the last attempt to connect a flow may take at least; 0 is lastPatience
	crowd  int64         // the most flows of UDP; 0 is a share of files and ports
	ports  time.Duration // how long no local port is looked for where there was none; 0 is portsPause
}

// Relay listens on the services of proxy splits and relays their flows. Its
// methods may be called from many goroutines; Run is called once.
type Relay struct {
	log    *slog.Logger
	draw   func() traffic.Weight
	faults faults
	// flowLog is told of flows; nil: nobody is.
	flowLog FlowLog
	tee     Tee // nil: nobody's flows are sampled
	legMark uint32
	header  time.Duration
	last    time.Duration
	files   files
	crowd   crowding
	usedUp  usedUp
	// keptMost is a worker's; set before there are workers.
	keptMost int
	quiet    limiter // for complaints that every flow could make

	born       time.Time // ticks are counted since then
	sayings    chan saying
	writing    sync.WaitGroup  // what writes what workers say
	workings   *errgroup.Group // the workers
	broken     context.Context // ends when one of them fails
	hurried    context.Context // ends when flows are not to drain any more
	hurry      context.CancelFunc
	leaving    sync.WaitGroup // what waits for fronts that go
	lingerings sync.WaitGroup // and for the last flows of those of UDP
	carriages  sync.WaitGroup // and for those who carry flows
	owners     *owners

	// changing is held by what opens and closes fronts, one at a time. It is taken before
	// mu, which is let go while workers and the kernel are waited for (aside).
	changing sync.Mutex
	mu       sync.Mutex // guards what follows
	stopped  bool
	wanted   int // workers
	edge     func() edge
	workers  []*worker // none before there is something to serve
	fronts   map[spot]*front
	splits   map[string]traffic.Split
	changes  uint64 // of what is served, see forget
	counters map[traffic.BackendKey]*counter
	circuits map[circuitKey]*circuit // of the addresses that are served now
	groups   map[traffic.BackendKey]groups
	gates    map[string]*gate  // by split
	inlets   map[string]*inlet // by split
	// overflowed is what fronts that have gone had no room for.
	overflowed uint64
}

// New returns a Relay that serves nothing yet.
func New(o Options) *Relay {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Draw == nil {
		o.Draw = func() traffic.Weight { return rand.N(traffic.Whole) }
	}
	if o.Workers <= 0 {
		o.Workers = runtime.GOMAXPROCS(0)
	}
	if o.edge == nil {
		o.edge = func() edge { return system{} }
	}
	r := &Relay{
		log:      o.Log,
		draw:     o.Draw,
		flowLog:  o.FlowLog,
		tee:      o.Tee,
		legMark:  o.LegMark,
		header:   cmp.Or(o.header, headerPatience),
		last:     cmp.Or(o.last, lastPatience),
		born:     time.Now(),
		owners:   newOwners(),
		sayings:  make(chan saying, sayingsMost),
		wanted:   o.Workers,
		edge:     o.edge,
		fronts:   map[spot]*front{},
		splits:   map[string]traffic.Split{},
		counters: map[traffic.BackendKey]*counter{},
		circuits: map[circuitKey]*circuit{},
		groups:   map[traffic.BackendKey]groups{},
		gates:    map[string]*gate{},
		inlets:   map[string]*inlet{},
	}
	r.crowd.most, r.usedUp.pause = o.crowd, ticks(cmp.Or(o.ports, portsPause))
	r.workings, r.broken = errgroup.WithContext(context.Background())
	r.hurried, r.hurry = context.WithCancel(context.Background())
	return r
}

// Apply brings the relay to exactly these splits, with the weights that are in
// them, all or nothing: every new listener is bound before anything changes,
// and on an error (all of them, one a line; errors.Is finds the errno) the old
// state serves on. Connections accepted afterwards are drawn anew; flows that
// are open stay where they are, also those of a removed split. Listeners
// accept as soon as Apply returns, whether Run is running yet or not. A
// listener that goes closes at once when nobody is on the way in; else it
// serves on, with the weights it had, until the handshakes that it has begun
// have ended, for a few seconds at most. Who asks in the moment before it closes
// gets no answer, and asks again.
func (r *Relay) Apply(_ context.Context, splits []traffic.Split) error {
	wanted, err := layout(splits, r.hostAddresses())
	if err == nil {
		err = mayBorrow(splits, r.legMark)
	}
	if err != nil {
		return err
	}
	defer r.change()()
	if r.stopped {
		return ErrStopped
	}
	defer r.forget()
	defer r.forgetCircuits()
	choices, err := r.choices(wanted)
	if err != nil {
		return err
	}
	if len(wanted) > 0 {
		if err := r.begin(); err != nil {
			return err
		}
	}
	bound, err := r.bind(wanted)
	if err != nil {
		return err
	}
	r.swap(splits, choices, bound)
	return nil
}

// change begins to open and close fronts, and returns what ends that.
func (r *Relay) change() (end func()) {
	r.changing.Lock()
	r.mu.Lock()
	return func() {
		r.mu.Unlock()
		r.changing.Unlock()
	}
}

// aside does what waits, for workers or the kernel, while others may change weights
// and look: an off must not wait until the clients of another split have been let in.
// Both r.changing and r.mu are held.
func (r *Relay) aside(wait func()) {
	r.mu.Unlock()
	defer r.mu.Lock()
	wait()
}

// choices makes the choice of every front; r.mu is held.
func (r *Relay) choices(wanted map[spot]traffic.Split) (map[spot]*choice, error) {
	choices := make(map[spot]*choice, len(wanted))
	bySplit := map[string]*rules{}
	for _, address := range inOrder(wanted) {
		split := wanted[address]
		if bySplit[split.Name] == nil {
			bySplit[split.Name] = rulesOf(split)
		}
		c, err := r.choice(split, bySplit[split.Name], address)
		if err != nil {
			return nil, err
		}
		choices[address] = c
	}
	return choices, nil
}

// choice makes that of one front, with what there is of its split already: gate,
// groups, counters, circuits. r.mu is held.
func (r *Relay) choice(split traffic.Split, rules *rules, address spot) (*choice, error) {
	c, err := newChoice(split, rules, address)
	if err != nil {
		return nil, err
	}
	if r.gates[split.Name] == nil {
		r.gates[split.Name] = &gate{newcomers: make([]queueOf, r.wanted)}
	}
	c.gate = r.gates[split.Name]
	r.count(split.Name, &c.primary)
	for i, b := range split.Candidates {
		p := &c.candidates[i]
		r.count(split.Name, p)
		key := traffic.BackendKey{Split: split.Name, Backend: b.Name}
		g := r.groupsOf(key, b.Clients)
		p.never = g.never
		if !b.Closed { // its group draws like anybody else
			p.always = g.always
		}
		for j := range p.targets {
			if split.Proxy.Fallback != traffic.FallbackNone {
				p.targets[j].circuit = r.circuitOf(circuitKey{key, spot{p.targets[j].at, address.transport}})
			}
		}
	}
	return c, nil
}

// count has the flows of a backend counted; r.mu is held.
func (r *Relay) count(split string, p *party) {
	counter := r.counterOf(traffic.BackendKey{Split: split, Backend: p.name})
	for i := range p.targets {
		p.targets[i].counter = counter
	}
}

// circuitKey is what has a circuit: an address of a candidate, by transport.
type circuitKey struct {
	backend traffic.BackendKey
	at      spot
}

// circuitOf returns the circuit of the address, a new one at first; r.mu is
// held.
func (r *Relay) circuitOf(key circuitKey) *circuit {
	c, ok := r.circuits[key]
	if !ok {
		c = &circuit{}
		r.circuits[key] = c
	}
	return c
}

// swap makes the new state the one that serves; it cannot fail. r.changing and r.mu
// are held.
func (r *Relay) swap(splits []traffic.Split, choices map[spot]*choice, bound []*front) {
	for _, f := range bound {
		r.fronts[f.address] = f
	}
	for address, c := range choices {
		f := r.fronts[address]
		stays := f.stay()
		f.apply(c)
		if stays {
			r.log.Info("listening", "split", c.split, "address", address.String())
			if f.udp() {
				r.reopen(f)
			}
		}
	}
	for _, f := range bound {
		r.open(f)
		r.log.Info("listening", "split", choices[f.address].split, "address", f.address.String())
	}
	clear(r.splits)
	for _, split := range splits {
		split.Candidates = slices.Clone(split.Candidates)
		r.splits[split.Name] = split
	}
	r.retireAll(func(at spot) bool { return choices[at] != nil })
}

// isCandidate says whether it is one of a split served now; r.mu is held.
func (r *Relay) isCandidate(key traffic.BackendKey) bool {
	_, ok := r.splits[key.Split].Candidate(key.Backend)
	return ok
}

// hostAddresses lists the addresses of this host's interfaces; none when it
// may not be asked (no AF_NETLINK), which only blinds the search for loops.
func (r *Relay) hostAddresses() []netip.Addr {
	nets, err := net.InterfaceAddrs()
	if err != nil {
		r.log.Debug("list addresses of this host", "error", err)
		return nil
	}
	var addresses []netip.Addr
	for _, n := range nets {
		if prefix, err := netip.ParsePrefix(n.String()); err == nil {
			addresses = append(addresses, prefix.Addr())
		}
	}
	return addresses
}
