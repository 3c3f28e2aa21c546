package splitter

import (
	"math/rand/v2"
	"testing"
)

func TestASlabGivesMemoryBackWhenMostOfItsFlowsHaveGone(t *testing.T) {
	var s slab
	var open []*flow
	for range 100 * slabStep {
		f := s.take()
		f.stage = relaying
		open = append(open, f)
	}
	if len(s.blocks) < 100 {
		t.Fatalf("%d blocks for %d flows", len(s.blocks), len(open))
	}
	late := open[3]
	last := open[len(open)-1]
	old := last.ticket(ofClient)
	for _, f := range open {
		if f != late {
			s.release(f)
		}
	}
	s.trim()
	if len(s.blocks) != slabKept || len(s.free) != slabKept*slabStep-int(firstPlace)-1 {
		t.Errorf("for one flow it keeps %d blocks and %d free places", len(s.blocks), len(s.free))
	}
	if s.find(late.ticket(ofClient)) != late {
		t.Error("the open flow is not found")
	}
	if s.find(old) != nil {
		t.Error("a flow whose block has gone is found")
	}
}

// Takes, releases and trims in any order, beside a map of what is open.
func TestASlabFindsWhatIsOpenAndNothingElse(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	var s slab
	open, gone := map[ticket]*flow{}, []ticket{}
	for step := range 200_000 {
		grow := (step/20_000)%2 == 0
		switch {
		case grow && r.IntN(3) > 0, len(open) == 0:
			f := s.take()
			f.stage = relaying
			open[f.ticket(ofClient)] = f
		default:
			for at, f := range open {
				s.release(f)
				delete(open, at)
				gone = append(gone, at)
				break
			}
			s.trim()
		}
		if s.open != len(open) {
			t.Fatalf("step %d: it says that %d flows are open, want %d", step, s.open, len(open))
		}
		if len(gone) > 0 && s.find(gone[r.IntN(len(gone))]) != nil {
			t.Fatalf("step %d: a flow that has gone is found by its ticket", step)
		}
		for at, f := range open {
			if s.find(at) != f || f.place < firstPlace {
				t.Fatalf("step %d: an open flow is not found by its ticket", step)
			}
			break
		}
	}
}
