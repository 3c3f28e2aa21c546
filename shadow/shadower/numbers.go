package shadower

import (
	"errors"
	"net/rpc"
	"time"

	"github.com/splitd/splitd/shadow/play"
	"github.com/splitd/splitd/shadow/runner"
	"github.com/splitd/splitd/traffic"
)

// shown is what is known of the numbers of a play. Those that are counters in metrics
// do not go back with a process that dies, but only when the report begins anew.
type shown struct {
	life, resets uint64 // of the newest answer
	last         play.Numbers
	own, earlier own // of this process and of those before
}

// own is what a process counts that no report has.
type own struct {
	declined          runner.Declined
	panicked, unsound uint64
}

func (c own) plus(o own) own {
	return own{c.declined.Plus(o.declined), c.panicked + o.panicked, c.unsound + o.unsound}
}

// turn goes on to a life and its resets; false says that more of these are known.
func (s *shown) turn(life, resets uint64) bool {
	switch {
	case life != s.life:
		s.earlier, s.own = s.earlier.plus(s.own), own{}
	case resets < s.resets:
		return false
	case resets > s.resets:
		s.last.Eligible, s.last.Coverage = 0, nil
	}
	s.life, s.resets = life, resets
	return true
}

// hear takes an answer, unless it is from before a reset that is known.
func (s *shown) hear(n play.Numbers, life uint64) {
	if !s.turn(life, n.Resets) {
		return
	}
	s.own = own{n.Declined.Less(n.Elsewhere), n.Panicked, n.Unsound}
	all := s.earlier.plus(s.own)
	n.Declined, n.Panicked, n.Unsound = all.declined, all.panicked, all.unsound
	n.Eligible, n.Coverage = notBelow(n.Coverage, s.last.Coverage)
	n.Edition += life
	s.last = n
}

// forget is told of a reset.
func (s *shown) forget(life, resets uint64) {
	s.turn(life, 0) // of a life that was not heard of
	s.turn(life, resets)
}

// shownTo is what a play that follows shows at first. With another candidate or protocol
// its report begins anew.
func (p *Play) shownTo(s traffic.Split) shown {
	p.answered.Lock()
	defer p.answered.Unlock()
	if of := p.options.Split; of.Shadow.To == s.Shadow.To && of.Protocol == s.Protocol {
		return p.shown
	}
	return shown{earlier: p.shown.earlier.plus(p.shown.own)}
}

// notBelow has no part be below what it was, and says what they add up to. What a
// process that died had not saved is seen again, as what was lost, so the sum is right
// once as much has come as was not saved.
func notBelow(now, was map[string]uint64) (sum uint64, parts map[string]uint64) {
	parts = make(map[string]uint64, len(now))
	for name, n := range now {
		parts[name] = max(n, was[name])
		sum += parts[name]
	}
	return sum, parts
}

// Numbers returns what is known now, or where the process is too busy to say that in
// time, or gone, what was known a moment ago, and why.
func (p *Play) Numbers() play.Numbers {
	err := p.update()
	p.answered.Lock()
	defer p.answered.Unlock()
	n := p.shown.last
	n.Declined = n.Declined.Plus(p.account.declined())
	if err != nil {
		n.Away = err.Error()
	}
	return n
}

// update asks for the numbers, and tells what was missed on this side. What is answered
// late is heard as well. Where one play waits in vain no other waits.
func (p *Play) update() error {
	if p.numbers.isLate() {
		return ErrLate
	}
	life, err := p.process.editions()
	if err != nil {
		return err
	}
	patience := numbersPatience
	if p.process.late.Load() {
		patience = 0
	}
	asked := time.Now()
	_, err = p.numbers.ask(p.process, patience, func(c *rpc.Client) (a Answer, err error) {
		if err = c.Call(methodNumbers, Asking{p.id, p.account.declined()}, &a); err == nil {
			p.hear(a, life, asked)
		}
		return a, err
	})
	switch {
	case errors.Is(err, ErrLate):
		p.process.late.Store(true)
	case isGone(err):
		err = ErrGone
	}
	return err
}

// hear takes an answer of a life, unless that is over.
func (p *Play) hear(a Answer, life uint64, asked time.Time) {
	p.process.late.Store(false)
	for _, t := range a.Timed {
		p.observe(t)
	}
	p.process.mu.Lock()
	defer p.process.mu.Unlock()
	if !p.process.isIn(life) {
		return
	}
	p.process.used.Store(a.Used)
	p.rest.Store(restOf(a, asked))
	p.answered.Lock()
	defer p.answered.Unlock()
	p.shown.hear(a.Numbers, life)
}

func (p *Play) observe(t play.Timed) {
	if p.options.Observe != nil {
		p.options.Observe(t)
	}
}

// rest says until when the breaker of a run lets no flow through: so long none is
// written into a ring. When it is over the process alone decides who tries.
type rest struct {
	run   uint64
	until time.Time
}

// restOf is what an answer says of it; nil is none. It ends rather early.
func restOf(a Answer, asked time.Time) *rest {
	if a.Numbers.Rests <= 0 {
		return nil
	}
	return &rest{a.Run, asked.Add(a.Numbers.Rests)}
}

// holds says whether flows of a run are left alone at this moment.
func (r *rest) holds(run uint64) bool {
	return r != nil && r.run == run && time.Now().Before(r.until)
}
