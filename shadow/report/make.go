package report

import (
	"cmp"
	"fmt"
	"math"
	"slices"

	"github.com/splitd/splitd/shadow"
	"github.com/splitd/splitd/shadow/tally"
)

// Options are what a tally does not know.
type Options struct {
	Split              string
	Primary, Candidate string // the backends' names
	// Rule says what may be written to the candidate.
	Rule string
	// SeenInto says that encrypted flows are seen into: certificates are named for it.
	SeenInto bool
	// Away says why the report is of what was saved last, and not of now; "" is of now.
	Away string
	// Thresholds that are zero are the default ones.
	Thresholds tally.Thresholds
	// Level is the lightest that counts; what is lighter is masked.
	Level shadow.Level
	// MinCompared is how many exchanges have to be compared for the verdict that
	// nothing differs; 0 is as many as bound what may differ to ten times the effect
	// that is reported, and to 1 % at least: 381.
	MinCompared int64
}

// Make makes the report of a tally.
func Make(s tally.State, o Options) Report {
	if o.Thresholds == (tally.Thresholds{}) {
		o.Thresholds = tally.DefaultThresholds()
	}
	within := sameWithin(o.Thresholds.Effect)
	if o.MinCompared == 0 {
		o.MinCompared = leastCompared(within)
	}
	m := maker{s: &s, o: o, charges: make(map[int]*charge), doubts: make(map[string]int64)}
	m.judge()
	m.charge()
	r := Report{
		APIVersion: apiVersion, Kind: kind, Split: o.Split, Protocol: s.Protocol, Primary: o.Primary, Candidate: o.Candidate, Rule: o.Rule, NeverCompared: neverCompared(s.Protocol), Untold: untold(s), Away: o.Away,
		Cover: s.Coverage, Exchanges: m.exchanges, Folded: s.Folded, Encrypted: encrypted(s), SeenInto: o.SeenInto, SeenInside: seenInside(s),
		Differences: m.list(tally.Reported), Suspects: m.list(tally.Suspect), Masked: m.masked(),
		Latency: latency(s.Latency), NotCompared: s.Reasons, Endpoints: s.Endpoints, UnusedRules: m.unused(),
	}
	if !s.From.IsZero() {
		r.Window = &Window{s.From.UTC(), s.Until.UTC()}
	}
	for _, e := range s.Endpoints {
		r.Controls += e.Controls + e.ControlsUnanswered
		r.ControlsUnanswered += e.ControlsUnanswered
	}
	r.Samples = referred(s.Samples, r.Differences, r.Suspects)
	r.EncryptedOf = encryptedOf(r, s)
	r.Doubt = both(m.blind(r, within), m.doubt(within))
	r.Verdict = verdict(r, o)
	r = cleaned(r)
	r.Summary = summary(r, o)
	return r
}

// untold says in how many sessions of SMTP a candidate was not told by XCLIENT who the
// client is; "" where it was not to be told, or always was. The driver has a path for it.
func untold(s tally.State) string {
	var missed, of int64
	for _, f := range s.Fields {
		if s.Protocol == "smtp" && f.Path == "identity xclient" {
			missed, of = missed+f.Differed, of+s.Endpoints[f.Endpoint].Compared
		}
	}
	if missed == 0 {
		return ""
	}
	return fmt.Sprintf("In %d of %d greetings the candidate did not take XCLIENT from this host, so it decides about this host's address: see that it offers it here (Postfix: smtpd_authorized_xclient_hosts).", missed, of)
}

// neverCompared says what drivers leave out, because no two servers share it.
// docs/shadow.md has the whole list.
func neverCompared(protocol string) string {
	switch protocol {
	case "smtp":
		return "names of hosts, addresses, times and ids in texts"
	case "http":
		return "dates, values of cookies and validators, nonces, lengths; what Server, Via, Age, request ids and their like say; scripts, styles and comments"
	}
	return ""
}

type maker struct {
	s         *tally.State
	o         Options
	judged    []tally.Judgement // of each field
	charges   map[int]*charge   // of signatures
	exchanges Exchanges
	doubts    map[string]int64 // exchanges that are doubtful, by excuse
}

