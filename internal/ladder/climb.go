package ladder

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/netip"
	"time"
)

// Subject is what is measured: it relays clients to the primary, and shadows them
// to the candidate when it is told to.
type Subject interface {
	// Address is where clients connect to.
	Address() netip.AddrPort
	// Shadow turns the shadow of new flows on, or off at once.
	Shadow(ctx context.Context, on bool) error
	// Shadowed is how many exchanges the shadow has told of, whatever became of them.
	Shadowed(ctx context.Context) (int64, error)
	// Resident is the memory that it has, in bytes.
	Resident() (int64, error)
	// Close ends it.
	Close() error
}

// Options say how the ladder is climbed.
type Options struct {
	// Start starts a subject for the candidate.
	Start func(ctx context.Context, primary, candidate netip.AddrPort) (Subject, error)
	// Candidates serves them, each in a process of its own.
	Candidates Program
	// TLS are the certificates of a ladder over TLS; its subject has those too. Nil is none.
	TLS *Certificates
	// Rungs are the candidates; nil is all.
	Rungs []Behaviour
	// For is how long clients ask in all; each rung has an equal part.
	For time.Duration
	// Rate is how many requests a second clients make; 0 is half of what the subject
	// answers without a shadow. Of a large page it is that half at most.
	Rate float64
	// Pairs is how often the shadow is off and on in a rung.
	Pairs int
	// Budget is what the subject's shadows may hold together, in bytes.
	Budget int64
	// At is the address of this host that all listen at.
	At netip.Addr
	// Seed decides what candidates do at random.
	Seed uint64
	// Done is told of each rung as it has been measured. Nil is nobody.
	Done func(Rung)
}

// Pace is how many requests a second the subject answers without a shadow, and that
// at which all else was measured.
type Pace struct{ Saturating, Rate float64 }

// Ladder is what was measured.
type Ladder struct {
	// Pace is that of small pages.
	Pace
	// Yields says by what means candidates left the processors to others.
	Yields string
	Rungs  []Rung
}

// Verdict is the worst of the rungs'; a ladder without any does not hold.
func (l Ladder) Verdict() Verdict {
	if len(l.Rungs) == 0 {
		return Fails
	}
	worst := Holds
	for _, r := range l.Rungs {
		switch r.Verdict() {
		case Fails:
			return Fails
		case CannotTell:
			worst = CannotTell
		case Holds:
		}
	}
	return worst
}

// Comparable says whether anything can be said about a candidate by comparison. Where
// clients can tell of a healthy one, it is the shadow that costs them so much here,
// whoever the candidate is.
func (l Ladder) Comparable() bool {
	for _, r := range l.Rungs {
		if r.Behaviour == Healthy {
			return r.Verdict() != Fails
		}
	}
	return true
}

// The clients.
const (
	clients = 32
	// perFlow has a hundred new flows a second at 10,000 requests.
	perFlow  = 100
	patience = 2 * time.Second
)

// Climb measures all rungs. After an error, also of ctx, it returns what it has.
func Climb(ctx context.Context, o Options) (Ladder, error) {
	var l Ladder
	if o.Rungs == nil {
		o.Rungs = Behaviours()
		if o.TLS != nil {
			o.Rungs = SecureBehaviours()
		}
	}
	if !o.At.IsValid() {
		o.At = netip.AddrFrom4([4]byte{127, 0, 0, 1})
	}
	c := &climbing{Options: o, paces: map[Page]Pace{}, slice: o.For / time.Duration(max(2*o.Pairs*len(o.Rungs), 1))}
	var err error
	if o.TLS != nil {
		if c.tls, err = o.TLS.client(); err != nil {
			return l, err
		}
	}
	if l.Pace, err = c.pace(ctx, Healthy); err != nil {
		return l, err
	}
	for _, b := range o.Rungs {
		rung, err := c.rung(ctx, b)
		if err != nil {
			return l, fmt.Errorf("measure a candidate that is %s: %w", b, err)
		}
		l.Yields = c.yields
		l.Rungs = append(l.Rungs, rung)
		if o.Done != nil {
			o.Done(rung)
		}
	}
	return l, nil
}

// climbing is a ladder that is being climbed.
type climbing struct {
	Options
	tls    *tls.Config // of the clients; nil: they do without
	slice  time.Duration
	paces  map[Page]Pace
	yields string // how the last candidate did
}

func (c *climbing) load(at netip.AddrPort, p Page) Load {
	return Load{At: at, TLS: c.tls, Page: p, Clients: clients, Flow: perFlow, Warm: c.slice / 10, Patience: patience}
}

// with has a subject for a candidate while do runs.
func (c *climbing) with(ctx context.Context, b Behaviour, do func(Subject, *Host) error) (err error) {
	candidate, err := StartHost(ctx, c.Candidates, b, c.At, c.Seed, c.TLS)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, candidate.Close()) }()
	c.yields = candidate.Yields()
	primary, err := NewPrimary(c.At, b.Page(), c.TLS)
	if err != nil {
		return err
	}
	defer primary.Close()
	s, err := c.Start(ctx, primary.Address(), candidate.Address())
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	return do(s, candidate)
}

