package splitter

// A slab grows by so many places.
const slabStep = 128

// slab holds a worker's flows. A flow stays where it is while it is open, and
// its place is taken again afterwards.
type slab struct {
	blocks []*[slabStep]flow
	free   []int32
	open   int
}

// firstPlace is that of the first flow: the worker itself has one before it in
// the wheel.
const firstPlace int32 = 1

// at returns the flow of a place.
func (s *slab) at(place int32) *flow {
	return &s.blocks[place/slabStep][place%slabStep]
}

// find returns the open flow that a ticket concerns, nil if it is gone.
func (s *slab) find(t ticket) *flow {
	f := s.at(t.place)
	if f.turn != t.turn || f.stage == vacant {
		return nil
	}
	return f
}

// take opens a flow.
func (s *slab) take() *flow {
	if len(s.free) == 0 {
		s.grow()
	}
	place := s.free[len(s.free)-1]
	s.free = s.free[:len(s.free)-1]
	s.open++
	return s.at(place)
}

func (s *slab) grow() {
	begin := int32(len(s.blocks) * slabStep)
	block := new([slabStep]flow)
	s.blocks = append(s.blocks, block)
	for i := range int32(slabStep) {
		block[i].place = begin + i
	}
	for place := begin + slabStep - 1; place >= max(begin, firstPlace); place-- {
		s.free = append(s.free, place)
	}
}

// release gives the place of a flow back. Tickets of it find nothing any more.
func (s *slab) release(f *flow) {
	*f = flow{place: f.place, turn: (f.turn + 1) % turns}
	s.free = append(s.free, f.place)
	s.open--
}

// each calls visit with every open flow, which it may release.
func (s *slab) each(visit func(*flow)) { s.eachOf(0, len(s.blocks), visit) }

// eachOf is each of the flows of the blocks from first to before last.
func (s *slab) eachOf(first, last int, visit func(*flow)) {
	for _, block := range s.blocks[first:last] {
		for i := range block {
			if block[i].stage != vacant {
				visit(&block[i])
			}
		}
	}
}