// charge is what one signature is charged with.
type charge struct {
	count       int64
	first, last tally.Combination
	also        map[string]int64
}

func (m *maker) judge() {
	for _, f := range m.s.Fields {
		m.judged = append(m.judged, m.o.Thresholds.Judge(m.s.CountsOf(f)))
	}
}

// counts says whether a signature is no noise.
func (m *maker) counts(signature int) bool {
	g := m.s.Signatures[signature]
	return m.judged[g.Field].Finding != tally.Masked && g.Level >= m.o.Level
}

// charge charges each exchange to the heaviest of what it differs in that is no
// noise.
func (m *maker) charge() {
	var differing int64
	for _, c := range m.s.Combinations {
		missing := m.unavailable(c)
		if !missing {
			differing += c.Count
		}
		at := slices.IndexFunc(c.Signatures, m.counts)
		if at < 0 {
			if !missing {
				m.exchanges.Noise += c.Count
				m.doubtful(c)
			}
			continue
		}
		if !missing {
			m.exchanges.Mismatch += c.Count
		}
		m.chargeTo(c, at)
	}
	m.exchanges.Match = max(0, m.s.Coverage.Compared-differing)
}

// unavailable says whether the exchanges were not compared, since the candidate did
// not answer.
func (m *maker) unavailable(c tally.Combination) bool {
	return m.s.Fields[m.s.Signatures[c.Signatures[0]].Field].Kind == shadow.Unavailable
}

func (m *maker) chargeTo(c tally.Combination, at int) {
	to, ok := m.charges[c.Signatures[at]]
	if !ok {
		to = &charge{first: c, last: c, also: make(map[string]int64)}
		m.charges[c.Signatures[at]] = to
	}
	to.count += c.Count
	if c.First.Before(to.first.First) {
		to.first = c
	}
	if c.Last.After(to.last.Last) {
		to.last = c
	}
	for _, g := range c.Signatures[at+1:] {
		if m.counts(g) {
			f := m.s.Fields[m.s.Signatures[g].Field]
			to.also[f.Path+" ("+string(f.Kind)+")"] += c.Count
		}
	}
}

// list is what was charged of one finding: the heaviest first, then the most
// frequent.
func (m *maker) list(finding tally.Finding) []Difference {
	list := []Difference{}
	levels := make(map[string]shadow.Level)
	for i, g := range m.s.Signatures {
		levels[g.Level.String()] = g.Level
		if to := m.charges[i]; to != nil && m.judged[g.Field].Finding == finding {
			list = append(list, m.difference(g, to))
		}
	}
	slices.SortStableFunc(list, func(a, b Difference) int {
		return cmp.Or(
			cmp.Compare(levels[b.Level], levels[a.Level]), cmp.Compare(b.Count, a.Count), handshakesFirst(a.Endpoint, b.Endpoint),
			cmp.Compare(a.Endpoint, b.Endpoint), cmp.Compare(a.Field, b.Field), cmp.Compare(a.Kind, b.Kind),
			cmp.Compare(a.Expected, b.Expected), cmp.Compare(a.Got, b.Got),
		)
	})
	return list
}

// handshakesFirst orders what may be the cause before what may be its effect.
func handshakesFirst(a, b string) int {
	switch {
	case a == b:
		return 0
	case a == shadow.Handshaken:
		return -1
	case b == shadow.Handshaken:
		return 1
	}
	return 0
}

func (m *maker) difference(g tally.Signature, to *charge) Difference {
	f := m.s.Fields[g.Field]
	c, j := m.s.CountsOf(f), m.judged[g.Field]
	own := c // the bound is of what is charged here, as the rate is
	own.Differed = to.count
	return Difference{
		Protocol: m.s.Protocol, Endpoint: m.s.Endpoints[f.Endpoint].Name, Field: f.Path, Kind: f.Kind, Level: g.Level.String(),
		Expected: g.Expected, Got: g.Got, Count: to.count, Rate: round(share(to.count, c.Exchanges), 6), LowerBound: round(m.o.Thresholds.Judge(own).Lower, 6),
		FirstSeen: to.first.First.UTC(), LastSeen: to.last.Last.UTC(), Samples: append([]int{}, g.Samples...), Also: most(to.also),
		Controls: c.Controls, ControlDiffered: c.ControlDiffered, Why: j.Why,
	}
}