// pace is that of the candidate's page, which is found once.
func (c *climbing) pace(ctx context.Context, b Behaviour) (Pace, error) {
	if known, ok := c.paces[b.Page()]; ok {
		return known, nil
	}
	most, err := c.saturate(ctx, b)
	if err != nil {
		return Pace{}, fmt.Errorf("find the saturating rate: %w", err)
	}
	p := Pace{Saturating: most, Rate: c.Rate}
	if p.Rate == 0 || b.Page() == Large && p.Rate > most/2 {
		p.Rate = most / 2
	}
	c.paces[b.Page()] = p
	return p, nil
}

// saturate is the middle of three slices, after one that is for warming up.
func (c *climbing) saturate(ctx context.Context, b Behaviour) (float64, error) {
	var rates []time.Duration // as the time between two requests
	err := c.with(ctx, b, func(s Subject, _ *Host) error {
		for i := range 4 {
			o, err := c.load(s.Address(), b.Page()).Full(ctx, c.slice)
			if err == nil && o.Failed > 0 {
				err = fmt.Errorf("%d of %d requests failed: %w", o.Failed, o.Failed+o.Answered, o.Why)
			}
			if err != nil {
				return err
			}
			if i > 0 && o.Answered > 0 {
				rates = append(rates, o.Lasted/time.Duration(o.Answered))
			}
		}
		return nil
	})
	if err != nil {
		return 0, err
	}
	between := Quantile(rates, 0.5)
	if between == 0 {
		return 0, errors.New("no request was answered")
	}
	return float64(time.Second) / float64(between), nil
}

// rung measures one candidate, the shadow off and on by turns, and who comes first
// too.
func (c *climbing) rung(ctx context.Context, b Behaviour) (Rung, error) {
	pace, err := c.pace(ctx, b)
	if err != nil {
		return Rung{}, err
	}
	r := Rung{Behaviour: b, Secure: c.TLS != nil, Pace: pace, Budget: c.Budget}
	err = c.with(ctx, b, func(s Subject, candidate *Host) error {
		for i := range 2 * c.Pairs {
			shadowed := i%4 == 1 || i%4 == 2 // off on, on off, off on
			if err := s.Shadow(ctx, shadowed); err != nil {
				return err
			}
			o, peak, err := c.measure(ctx, s, r)
			if err != nil {
				return err
			}
			if shadowed {
				r.On = append(r.On, TimesOf(o))
				r.Memory.Peaks = append(r.Memory.Peaks, peak)
				r.StoodIn += o.StoodIn
			} else {
				r.Off = append(r.Off, TimesOf(o))
			}
			if i == 0 {
				if r.Memory.Before, err = s.Resident(); err != nil {
					return err
				}
			}
			r.add(o)
		}
		var err error
		if r.Taken, err = candidate.Taken(); err != nil {
			return err
		}
		if err := s.Shadow(ctx, false); err != nil {
			return err
		}
		r.Shadowed, r.Untold = shadowed(ctx, s)
		return nil
	})
	return r, err
}

// shadowed waits a moment for what shadows tell at their end.
func shadowed(ctx context.Context, s Subject) (int64, error) {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for until := time.Now().Add(patience); ; {
		n, err := s.Shadowed(ctx)
		if n > 0 || time.Now().After(until) {
			return n, err
		}
		select {
		case <-ctx.Done():
			return 0, ctx.Err()
		case <-tick.C:
		}
	}
}

func (r *Rung) add(o Outcome) {
	r.Requests += o.Answered
	r.Failed += o.Failed
	r.Strays += o.Strays
	r.Why = first(r.Why, o.Why)
}

// lookEvery is how often memory is looked at.
const lookEvery = 20 * time.Millisecond

// measure asks for a slice at the rung's rate and looks at the memory meanwhile.
func (c *climbing) measure(ctx context.Context, s Subject, r Rung) (Outcome, int64, error) {
	watching, stop := context.WithCancel(ctx)
	type seen struct {
		peak int64
		err  error
	}
	looked := make(chan seen, 1)
	go func() {
		peak, err := Peak(watching, s.Resident)
		looked <- seen{peak, err}
	}()
	o, err := c.load(s.Address(), r.Behaviour.Page()).Paced(ctx, c.slice, r.Rate)
	stop()
	memory := <-looked
	return o, memory.peak, errors.Join(err, memory.err)
}

// Peak is the most that resident says until ctx ends. It is asked once at least.
func Peak(ctx context.Context, resident func() (int64, error)) (int64, error) {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	peak := int64(0)
	for {
		n, err := resident()
		if err != nil {
			return peak, err
		}
		peak = max(peak, n)
		select {
		case <-ctx.Done():
			return peak, nil
		case <-tick.C:
		}
	}
}
