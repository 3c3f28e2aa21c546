package configs

import (
	"strconv"

	"github.com/splitd/splitd/traffic"
)

// slotsMax is how many runs of the draw one split can list.
const slotsMax = 10_000

// drawDraft is what a file says about who draws what, beside the weights.
type drawDraft struct {
	prefix  traffic.AffinityPrefix
	seed    string
	unused  []spot // of what only affinity: source uses
	slots   traffic.Slots
	slotsAt spot
	runs    []spot // of slots, one for one
	whole   bool   // all of slots could be read
}

// defaultPrefix tells the addresses of IPv4 apart, and of IPv6 the networks:
// hosts change the rest of their address daily (RFC 8981).
func defaultPrefix() traffic.AffinityPrefix { return traffic.AffinityPrefix{IPv4: 32, IPv6: 64} }

// readDraw reads who is drawn for, and how.
func (d *draft) readDraw(t *table) {
	d.draw.prefix = defaultPrefix()
	if v, ok := t.take("affinity"); ok {
		if word, ok := oneOf(v, []traffic.Affinity{traffic.AffinityNone, traffic.AffinitySource}, nil); ok {
			d.split.Affinity = word
		}
	}
	t.inside("affinity_prefix", func(t *table) {
		d.readPrefix(t, "ipv4", 32, 24, &d.draw.prefix.IPv4)
		d.readPrefix(t, "ipv6", 128, 64, &d.draw.prefix.IPv6)
	})
	if v, ok := t.take("affinity_seed"); ok {
		if d.draw.seed, ok = v.text(); ok && d.draw.seed != "" {
			d.draw.unused = append(d.draw.unused, v.spot)
		}
	}
	if v, ok := t.take("slots"); ok {
		d.draw.slotsAt = v.spot
		d.draw.whole = eachOrNone(v, slotsMax, d.readSlot)
	}
	if v, ok := t.take("local_clients"); ok {
		d.split.LocalClients, _ = v.boolean()
		d.unusedIn(v, traffic.ModeProxy)
	}
}

// readPrefix reads how many bits of an address are the client's network. The
// kernel hashes whole bytes (NFTA_HASH_LEN).
func (d *draft) readPrefix(t *table, key string, most, usual int, bits *int) {
	v, ok := t.take(key)
	if !ok {
		return
	}
	text, ok := v.scalar("a number of bits")
	if !ok {
		return
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 8 || n > most || n%8 != 0 {
		v.refuse("%q is not a multiple of 8 from 8 to %d: the kernel draws for whole bytes of an address; a network of clients is usually %d", text, most, usual)
		return
	}
	if n != *bits {
		d.draw.unused = append(d.draw.unused, v.spot)
	}
	*bits = n
}

// readSlot reads a run of the draw as `splitctl show -o json` writes it.
func (d *draft) readSlot(v value) bool {
	t, ok := v.table()
	if !ok {
		return false
	}
	first, ok1 := t.number("first", "the lowest number of the run")
	last, ok2 := t.number("last", "the highest number of the run")
	name, ok3 := t.need("candidate", "whose run it is")
	var candidate string
	if ok3 {
		candidate = readName(name)
	}
	t.close()
	d.draw.slots = append(d.draw.slots, traffic.Slot{First: first, Last: last, Candidate: candidate})
	d.draw.runs = append(d.draw.runs, v.spot)
	return ok1 && ok2 && candidate != ""
}

// number reads a number of the draw.
func (t *table) number(key, hint string) (traffic.Weight, bool) {
	v, ok := t.need(key, hint)
	if !ok {
		return 0, false
	}
	text, ok := v.scalar("a number")
	if !ok {
		return 0, false
	}
	n, err := strconv.ParseUint(text, 10, 32)
	if err != nil || n >= uint64(traffic.Whole) {
		v.refuse("%q is not a number from 0 to %d", text, traffic.Whole-1)
		return 0, false
	}
	return traffic.Weight(n), true
}

// judgeDraw puts into the split what its affinity uses. Who asks for networks
// of clients or a seed wants affinity and would not get it; slots may stay from
// another router.
func (d *draft) judgeDraw() {
	if d.split.Affinity != traffic.AffinitySource {
		for _, at := range d.draw.unused {
			at.refuse("has no effect with affinity: %s: write affinity: source beside it, or remove it", d.split.Affinity)
		}
		if len(d.draw.slots) > 0 {
			d.draw.slotsAt.note("unused with affinity %s", d.split.Affinity)
		}
		if d.draw.whole {
			d.judgeSlotNames()
		}
		return
	}
	d.split.AffinityPrefix, d.split.AffinitySeed = d.draw.prefix, d.draw.seed
	if len(d.draw.slots) == 0 || !d.draw.whole {
		return
	}
	d.split.Slots = d.draw.slots
	d.judgeSlotNames()
	d.judgeSlots()
}

// judgeSlotNames refuses runs of nobody.
func (d *draft) judgeSlotNames() {
	for i, slot := range d.draw.slots {
		if _, known := d.split.Candidate(slot.Candidate); !known {
			d.draw.runs[i].refuse("%q is not a candidate of this split", slot.Candidate)
		}
	}
}

// judgeSlots refuses runs that are not those of one split at its weights.
func (d *draft) judgeSlots() {
	next := traffic.Weight(0)
	sums := map[string]traffic.Weight{}
	for i, slot := range d.draw.slots {
		switch {
		case slot.Last < slot.First:
			d.draw.runs[i].refuse("ends at %d, before it begins at %d", slot.Last, slot.First)
			return
		case slot.First < next:
			d.draw.runs[i].refuse("begins at %d, but the run before it (%s) ends at %d: list them in ascending order", slot.First, d.draw.runs[i-1], next-1)
			return
		}
		next = slot.Last + 1
		sums[slot.Candidate] += slot.Last - slot.First + 1
	}
	for _, b := range d.backends {
		if sum := sums[b.backend.Name]; !b.primary && sum != b.backend.Weight {
			d.draw.slotsAt.refuse("%q has %s of the draw here, but weight %s: take both from the same `splitctl show -o json`, or remove slots",
				b.backend.Name, sum, b.backend.Weight)
		}
	}
}
