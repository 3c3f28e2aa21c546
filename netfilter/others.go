package netfilter

import "sync/atomic"

// writes counts the transactions of this process. Whoever reads it may do so
// while one is under way.
type writes struct{ begun, ended, landed atomic.Uint32 }

// quiet returns how many have changed something, unless one is under way.
func (w *writes) quiet() (landed uint32, ok bool) {
	ended := w.ended.Load()
	landed = w.landed.Load()
	return landed, w.begun.Load() == ended
}

// Others is a number that stays the same as long as nobody else has changed
// anything in nftables, whatever this Kernel does: the generation of the
// ruleset, of which each transaction makes one, without our own. It is uncertain
// while one of ours is under way.
func (k *Kernel) Others() (number uint32, certain bool) {
	before, quiet := k.writes.quiet()
	var gen uint32
	err := k.withLink(func(l *link) (err error) {
		gen, err = l.generation()
		return err
	})
	after, still := k.writes.quiet()
	return gen - before, err == nil && quiet && still && before == after
}