// named is how many other fields a difference names.
const named = 8

func most(counts map[string]int64) []string {
	names := make([]string, 0, len(counts))
	for name := range counts {
		names = append(names, name)
	}
	slices.SortFunc(names, func(a, b string) int { return cmp.Or(cmp.Compare(counts[b], counts[a]), cmp.Compare(a, b)) })
	if len(names) > named {
		names = append(names[:named], fmt.Sprintf("and %d more", len(names)-named))
	}
	return names
}

// masked lists what may differ: fields that do so by themselves, that a rule
// excuses, or that weigh less than what counts.
func (m *maker) masked() []Mask {
	list := []Mask{}
	ours := make(map[string]bool)
	for _, rule := range m.s.Rules {
		ours[shadow.Clean(rule.Text, longest)] = true
	}
	for i, f := range m.s.Fields {
		j := m.judged[i]
		if j.Finding != tally.Masked {
			continue
		}
		why := j.Why
		switch {
		case f.Excuse != "" && ours[f.Excuse]:
			why = "ignored: " + f.Excuse
		case f.Excuse != "":
			why = "built in: " + f.Excuse
		}
		list = append(list, Mask{m.s.Endpoints[f.Endpoint].Name, f.Path, f.Kind, why, f.Differed})
	}
	list = append(list, m.light()...)
	slices.SortStableFunc(list, func(a, b Mask) int {
		return cmp.Or(cmp.Compare(a.Endpoint, b.Endpoint), cmp.Compare(a.Field, b.Field), cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Why, b.Why))
	})
	return list
}

// light lists the fields that are masked for their weight alone.
func (m *maker) light() []Mask {
	counts := make(map[int]int64)
	for _, g := range m.s.Signatures {
		if g.Level < m.o.Level && m.judged[g.Field].Finding != tally.Masked {
			counts[g.Field] += g.Count
		}
	}
	var list []Mask
	for i, f := range m.s.Fields {
		if counts[i] > 0 {
			list = append(list, Mask{m.s.Endpoints[f.Endpoint].Name, f.Path, f.Kind, "lighter than " + m.o.Level.String(), counts[i]})
		}
	}
	return list
}

func (m *maker) unused() []string {
	unused := []string{}
	for _, rule := range m.s.Rules {
		if !rule.Matched && m.s.Coverage.Compared > 0 && !acceptsUnseen(rule) {
			unused = append(unused, rule.Text)
		}
	}
	return unused
}

// referred are the samples of what is listed.
func referred(samples []tally.Sample, lists ...[]Difference) []tally.Sample {
	wanted := make(map[int]bool)
	for _, list := range lists {
		for _, d := range list {
			for _, id := range d.Samples {
				wanted[id] = true
			}
		}
	}
	kept := []tally.Sample{}
	for _, s := range samples {
		if wanted[s.ID] {
			kept = append(kept, s)
		}
	}
	return kept
}

// latency is null where nothing was measured.
func latency(l tally.Latency) *Latency {
	if l.Pairs == 0 {
		return nil
	}
	return &Latency{
		Sides:     Sides{quantiles(l.Primary.Total), quantiles(l.Candidate.Total), quantiles(l.Delta.Total)},
		FirstByte: Sides{quantiles(l.Primary.First), quantiles(l.Candidate.First), quantiles(l.Delta.First)},
		Pairs:     l.Pairs, WarmUp: l.WarmUp, Unknown: l.Unknown,
	}
}

func quantiles(s tally.Sketch) Quantiles {
	at := func(q float64) float64 {
		v, _ := s.Milliseconds(q) // there are pairs
		return round(v, 3)
	}
	q := Quantiles{P50: at(0.5), P95: at(0.95), P99: at(0.99)}
	for _, p := range CurveAt() {
		q.Curve = append(q.Curve, at(p))
	}
	return q
}

func round(v float64, digits int) float64 {
	scale := math.Pow10(digits)
	return math.Round(v*scale) / scale
}

func share(k, n int64) float64 {
	if n <= 0 {
		return 0
	}
	return min(1, float64(k)/float64(n))
}
