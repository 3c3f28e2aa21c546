package netfilter

import "time"

// pace decides how soon a mend follows its cause, and which are told. The first
// is at once; while each is undone again the waits double, so that neither a
// rival that deletes in a loop nor our answers to it keep this host busy. The
// zero value is at rest.
type pace struct {
	last  time.Time     // the newest mend
	delay time.Duration // before the next one
	times int           // mends since the last one that was told
	run   int           // mends in a row
	told  time.Time
}

// How a row of mends is told: each of the first, then one line in a while.
const (
	paceTold  = 3
	paceEvery = 30 * time.Second
	paceRest  = 4 * followMost // without a mend that long, a row has ended
)

// settle is how long to wait for more news before mending.
func (p *pace) settle() time.Duration { return max(p.delay, followSettle) }

// mended notes that something was put back, and says whether to tell it, and of
// how many mends.
func (p *pace) mended(now time.Time) (times int, tell bool) {
	if now.Sub(p.last) > paceRest {
		p.delay, p.run = 0, 0
	}
	p.last, p.delay = now, min(2*p.settle(), followMost)
	p.run++
	p.times++
	if p.run > paceTold && now.Sub(p.told) < paceEvery {
		return p.times, false
	}
	times, p.times, p.told = p.times, 0, now
	return times, true
}
