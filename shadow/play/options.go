package play

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"time"

	"github.com/splitd/splitd/shadow"
	"github.com/splitd/splitd/shadow/runner"
	"github.com/splitd/splitd/traffic"
)

// Options are what a Play is made of. Split, Budget and Dial must be there.
type Options struct {
	// Split is a state, whose mode is resolved and whose Shadow.To is a candidate.
	Split traffic.Split
	// Budget is that of all shadows of the process.
	Budget *runner.Budget
	// Dial connects to a candidate, or to the primary in its place, from this host.
	Dial func(ctx context.Context, at netip.AddrPort) (net.Conn, error)
	// After is the Play that this one follows. Of the same protocol and candidate,
	// it goes on with what that one has counted, and so do the flows of that one that
	// have not ended yet.
	After *Play
	// Kept is what Bytes of an earlier process has returned. It is from a disk, and
	// may be anything.
	Kept []byte
	// Observe is told of every compared exchange whose times are known; nil is nobody.
	// It is called from many goroutines.
	Observe func(Timed)
	// Ended is told whenever the shadow of a flow that Open had begun has ended and is
	// counted; nil is nobody. It is called from many goroutines.
	Ended func()
	// Away says why a report is of what was kept, and not of now; "" is of now.
	Away string
	// Draw returns a number from 0 on below 1; nil is math/rand/v2.
	Draw func() float64
	Now  func() time.Time // nil: time.Now
	Log  *slog.Logger     // nil: nothing is logged
}

// Timed is how long both servers took for one exchange, until the first byte of the
// reply and until the last.
type Timed struct{ Primary, Candidate Took }

// Took is of one server.
type Took struct{ First, Total time.Duration }

// What is not said in a split.
const (
	flowBudget = 1 << 20
	patience   = 10 * time.Second
	// keepShare is which part of a flow's budget one unit or reply may be: drivers
	// hold several of both sides.
	keepShare = 8
)

func (o Options) withDefaults() Options {
	if o.Draw == nil {
		o.Draw = rand.Float64
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Observe == nil {
		o.Observe = func(Timed) {}
	}
	s := &o.Split.Shadow
	if s.FlowBudget <= 0 {
		s.FlowBudget = flowBudget
	}
	if s.Patience <= 0 {
		s.Patience = patience
	}
	o.Log = o.Log.With("split", o.Split.Name, "candidate", s.To)
	return o
}

// rules are those that the user has written.
func rules(s traffic.Shadow) ([]shadow.Ignore, error) {
	var all []shadow.Ignore
	for _, text := range s.Ignore {
		rule, err := shadow.ParseIgnore(text)
		if err != nil {
			return nil, err
		}
		all = append(all, rule)
	}
	return all, nil
}

// made is what of a split a Play is made of; the rest may change under it.
type made struct {
	name, protocol         string
	mode                   traffic.Mode
	shadow                 traffic.Shadow
	sendProxy              traffic.SendProxy
	transparent            bool
	primary, candidate     string
	primaryLocal, toLocal  bool
	primaryAt, candidateAt []traffic.Address
}

func madeOf(s traffic.Split) made {
	to, _ := s.Candidate(s.Shadow.To)
	return made{
		name: s.Name, protocol: s.Protocol, mode: s.Mode, shadow: s.Shadow, sendProxy: s.Proxy.SendProxy, transparent: s.Proxy.Transparent,
		primary: s.Primary.Name, primaryLocal: s.Primary.Local, primaryAt: s.Primary.Addresses,
		candidate: to.Name, toLocal: to.Local, candidateAt: to.Addresses,
	}
}

// candidate is who the flows are played to.
func candidate(s traffic.Split) (traffic.Backend, error) {
	if s.Shadow.To == "" {
		return traffic.Backend{}, fmt.Errorf("shadow split %q: nobody says which candidate is to be compared: write its name into shadow.to", s.Name)
	}
	b, ok := s.Candidate(s.Shadow.To)
	if !ok {
		return traffic.Backend{}, fmt.Errorf("shadow split %q: it has no candidate %q: write the name of one into shadow.to", s.Name, s.Shadow.To)
	}
	return b, nil
}
