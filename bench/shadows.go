package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"runtime/debug"
	"time"

	"github.com/splitd/splitd/internal/ladder"
)

// shadowed is what one way did beside one candidate, a value for each turn.
type shadowed struct {
	full         []float64 // requests a second, as fast as they are answered
	p50, p99     []float64 // seconds, at half of the saturating rate
	paced        int       // requests at that rate
	failed       int       // of those
	before, most int64     // bytes of the program's processes: before anybody asked, and the most
}

// shadows are the results of all ways, by candidate.
type shadows struct {
	rungs []ladder.Behaviour
	ways  []shadowWay
	rates map[paced]float64 // at which latency was measured
	of    map[ladder.Behaviour]map[string]*shadowed
	left  []string
	// yields is how candidates' processes left the processors to the others.
	yields string
}

// paced is what a rate is of: a program, by the name of its way, and what clients ask
// it for.
type paced struct {
	way  string
	page ladder.Page
}

// measureShadows measures what clients of the primary notice of a candidate.
func measureShadows(ctx context.Context, o options, r *report, say func(string, ...any)) error {
	if err := files(1000); err != nil {
		return err
	}
	defer debug.SetGCPercent(debug.SetGCPercent(-1))
	defer debug.SetMemoryLimit(debug.SetMemoryLimit(1 << 30))
	done, err := shadowsOf(ctx, o.shadow, say)
	r.line("%d turns of %s each, of each way beside each candidate.", o.shadow.turns, o.shadow.slice)
	r.shadows(done)
	return err
}

// shadowsOf measures all candidates, one after the other. After an error it returns
// what it has.
func shadowsOf(ctx context.Context, o shadowOptions, say func(string, ...any)) (*shadows, error) {
	s := &shadows{rungs: o.rungs, rates: map[paced]float64{}, of: map[ladder.Behaviour]map[string]*shadowed{}}
	if s.rungs == nil {
		s.rungs = ladder.Behaviours()
	}
	for _, w := range shadowWays() {
		if lack := w.needs(); lack != nil {
			s.left = append(s.left, fmt.Sprintf("%q, because %v", w.name, lack))
			continue
		}
		s.ways = append(s.ways, w)
	}
	for _, b := range s.rungs {
		say("candidate: %s", b)
		if err := s.beside(ctx, b, o); err != nil {
			return s, fmt.Errorf("measure beside a candidate that is %s: %w", b, err)
		}
	}
	return s, nil
}

// beside measures all ways in turns beside one candidate. Their programs are new.
func (s *shadows) beside(ctx context.Context, b ladder.Behaviour, o shadowOptions) (err error) {
	l, err := newHost()
	if err != nil {
		return err
	}
	defer l.close()
	h := &shadowHost{lab: l, options: o, page: b.Page()}
	if err := h.serve(ctx, b); err != nil {
		return err
	}
	s.yields = h.candidate.Yields()
	defer func() { err = errors.Join(err, h.close()) }()
	s.of[b] = map[string]*shadowed{}
	for _, w := range s.ways {
		s.of[b][w.name] = &shadowed{}
		if err := h.open(ctx, w, s.of[b][w.name]); err != nil {
			return fmt.Errorf("start %q: %w", w.name, err)
		}
	}
	if err := s.pace(ctx, h); err != nil {
		return err
	}
	for turn := range o.turns {
		for i := range h.ways {
			w := h.ways[(i+turn)%len(h.ways)]
			if err := h.turn(ctx, w, s.rates[paced{w.of.base, h.page}], s.of[b][w.of.name]); err != nil {
				return fmt.Errorf("measure %q: %w", w.of.name, err)
			}
		}
	}
	return nil
}

// pace finds the rates, once for each page: half of what each program answers without
// a shadow.
func (s *shadows) pace(ctx context.Context, h *shadowHost) error {
	for _, w := range h.ways {
		this := paced{w.of.name, h.page}
		if w.of.base != w.of.name || s.rates[this] > 0 {
			continue
		}
		o, _, err := h.ask(ctx, w, func(l ladder.Load) (ladder.Outcome, error) { return l.Full(ctx, 2*h.options.slice) })
		if err == nil && (o.Failed > 0 || o.Answered == 0) {
			err = fmt.Errorf("%d requests are answered, %d are not: %w", o.Answered, o.Failed, o.Why)
		}
		if err != nil {
			return fmt.Errorf("find the saturating rate of %q: %w", w.of.name, err)
		}
		s.rates[this] = o.Rate() / 2
	}
	return nil
}

