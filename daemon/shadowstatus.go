package daemon

import (
	"github.com/splitd/splitd/metrics"
	"github.com/splitd/splitd/shadow/play"
	"github.com/splitd/splitd/splitter"
)

// sample is what the metrics tell of the shadow of a split; nil where nothing
// was shadowed since the daemon began.
func (s *shadows) sample(name string, tees map[string]splitter.TeeCounts) *metrics.Shadow {
	one := s.find(name)
	if one == nil || one.play == nil {
		return nil
	}
	n := one.play.Numbers()
	m := &metrics.Shadow{
		Declined: map[string]uint64{
			"full": n.Declined.Full, "broken": n.Declined.Broken, "stopped": n.Declined.Stopped, "late": n.Declined.Late, "lost": n.Declined.Lost,
		},
		Open: n.Open, Panics: map[string]uint64{"driver": n.Panicked}, BreakerOpen: n.Breaker != "",
		Eligible: n.Eligible, Coverage: n.Coverage, Unsound: n.Unsound,
		Compared: map[string]uint64{"match": n.Match, "mismatch": n.Mismatch, "noise": n.Noise},
		Latency:  one.latency,
	}
	if t, known := tees[name]; known {
		m.Sampled, m.Played, m.Left = &t.Sampled, &t.Tapped, &t.Refused
		m.Panics["tee"] = t.Panicked
	}
	return m
}

// numbers are what is known of the shadow of a split in short; none where there is none.
func (s *shadows) numbers(name string) play.Numbers {
	if one := s.find(name); one != nil && one.play != nil {
		return one.play.Numbers()
	}
	return play.Numbers{}
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
