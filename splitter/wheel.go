package splitter

import "math/bits"

// A wheel has wheelLevels circles of wheelSlots slots: in the first a slot is
// one tick wide, in each further one as wide as the whole circle before it.
const (
	wheelBits   = 6
	wheelSlots  = 1 << wheelBits
	wheelMask   = wheelSlots - 1
	wheelLevels = 5
	// wheelReach is how many ticks ahead an alarm may lie: 12 days of
	// milliseconds.
	wheelReach = (wheelSlots - 1) << (wheelBits * (wheelLevels - 1))
)

// nobody is no id.
const nobody int32 = -1

// wheel keeps one alarm for each of many ids (small numbers: places of flows)
// and knows no clock: time is a count of ticks that only grows. Setting and
// clearing an alarm cost the same however many there are (hierarchical timing
// wheels: Varghese and Lauck, 1987, scheme 7).
type wheel struct {
	now    int64
	heads  [wheelLevels][wheelSlots]int32
	filled [wheelLevels]uint64 // a bit for every slot that holds an alarm
	alarms []alarm             // by id
}

// alarm is one id's, a link of its slot's ring-less list.
type alarm struct {
	at         int64
	next, prev int32
	slot       int16 // level*wheelSlots + slot; -1: not set
}

func newWheel(now int64) *wheel {
	w := &wheel{now: now}
	for level := range w.heads {
		for slot := range w.heads[level] {
			w.heads[level][slot] = nobody
		}
	}
	return w
}

// set wakes id at the tick at, or at the next one if that has passed; an alarm
// of id that stands already is moved.
func (w *wheel) set(id int32, at int64) {
	for int(id) >= len(w.alarms) {
		w.alarms = append(w.alarms, alarm{slot: -1})
	}
	w.clear(id)
	w.insert(id, min(max(at, w.now+1), w.now+wheelReach))
}

// clear takes back the alarm of id, if it has one.
func (w *wheel) clear(id int32) {
	if int(id) >= len(w.alarms) || w.alarms[id].slot < 0 {
		return
	}
	a := &w.alarms[id]
	level, slot := int(a.slot)/wheelSlots, int(a.slot)%wheelSlots
	if a.prev == nobody {
		w.heads[level][slot] = a.next
	} else {
		w.alarms[a.prev].next = a.next
	}
	if a.next != nobody {
		w.alarms[a.next].prev = a.prev
	}
	if w.heads[level][slot] == nobody {
		w.filled[level] &^= 1 << slot
	}
	a.slot = -1
}

// insert puts id where the tick at, which is after now, belongs: into the
// first circle that has not turned round by then.
func (w *wheel) insert(id int32, at int64) {
	level := 0
	for at>>(wheelBits*level)-w.now>>(wheelBits*level) >= wheelSlots {
		level++
	}
	slot := int(at>>(wheelBits*level)) & wheelMask
	head := w.heads[level][slot]
	w.alarms[id] = alarm{at: at, next: head, prev: nobody, slot: int16(level*wheelSlots + slot)}
	if head != nobody {
		w.alarms[head].prev = id
	}
	w.heads[level][slot] = id
	w.filled[level] |= 1 << slot
}

// next returns the tick at which advance has something to do; false: never.
func (w *wheel) next() (int64, bool) {
	earliest, found := int64(0), false
	for level := range wheelLevels {
		if w.filled[level] == 0 {
			continue
		}
		turned := w.now >> (wheelBits * level)
		// Rotated so that the bit after the current slot is the lowest.
		ahead := bits.RotateLeft64(w.filled[level], -int((turned+1)&wheelMask))
		at := (turned + 1 + int64(bits.TrailingZeros64(ahead))) << (wheelBits * level)
		if !found || at < earliest {
			earliest, found = at, true
		}
	}
	return earliest, found
}

// advance moves time on to now and appends the ids whose alarms are due, in
// the order of their ticks; those are no longer set.
func (w *wheel) advance(now int64, due []int32) []int32 {
	for {
		at, ok := w.next()
		if !ok || at > now {
			w.now = max(w.now, now)
			return due
		}
		w.now = at
		for level := wheelLevels - 1; level >= 0; level-- {
			if at&(1<<(wheelBits*level)-1) == 0 {
				due = w.empty(level, int(at>>(wheelBits*level))&wheelMask, due)
			}
		}
	}
}

// empty takes all out of a slot whose time has come: what is due goes to due,
// what has some way to go into a finer circle.
func (w *wheel) empty(level, slot int, due []int32) []int32 {
	id := w.heads[level][slot]
	w.heads[level][slot] = nobody
	w.filled[level] &^= 1 << slot
	for id != nobody {
		a := &w.alarms[id]
		following := a.next
		a.slot = -1
		if a.at <= w.now {
			due = append(due, id)
		} else {
			w.insert(id, a.at)
		}
		id = following
	}
	return due
}
