package splitter

import (
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestAlarmsAreDueAtTheirTickAndNotBefore(t *testing.T) {
	for _, at := range []int64{1, 2, 63, 64, 65, 4095, 4096, 4097, 262_144, 262_145, 3_600_000, 16_777_216, 1_000_000_000} {
		w := newWheel(0)
		w.set(7, at)
		if due := w.advance(at-1, nil); len(due) != 0 {
			t.Errorf("alarm for %d is due at %d", at, at-1)
		}
		if due := w.advance(at, nil); !slices.Equal(due, []int32{7}) {
			t.Errorf("alarm for %d is not due then", at)
		}
		if _, ok := w.next(); ok {
			t.Errorf("alarm for %d is left after it was due", at)
		}
	}
}

func TestAlarmOfThePastIsDueAtTheNextTickAndOneTooFarIsHeldBack(t *testing.T) {
	w := newWheel(1000)
	w.set(1, 3)
	if due := w.advance(1001, nil); !slices.Equal(due, []int32{1}) {
		t.Errorf("due = %v, want 1", due)
	}
	w.set(2, 1<<60)
	if at, ok := w.next(); !ok || at > 1001+wheelReach {
		t.Errorf("next = %d, %v, want within the wheel's reach", at, ok)
	}
}

// The oracle is a map from ids to ticks.
func TestWheelDoesWhatAMapOfAlarmsDoes(t *testing.T) {
	for seed := range uint64(20) {
		r := rand.New(rand.NewPCG(seed, 1))
		now := r.Int64N(1 << 40)
		w, model := newWheel(now), map[int32]int64{}
		for range 20_000 {
			id := r.Int32N(200)
			switch r.IntN(10) {
			case 0, 1, 2, 3, 4:
				at := now + 1 + r.Int64N(1<<(1+r.IntN(28)))
				w.set(id, at)
				model[id] = at
			case 5:
				w.clear(id)
				delete(model, id)
			default:
				if at, ok := w.next(); ok && r.IntN(4) == 0 {
					now = at
				} else {
					now += r.Int64N(1 << (1 + r.IntN(20)))
				}
				var want []int32
				for id, at := range model {
					if at <= now {
						want = append(want, id)
						delete(model, id)
					}
				}
				got := w.advance(now, nil)
				slices.Sort(want)
				slices.Sort(got)
				if diff := cmp.Diff(want, got); diff != "" {
					t.Fatalf("seed %d: due at %d (-want +got):\n%s", seed, now, diff)
				}
			}
			first, ok := w.next()
			if ok != (len(model) > 0) {
				t.Fatalf("seed %d: next = %v with %d alarms", seed, ok, len(model))
			}
			for _, at := range model {
				if first > at {
					t.Fatalf("seed %d: next = %d, an alarm is due at %d", seed, first, at)
				}
			}
		}
	}
}
