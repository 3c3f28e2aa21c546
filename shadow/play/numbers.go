package play

import (
	"encoding/json"
	"time"

	"github.com/splitd/splitd/shadow/report"
	"github.com/splitd/splitd/shadow/runner"
	"github.com/splitd/splitd/shadow/tally"
)

// Numbers are what is known of a Play in short, for status and metrics.
type Numbers struct {
	Counts
	// Edition changes whenever what was counted does.
	Edition uint64
	// Eligible are all exchanges that were seen, Coverage says what became of them by
	// the names of reports: its parts add up to them.
	Eligible uint64
	Coverage map[string]uint64
	// Match, Mismatch and Noise are the compared exchanges by what was found.
	Match, Mismatch, Noise uint64
	// Away says why these are of some time ago; "" is of now.
	Away string
}

// Numbers returns what is known now. While nothing is counted they cost little.
func (p *Play) Numbers() Numbers {
	counts, edition := p.Counts(), p.Edition()
	p.summing.Lock()
	defer p.summing.Unlock()
	if p.summed.Coverage == nil || p.summed.Edition != edition {
		s, edition := p.book.state(p.options.Now())
		p.summed = sum(p.make(s))
		p.summed.Edition = edition
	}
	n := p.summed
	n.Counts = counts
	return n
}

func sum(r report.Report) Numbers {
	return Numbers{
		Eligible: uint64(r.Cover.Eligible), Coverage: parts(r),
		Match: uint64(r.Exchanges.Match), Mismatch: uint64(r.Exchanges.Mismatch), Noise: uint64(r.Exchanges.Noise),
	}
}

// parts are the parts of coverage by their names in reports.
func parts(r report.Report) map[string]uint64 {
	text, err := json.Marshal(r.Cover)
	named := map[string]uint64{}
	if err == nil {
		err = json.Unmarshal(text, &named)
	}
	if err != nil {
		return map[string]uint64{} // integers can be written and read
	}
	delete(named, "eligible")
	return named
}

// Decline counts flows that were to be opened here, and were not.
func (p *Play) Decline(d runner.Declined) { p.book.totals.Decline(d) }

// DeclineElsewhere counts flows that somebody else, who stands between the relay and
// this Play, has not had played.
func (p *Play) DeclineElsewhere(d runner.Declined) { p.book.decline(d) }

// Forgotten is what a Reset has forgotten, in short. From is zero where there was
// nothing.
type Forgotten struct {
	From, Until        time.Time
	Eligible, Compared int64
}

func forgotten(s tally.State) Forgotten {
	return Forgotten{s.From, s.Until, s.Coverage.Eligible, s.Coverage.Compared}
}
