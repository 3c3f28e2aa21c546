package splitter

import (
	"strings"
	"testing"
)

func TestStreamPassesOnWhatItsPeersSendInAnyOrderOfEvents(t *testing.T) {
	flows, steps := uint64(30_000), 0
	if testing.Short() {
		flows /= 10
	}
	ends, all := map[act]int{}, tried{}
	for seed := range flows {
		m := newModel(seed)
		steps += m.play()
		ends[m.over]++
		all.add(m.tried)
		if m.err != nil {
			t.Fatalf("seed %d: %v\n%s", seed, m.err, strings.Join(m.trace, "\n"))
		}
	}
	t.Logf("%d steps, ends %v, tried %v", steps, ends, all)
	if least := leastSteps * int(flows) / 30_000; steps < least {
		t.Errorf("%d steps are fewer than %d", steps, least)
	}
	if !testing.Short() {
		all.judge(t)
	}
	for _, end := range []act{actNone, actFinish, actAbort} {
		if ends[end] < int(flows)/100 {
			t.Errorf("%d of %d flows end with %d: the model does not try that", ends[end], flows, end)
		}
	}
}

func TestStreamSplicesWhatStreamsAndCopiesWhatIsCalm(t *testing.T) {
	s := opened(false)
	take := func(from side, o outcome) act {
		t.Helper()
		s = s.hear(from, news{readable: true})
		_, a := s.next()
		s = s.after(from, a, o)
		for s.ways[from].held > 0 {
			_, give := s.next()
			s = s.after(from, give, outcome{n: int(s.ways[from].held)})
		}
		return a
	}
	full := outcome{n: bufferSize, full: true}
	little := outcome{n: 100}
	for i, step := range []struct {
		o    outcome
		want act
	}{
		{full, actRecv},
		{little, actRecv},
		{full, actRecv},
		{full, actRecv}, // two in a row
		{full, actDraw},
		{little, actDraw},
		{little, actDraw},
		{full, actDraw},
		{little, actDraw},
		{little, actDraw},
		{little, actDraw}, // three in a row
		{little, actRecv},
		{full, actRecv},
	} {
		if got := take(client, step.o); got != step.want {
			t.Errorf("read %d is act %d, want %d", i, got, step.want)
		}
	}
	if s.ways[backend].splice {
		t.Error("the other direction splices too")
	}
}

// A FIN that comes with the last bytes is in the same news, and no other will
// follow.
func TestStreamReadsOnAfterFewBytesWhenAnEndIsAnnounced(t *testing.T) {
	for _, ending := range []bool{false, true} {
		s := opened(true).hear(client, news{readable: true, ending: ending})
		s = s.after(client, actRecv, outcome{n: 5})
		s = s.after(client, actSend, outcome{n: 5})
		want := actNone
		if ending {
			want = actRecv
		}
		if _, got := s.next(); got != want {
			t.Errorf("with the end announced: %v: act %d, want %d", ending, got, want)
		}
	}
}

func TestAStreamThatFoundNoPipeSplicesLaterIfItStillStreams(t *testing.T) {
	s := opened(false).hear(client, news{readable: true})
	act, reads := actNone, 0
	full := func() {
		s = s.hear(client, news{readable: true})
		_, act = s.next()
		s = s.after(client, act, outcome{n: bufferSize, full: true})
		_, give := s.next()
		s = s.after(client, give, outcome{n: bufferSize})
	}
	for range streaming {
		full()
	}
	if _, act = s.next(); act != actDraw {
		s = s.hear(client, news{readable: true})
		_, act = s.next()
	}
	s = s.after(client, act, outcome{kind: unable})
	for act = actRecv; act == actRecv && reads <= 2*scarce; reads++ {
		full()
	}
	if act != actDraw || reads-1 != scarce {
		t.Errorf("after %d reads it does act %d, want act %d after %d", reads-1, act, actDraw, scarce)
	}
	if s.ways[client].lacking {
		t.Error("it has a pipe now, and lacks one all the same")
	}
}

func TestASideThatSendsWithoutEndKeepsTheOtherWaitingForOneRead(t *testing.T) {
	for _, greedy := range []side{client, backend} {
		for _, copyOnly := range []bool{false, true} {
			s := opened(copyOnly).hear(greedy, news{readable: true}).hear(greedy.other(), news{readable: true})
			taken := [2]int{}
			for range 40 {
				from, a := s.next()
				o := outcome{n: bufferSize, full: true}
				if a == actRecv || a == actDraw {
					taken[from]++
				}
				s = s.after(from, a, o)
			}
			if taken[client] != taken[backend] {
				t.Errorf("copy only %v: of %v reads the two sides had not half each", copyOnly, taken)
			}
		}
	}
}
