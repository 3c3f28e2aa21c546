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

// secureOptions are those of ways over TLS.
type secureOptions struct {
	turns, idleTurns, idle int
	slice                  time.Duration
}

// secured are ways over TLS that have been measured.
type secured struct {
	ways []secureWay
	all  []account // by the place of the way
	left []string
}

// secureHost is the host that all of them share.
type secureHost struct {
	lab       *lab
	options   secureOptions
	over      *ladder.Certificates
	candidate *ladder.Host
	of        map[*way]*account
	into      map[*way]bool // it is to see into flows
}

// measureSecure measures what it costs to see into TLS.
func measureSecure(ctx context.Context, o options, r *report, say func(string, ...any)) error {
	if err := files(4 * o.secure.idle); err != nil {
		return err
	}
	defer debug.SetGCPercent(debug.SetGCPercent(400))
	done, err := securedOf(ctx, o.secure, say)
	r.line("%d turns of %s each, %d of silent flows.", o.secure.turns, o.secure.slice, o.secure.idleTurns)
	r.secured(done)
	return err
}

// securedOf measures all ways in turns. After an error it returns what it has.
func securedOf(ctx context.Context, o secureOptions, say func(string, ...any)) (s *secured, err error) {
	s = &secured{}
	l, err := newHost()
	if err != nil {
		return s, err
	}
	defer l.close()
	h := &secureHost{lab: l, options: o, of: map[*way]*account{}, into: map[*way]bool{}}
	starts := map[*way]secureWay{}
	for _, made := range secureWays() {
		if lack := made.needs(); lack != nil {
			s.left = append(s.left, fmt.Sprintf("%q, because %v", made.name, lack))
			continue
		}
		w, err := l.add(made.name)
		if err != nil {
			return s, err
		}
		w.direct = made.start == nil
		starts[w], h.into[w] = made, made.into
		s.ways = append(s.ways, made)
		s.all = append(s.all, account{made.name, map[quantity][]float64{}})
	}
	for i, w := range l.ways {
		h.of[w] = &s.all[i]
	}
	if err := h.serve(ctx); err != nil {
		return s, err
	}
	defer func() { err = errors.Join(err, h.close()) }()
	for turn := range o.idleTurns {
		say("%d silent flows, turn %d of %d", o.idle, turn+1, o.idleTurns)
		for _, w := range l.ways {
			if err := h.with(ctx, w, starts[w], h.idle); err != nil {
				return s, fmt.Errorf("measure silent flows of %q: %w", w.name, err)
			}
		}
	}
	for _, w := range l.ways {
		if err := h.open(ctx, w, starts[w]); err != nil {
			return s, err
		}
	}
	return s, h.turns(ctx, say)
}

// serve has the backends and the candidate serve.
func (h *secureHost) serve(ctx context.Context) (err error) {
	if h.over, err = ladder.NewCertificates(); err != nil {
		return err
	}
	server, err := h.lab.serveSecure(h.over)
	if err != nil {
		return errors.Join(err, h.over.Close())
	}
	context.AfterFunc(ctx, server.close)
	program := ladder.Self(candidateWord)
	program.Start = h.lab.client.Start
	h.candidate, err = ladder.StartHost(ctx, program, ladder.Healthy, netip.AddrFrom4([4]byte{127, 0, 0, 2}), 1, h.over)
	if err != nil {
		err = errors.Join(err, h.over.Close())
	}
	return err
}

func (h *secureHost) close() error { return errors.Join(h.candidate.Close(), h.over.Close()) }

// open starts the program of a way.
func (h *secureHost) open(ctx context.Context, w *way, as secureWay) error {
	if as.start == nil {
		return nil
	}
	p, err := as.start(ctx, w, h)
	if p != nil {
		w.program, w.close = p, p.close
	}
	if err == nil && as.into {
		err = h.awaitInto(ctx, w)
	}
	if err != nil {
		return fmt.Errorf("start %q: %w", w.name, err)
	}
	return nil
}

// with has the program of a way while do runs.
func (h *secureHost) with(ctx context.Context, w *way, as secureWay, do func(context.Context, *way) error) error {
	defer w.shut()
	if err := h.open(ctx, w, as); err != nil {
		return err
	}
	return do(ctx, w)
}

