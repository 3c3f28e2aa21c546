package daemon

import (
	"encoding/json"

	"github.com/splitd/splitd/metrics"
	"github.com/splitd/splitd/shadow/report"
	"github.com/splitd/splitd/splitter"
)

// sample is what the metrics tell of the shadow of a split; nil where nothing
// was shadowed since the daemon began.
func (s *shadows) sample(name string, tees map[string]splitter.TeeCounts) *metrics.Shadow {
	one := s.find(name)
	if one == nil || one.play == nil {
		return nil
	}
	counts, r := one.play.Counts(), one.play.Report()
	m := &metrics.Shadow{
		Declined: map[string]uint64{
			"full": counts.Declined.Full, "broken": counts.Declined.Broken, "stopped": counts.Declined.Stopped,
		},
		Open: counts.Open, Panics: map[string]uint64{"driver": counts.Panicked}, BreakerOpen: counts.Breaker != "",
		Eligible: uint64(r.Cover.Eligible), Coverage: parts(r), Unsound: counts.Unsound,
		Compared: map[string]uint64{
			"match": uint64(r.Exchanges.Match), "mismatch": uint64(r.Exchanges.Mismatch), "noise": uint64(r.Exchanges.Noise),
		},
		Latency: one.latency,
	}
	if t, known := tees[name]; known {
		m.Sampled, m.Played, m.Left = &t.Sampled, &t.Tapped, &t.Refused
		m.Panics["tee"] = t.Panicked
	}
	return m
}

// breaker says why the candidate of a split is left alone for a while; "" when it
// is not.
func (s *shadows) breaker(name string) string {
	if one := s.find(name); one != nil && one.play != nil {
		return one.play.Counts().Breaker
	}
	return ""
}

// parts are the parts of coverage by their names in reports.
func parts(r report.Report) map[string]uint64 {
	text, err := json.Marshal(r.Cover)
	named := map[string]uint64{}
	if err == nil {
		err = json.Unmarshal(text, &named)
	}
	if err != nil {
		return nil // integers can be written and read
	}
	delete(named, "eligible")
	return named
}

// memory is what all shadows together hold; nil where none has run.
func (s *shadows) memory() *metrics.Budget {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.splits) == 0 {
		return nil
	}
	return &metrics.Budget{Used: s.budget.Used(), Most: s.most}
}
