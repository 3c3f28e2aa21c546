package daemon

import (
	"cmp"

	"github.com/splitd/splitd/control/api"
	"github.com/splitd/splitd/metrics"
	"github.com/splitd/splitd/shadow/play"
	"github.com/splitd/splitd/splitter"
)

// sample is what the metrics tell of the shadow of a split; nil where nothing
// was shadowed since the daemon began.
func (s *shadows) sample(name string, tees map[string]splitter.TeeCounts) *metrics.Shadow {
	one := s.find(name)
	if one == nil || one.play == nil && one.fault == nil {
		return nil
	}
	n := one.numbers()
	m := &metrics.Shadow{
		Declined: map[string]uint64{
			"full": n.Declined.Full, "broken": n.Declined.Broken, "stopped": n.Declined.Stopped, "late": n.Declined.Late, "lost": n.Declined.Lost,
			"fault": one.unplayed.Load(),
		},
		Open: n.Open, Panics: map[string]uint64{"driver": n.Panicked}, BreakerOpen: n.Breaker != "",
		Eligible: n.Eligible, Coverage: n.Coverage, Unsound: n.Unsound,
		Compared: map[string]uint64{"match": n.Match, "mismatch": n.Mismatch, "noise": n.Noise},
		Latency:  one.latency,
		TLS:      one.inside.sample(),
	}
	if t, known := tees[name]; known {
		m.Sampled, m.Played, m.Left = &t.Sampled, &t.Tapped, &t.Refused
		m.Panics["tee"] = t.Panicked
	}
	if one.inside != nil {
		m.Panics["tee"] += one.inside.numbers().Panicked
	}
	return m
}

// numbers is what is known of its play; nothing where there is none.
func (s shadowed) numbers() play.Numbers {
	if s.play == nil {
		return play.Numbers{}
	}
	return s.play.Numbers()
}

// shadowing is how the shadow of a split fares.
type shadowing struct {
	paused  string // why nothing is played, or little; "" where it is
	fault   bool   // it cannot be, whatever the candidate does
	away    string // why what is known is of some time ago; "" where it is of now
	differs *api.Differing
	tls     *api.ShadowTLS
}

// faring says how the shadow of a split fares.
func (s *shadows) faring(name string) shadowing {
	one := s.find(name)
	if one == nil {
		return shadowing{}
	}
	n := one.numbers()
	is := shadowing{paused: n.Breaker, away: n.Away}
	if failed := n.Coverage["candidate_error"]; n.Coverage["compared"]+failed > 0 {
		is.differs = &api.Differing{Exchanges: n.Mismatch + failed, Of: n.Coverage["compared"] + failed}
	}
	is.tls = one.inside.item()
	if err := cmp.Or(one.fault, one.inside.trouble()); err != nil {
		is.paused, is.fault = err.Error(), true
	}
	return is
}

// memory is what all shadows together hold; nil where none has run.
func (s *shadows) memory() *metrics.Budget {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.splits) == 0 {
		return nil
	}
	return &metrics.Budget{Used: s.stage.Used(), Most: s.most}
}