// turns takes all ways in turns, as measure does.
func (h *secureHost) turns(ctx context.Context, say func(string, ...any)) error {
	for turn := range h.options.turns {
		say("turn %d of %d", turn+1, h.options.turns)
		for _, one := range []secureMeasure{
			{doFull, atOnce, fullRate, fullCPU, fullBeside},
			{doResumed, atOnce, resumedRate, resumedCPU, resumedBeside},
			{doAsk, atOnce, secureRequests, secureRequestCPU, secureRequestBeside},
			{doStream, 1, secureBulk, secureBulkCPU, secureBulkBeside},
		} {
			for i := range h.lab.ways {
				w := h.lab.ways[(i+turn)%len(h.lab.ways)]
				if err := h.measure(ctx, w, one); err != nil {
					return fmt.Errorf("measure %q: %s: %w", w.name, one.do, err)
				}
			}
		}
	}
	return nil
}

// secureMeasure is what clients do, and what it is noted as: how many a second, and seconds
// for one of them of the program's own process and of those that it has started.
type secureMeasure struct {
	do                string
	atOnce            int
	rate, cpu, beside quantity
}

// mixtures is how often a slice is measured again in which flows were passed through that are
// to be seen into: where all processors are busy the processes of the shadow and of the candidate
// have none, and flows that they cannot follow are not sampled.
const mixtures = 10

func (h *secureHost) measure(ctx context.Context, w *way, m secureMeasure) error {
	done, spent, err := h.act(ctx, w, m.do, h.options.slice, m.atOnce)
	for again := 0; err == nil && h.into[w] && done.SeenInto < done.Flows && again < mixtures; again++ {
		if err = h.awaitInto(ctx, w); err == nil {
			done, spent, err = h.act(ctx, w, m.do, h.options.slice, m.atOnce)
		}
	}
	if err != nil {
		return err
	}
	a := h.of[w]
	a.add(seenInto, float64(done.SeenInto)/float64(done.Flows))
	per := 1.0
	if m.do == doStream {
		per = 8 // bits
	}
	a.add(m.rate, per*done.Many/done.Seconds)
	if w.program != nil {
		a.add(m.cpu, spent.own/done.Many)
		a.add(m.beside, spent.beside/done.Many)
	}
	switch m.do {
	case doFull:
		a.add(clientCPU, done.CPU/done.Many)
	case doResumed:
		a.add(sessionsResumed, float64(done.Resumed)/float64(done.Flows))
	}
	return nil
}

// spent is the time on processors that a way's own process had, and those that it has started,
// in seconds.
type spent struct{ own, beside float64 }

// act has clients do something, and returns what they did and what it cost.
func (h *secureHost) act(ctx context.Context, w *way, do string, lasts time.Duration, atOnce int) (done secureDone, cost spent, err error) {
	c, err := h.lab.hire(ctx, do, w.secure(), lasts, atOnce, h.over)
	if err != nil {
		return done, cost, err
	}
	defer func() { err = errors.Join(err, c.dismiss()) }()
	before, err := w.spent()
	if err != nil {
		return done, cost, err
	}
	if done, err = c.act(); err != nil {
		return done, cost, err
	}
	after, err := w.spent()
	return done, spent{after.own - before.own, after.beside - before.beside}, err
}

func (w *way) spent() (s spent, err error) {
	if w.program == nil {
		return s, nil
	}
	own, all, err := w.program.cpus()
	return spent{own.Seconds(), (all - own).Seconds()}, err
}

// idle measures what silent flows hold.
func (h *secureHost) idle(ctx context.Context, w *way) (err error) {
	if w.program == nil {
		return nil
	}
	c, err := h.lab.hire(ctx, doHold, w.secure(), 0, h.options.idle, h.over)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.dismiss()) }()
	ownBefore, allBefore, err := w.program.residents()
	if err != nil {
		return err
	}
	done, err := c.act()
	if err != nil {
		return err
	}
	own, all, err := w.program.residents()
	if err != nil {
		return err
	}
	many := float64(h.options.idle)
	h.of[w].add(seenInto, float64(done.SeenInto)/float64(done.Flows))
	h.of[w].add(secureIdle, (own-ownBefore)/many)
	h.of[w].add(secureIdleBeside, ((all-own)-(allBefore-ownBefore))/many)
	return nil
}