// shadowHost is the host that all ways beside one candidate share.
type shadowHost struct {
	lab       *lab
	options   shadowOptions
	page      ladder.Page // which clients ask for
	primary   *ladder.Primary
	candidate *ladder.Host
	ways      []*shadowing
}

// shadowing is a way that is open.
type shadowing struct {
	*way
	of     shadowWay
	at     netip.AddrPort
	shadow func(ctx context.Context, on bool) error // nil: it has none, or has it always
}

// candidateWord, as the first argument, makes this program the process of a
// candidate.
const candidateWord = "serve-candidate"

// serve has the primary serve, and the candidate do as it does.
func (h *shadowHost) serve(ctx context.Context, b ladder.Behaviour) error {
	err := h.lab.client.Do(func() (err error) {
		h.primary, err = ladder.NewPrimary(netip.AddrFrom4([4]byte{127, 0, 0, 1}), b.Page(), nil)
		return err
	})
	if err != nil {
		return err
	}
	program := ladder.Self(candidateWord)
	program.Start = h.lab.client.Start
	if h.candidate, err = ladder.StartHost(ctx, program, b, netip.AddrFrom4([4]byte{127, 0, 0, 2}), 1, nil); err != nil {
		h.primary.Close()
	}
	return err
}

func (h *shadowHost) close() error {
	for _, w := range h.ways {
		w.shut()
	}
	h.primary.Close()
	return h.candidate.Close()
}

// open starts the program of a way.
func (h *shadowHost) open(ctx context.Context, of shadowWay, into *shadowed) error {
	w, err := h.lab.add(of.name)
	if err != nil {
		return err
	}
	one := &shadowing{way: w, of: of, at: h.primary.Address()}
	h.ways = append(h.ways, one)
	if of.start == nil {
		return nil
	}
	one.at = netip.AddrPortFrom(w.v4(1, hostService), portWeb)
	if err := of.start(ctx, one, h.primary.Address(), h.candidate.Address()); err != nil {
		return err
	}
	resident, err := w.program.resident()
	into.before = int64(resident)
	return err
}

// clients, and how long they wait for the last answers. A hundred requests on a
// connection, then a new one.
func (h *shadowHost) load(at netip.AddrPort) ladder.Load {
	return ladder.Load{At: at, Page: h.page, Clients: atOnce, Flow: 100, Warm: h.options.slice / 10, Patience: time.Second}
}

// turn is one slice at full rate and one at half of the saturating.
func (h *shadowHost) turn(ctx context.Context, w *shadowing, rate float64, into *shadowed) error {
	if w.shadow != nil {
		if err := w.shadow(ctx, true); err != nil {
			return err
		}
	}
	for _, paced := range []bool{false, true} {
		o, most, err := h.ask(ctx, w, func(l ladder.Load) (ladder.Outcome, error) {
			if paced {
				return l.Paced(ctx, h.options.slice, rate)
			}
			return l.Full(ctx, h.options.slice)
		})
		if err != nil {
			return err
		}
		into.most = max(into.most, most)
		if !paced {
			into.full = append(into.full, o.Rate())
			continue
		}
		into.p50 = append(into.p50, ladder.Quantile(o.Took, 0.5).Seconds())
		into.p99 = append(into.p99, ladder.Quantile(o.Took, 0.99).Seconds())
		into.paced += o.Answered + o.Failed
		into.failed += o.Failed
	}
	if w.shadow == nil {
		return nil
	}
	return w.shadow(ctx, false) // it costs the others nothing
}

// ask has clients ask, and looks at the program's memory meanwhile.
func (h *shadowHost) ask(ctx context.Context, w *shadowing, clients func(ladder.Load) (ladder.Outcome, error)) (o ladder.Outcome, most int64, err error) {
	type seen struct {
		most int64
		err  error
	}
	looked := make(chan seen, 1)
	watching, stop := context.WithCancel(ctx)
	go func() {
		most, err := ladder.Peak(watching, w.memory)
		looked <- seen{most, err}
	}()
	err = h.lab.client.Do(func() (err error) {
		o, err = clients(h.load(w.at))
		return err
	})
	stop()
	memory := <-looked
	return o, memory.most, errors.Join(err, memory.err)
}

// memory is that of the way's program, in bytes; none without one.
func (w *shadowing) memory() (int64, error) {
	if w.program == nil {
		return 0, nil
	}
	n, err := w.program.resident()
	return int64(n), err
}
