package splitter

const (
	// A slab grows by so many places.
	slabStep = 128
	// slabKept is how many blocks of them it keeps whatever is free.
	slabKept = 4
)

// slab holds a worker's flows. A flow stays where it is while it is open, and
// its place is taken again afterwards.
type slab struct {
	blocks []*[slabStep]flow
	taken  []int32 // of each block's places
	free   []int32
	open   int
	turn   int32 // of the newest flow
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
	if int(t.place) >= len(s.blocks)*slabStep {
		return nil // with its block
	}
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
	s.taken[place/slabStep]++
	s.turn = (s.turn + 1) % turns
	f := s.at(place)
	f.turn = s.turn
	return f
}

func (s *slab) grow() {
	begin := int32(len(s.blocks) * slabStep)
	block := new([slabStep]flow)
	s.blocks, s.taken = append(s.blocks, block), append(s.taken, 0)
	for i := range int32(slabStep) {
		block[i].place = begin + i
	}
	for place := begin + slabStep - 1; place >= max(begin, firstPlace); place-- {
		s.free = append(s.free, place)
	}
}

// release gives the place of a flow back. Tickets of it find nothing any more.
func (s *slab) release(f *flow) {
	*f = flow{place: f.place}
	s.free = append(s.free, f.place)
	s.taken[f.place/slabStep]--
	s.open--
}

// trim gives memory back after a storm: blocks at the end that are free, when
// they are a quarter of all and most places are free. Nobody may hold a place
// that is not its own flow's.
func (s *slab) trim() {
	if len(s.blocks) <= slabKept || s.open > len(s.blocks)*slabStep/4 {
		return
	}
	n := len(s.blocks)
	for n > slabKept && s.taken[n-1] == 0 {
		n--
	}
	if n > len(s.blocks)*3/4 {
		return
	}
	clear(s.blocks[n:])
	s.blocks, s.taken = s.blocks[:n], s.taken[:n]
	free := make([]int32, 0, n*slabStep)
	for _, place := range s.free {
		if int(place) < n*slabStep {
			free = append(free, place)
		}
	}
	s.free = free
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
