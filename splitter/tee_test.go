package splitter

import (
	"bytes"
	"errors"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/splitd/splitd/internal/nettest"
	"github.com/splitd/splitd/traffic"
)

// The oracle of a tap is trivial, too: what it was given is what the ends have
// exchanged. Programs of a length that 3 divides have a tap that refuses a chunk,
// of another one that panics: then it was given the first chunks and the flow is
// whole all the same.
func FuzzATapIsGivenWhatTheEndsExchange(f *testing.F) {
	addPrograms(f, 8)
	record := map[int]*recorder{0: {refuseAt: 2}, 1: {panicAt: 3}, 2: {}}
	connects := map[int]func(testing.TB) pair{}
	for kind, tee := range record {
		_, connects[kind] = startTeed(f, tee, traffic.Whole, nil)
	}
	f.Fuzz(func(t *testing.T, program []byte) {
		kind := len(program) % 3
		p := connects[kind](t)
		tape := record[kind].only(t)
		client, server := newEnd(p.client, 1), newEnd(p.server, 2)
		resetter := play(t, decode(program), client, server, uint64(len(program)))
		client.takeAll()
		server.takeAll()
		complete := kind == 2
		if complete {
			tape.end(t)
		}
		tape.read(func() {
			if tape.wrong != nil || tape.after > 0 {
				t.Errorf("%v, %d calls after the last; the chunks were %v", tape.wrong, tape.after, tape.story)
			}
			for from, d := range []struct{ from, to *end }{{client, server}, {server, client}} {
				given := tape.bytes[from]
				if !bytes.HasPrefix(d.from.sent, given) {
					t.Errorf("side %d: the %d bytes that the tap was given are not the first that were sent", from, len(given))
				}
				if complete && !bytes.HasPrefix(given, d.to.got) {
					t.Errorf("side %d: the tap was given %d bytes, the other has read %d", from, len(given), len(d.to.got))
				}
				if resetter == nil && (!bytes.Equal(d.to.got, d.from.sent) || !errors.Is(d.to.failed, io.EOF)) {
					t.Errorf("side %d: the other has read %d bytes and then %v, want the %d that were sent and a FIN", from, len(d.to.got), d.to.failed, len(d.from.sent))
				}
				if resetter == nil && complete && (len(given) != len(d.from.sent) || tape.fins[from] != 1) {
					t.Errorf("side %d: the tap was given %d bytes and %d FINs, want %d and 1", from, len(given), tape.fins[from], len(d.from.sent))
				}
			}
			if complete && (tape.ended.End == "closed") != (resetter == nil) && resetter != nil && !resetter.fin {
				t.Errorf("the end is %q", tape.ended.End)
			}
		})
	})
}

func TestATeeIsToldOfAFlowWhenThePrimaryHasAnsweredAndOfItsChunksInTheirOrder(t *testing.T) {
	for family, ip := range families() {
		t.Run(family, func(t *testing.T) {
			tee := &recorder{}
			server := startServer(t, ip, echo)
			service := netip.AddrPortFrom(ip, freePort())
			split := newSplit("mx", service, server, map[string]candidate{"new": {closedPort(ip), 1}})
			split.Generation, split.Sample = 7, traffic.Whole
			begin := time.Now()
			const workers = 2
			startRelay(t, Options{Workers: workers, Tee: tee, Draw: func() traffic.Weight { return 1 }}, split)
			c := dial(t, service)
			tape := tee.only(t)
			if n := tape.flow.Worker; n < 0 || n >= workers {
				t.Errorf("thread %d has the flow, there are %d", n, workers)
			}
			want := Opened{
				BackendKey: traffic.BackendKey{Split: "mx", Backend: "old"}, Generation: 7,
				Client: c.LocalAddr().(*net.TCPAddr).AddrPort(), Service: service, Server: server, At: tape.flow.At, Worker: tape.flow.Worker,
			}
			if diff := cmp.Diff(want, tape.flow, cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })); diff != "" {
				t.Errorf("the flow (-want +got):\n%s", diff)
			}
			if at := tape.flow.At; at.Before(begin) || at.After(time.Now()) {
				t.Errorf("it begins at %v, dialled at %v", at, begin)
			}
			exchange(t, c, "hello")
			exchange(t, c, "and more")
			if err := c.CloseWrite(); err != nil {
				t.Fatal(err)
			}
			readAll(t, c)
			end := tape.end(t)
			if diff := cmp.Diff([]string{"0:5", "1:5", "0:8", "1:8", "0:FIN", "1:FIN"}, tape.story); diff != "" {
				t.Errorf("the chunks (-want +got):\n%s", diff)
			}
			if string(tape.bytes[client]) != "helloand more" || !bytes.Equal(tape.bytes[client], tape.bytes[backend]) {
				t.Errorf("the bytes are %q and %q", tape.bytes[client], tape.bytes[backend])
			}
			if end.End != "closed" || end.By != "client" || end.Code != "--" || end.At.Before(tape.last) {
				t.Errorf("the end is %+v", end)
			}
		})
	}
}

func TestATapIsToldHowItsFlowEnds(t *testing.T) {
	key := traffic.BackendKey{Split: "mx", Backend: "old"}
	for name, test := range map[string]struct {
		end  func(*testRelay, pair)
		want Ended
	}{
		"reset by the client":  {func(_ *testRelay, p pair) { abortConn(p.client) }, Ended{End: "reset", By: "client", Code: "CD"}},
		"reset by the primary": {func(_ *testRelay, p pair) { abortConn(p.server) }, Ended{End: "reset", By: "backend", Code: "SD"}},
		"reset after a FIN": {func(_ *testRelay, p pair) {
			_ = p.server.CloseWrite()
			_, _ = io.Copy(io.Discard, p.client)
			abortConn(p.client)
		}, Ended{End: "reset", By: "client", Code: "CL"}},
		"closed by the primary": {func(_ *testRelay, p pair) {
			_ = p.server.CloseWrite()
			_, _ = io.Copy(io.Discard, p.client)
			_ = p.client.CloseWrite()
		}, Ended{End: "closed", By: "backend", Code: "--"}},
		"killed": {func(r *testRelay, _ pair) { r.End(r.OpenFlows(key)) }, Ended{End: "killed", By: "splitd", Code: "KD"}},
	} {
		t.Run(name, func(t *testing.T) {
			tee := &recorder{}
			r, connect := startTeed(t, tee, traffic.Whole, nil)
			p := connect(t)
			if err := talk(p.client, p.server); err != nil {
				t.Fatal(err)
			}
			test.end(r, p)
			got := tee.only(t).end(t)
			got.At = time.Time{}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("the end (-want +got):\n%s", diff)
			}
		})
	}
}

func TestFlowsThatTheDrawDoesNotLeaveToThePrimaryAreNotSampled(t *testing.T) {
	ip := families()["IPv4"]
	for name, test := range map[string]struct {
		change func(*traffic.Split, netip.AddrPort)
		served bool
	}{
		"a candidate's":                {func(s *traffic.Split, at netip.AddrPort) { s.Candidates[0].Addresses[0].Port = at.Port() }, true},
		"one that falls back":          {func(*traffic.Split, netip.AddrPort) {}, true},
		"one of a closed candidate":    {func(s *traffic.Split, _ netip.AddrPort) { s.Candidates[0].Closed = true }, true},
		"one that the primary refuses": {func(s *traffic.Split, _ netip.AddrPort) { s.Candidates = nil; s.Primary.Addresses[0].Port = 1 }, false},
		"with a sample of 0":           {func(s *traffic.Split, _ netip.AddrPort) { s.Candidates = nil; s.Sample = 0 }, true},
		"of a group that always goes on": {func(s *traffic.Split, at netip.AddrPort) {
			s.Candidates[0].Weight, s.Candidates[0].Addresses[0].Port = 0, at.Port()
			s.Candidates[0].Clients.Always = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
		}, true},
	} {
		t.Run(name, func(t *testing.T) {
			tee := &recorder{}
			server := startServer(t, ip, greeter('o'))
			service := netip.AddrPortFrom(ip, freePort())
			split := newSplit("mx", service, server, map[string]candidate{"new": {closedPort(ip), traffic.Whole}})
			split.Sample = traffic.Whole
			test.change(&split, server)
			r := startRelay(t, Options{Tee: tee}, split)
			if _, err := greeting(service); (err == nil) != test.served {
				t.Errorf("served: %v", err)
			}
			nettest.Eventually(t, "the flow is over", func() bool { return r.openFlows() == 0 })
			if n := tee.told(); n != 0 {
				t.Errorf("the tee was told of %d flows", n)
			}
		})
	}
}

func TestASampleIsInForceForTheNextFlowAndLeavesOpenOnesAlone(t *testing.T) {
	tee := &recorder{}
	ip := families()["IPv4"]
	service := netip.AddrPortFrom(ip, freePort())
	split := newSplit("mx", service, startServer(t, ip, echo), nil)
	r := startRelay(t, Options{Tee: tee}, split)
	set := func(sample traffic.Weight) {
		split.Sample = sample
		if err := r.SetWeights(split); err != nil {
			t.Fatal(err)
		}
	}
	speak := func() *net.TCPConn {
		c := dial(t, service)
		exchange(t, c, "hello")
		return c
	}
	speak()
	set(traffic.Whole)
	teed := speak()
	set(0)
	speak()
	if got := tee.clients(); len(got) != 1 || got[0] != teed.LocalAddr().(*net.TCPAddr).AddrPort() {
		t.Fatalf("the tee was told of %v, want %v", got, teed.LocalAddr())
	}
	exchange(t, teed, "on and on")
	tee.only(t).length(t, backend, len("helloon and on"))
}

func TestARefusedChunkEndsTheTeeAndNotTheFlow(t *testing.T) {
	const refused = 3
	tee, calls := &recorder{refuseAt: refused}, newCallEdge()
	r, connect := startTeed(t, tee, traffic.Whole, calls)
	p := connect(t)
	for range refused {
		if err := talk(p.client, p.server); err != nil {
			t.Fatal(err)
		}
	}
	// What streams now is spliced as if there had been no tee.
	data := randomBytes(3, 8<<20)
	go func() {
		_, _ = p.server.Write(data)
		_ = p.server.CloseWrite()
	}()
	if got := readAll(t, p.client); !bytes.Equal(got, data) {
		t.Errorf("the client has read %d bytes, want the %d that were sent", len(got), len(data))
	}
	_ = p.client.CloseWrite()
	nettest.Eventually(t, "the flow is over", func() bool { return r.openFlows() == 0 })
	if calls.count("draw") == 0 {
		t.Error("a stream is not spliced after its tee has ended")
	}
	tape := tee.only(t)
	if tape.chunks != refused || tape.after != 0 || tape.ended != nil {
		t.Errorf("the tap was given %d chunks and the end %v, want %d and none", tape.chunks, tape.ended, refused)
	}
	want := TeeCounts{Sampled: 1, Tapped: 1, Refused: 1}
	if diff := cmp.Diff(want, r.TeeCounts()["mx"]); diff != "" {
		t.Errorf("counts (-want +got):\n%s", diff)
	}
}

func TestAFlowIsNeverSplicedWhileItsTeeLives(t *testing.T) {
	tee, calls := &recorder{}, newCallEdge()
	_, connect := startTeed(t, tee, traffic.Whole, calls)
	p := connect(t)
	data := randomBytes(4, 8<<20)
	go func() {
		_, _ = p.client.Write(data)
		_ = p.client.CloseWrite()
	}()
	if got := readAll(t, p.server); !bytes.Equal(got, data) {
		t.Errorf("the server has read %d bytes, want the %d that were sent", len(got), len(data))
	}
	tape := tee.only(t)
	tape.length(t, client, len(data))
	if !bytes.Equal(tape.bytes[client], data) {
		t.Error("the tap was given other bytes than the client sent")
	}
	if n := calls.count("draw") + calls.count("pour") + calls.count("pipe"); n != 0 {
		t.Errorf("%d calls for splices", n)
	}
}

func TestAPanicOfATeeCostsTheTeeAlone(t *testing.T) {
	for name, test := range map[string]struct {
		panicAt int
		want    TeeCounts
	}{
		"in Open":              {-1, TeeCounts{Sampled: 1, Panicked: 1}},
		"at the first chunk":   {1, TeeCounts{Sampled: 1, Tapped: 1, Panicked: 1}},
		"at the fourth":        {4, TeeCounts{Sampled: 1, Tapped: 1, Panicked: 1}},
		"at the client's FIN":  {5, TeeCounts{Sampled: 1, Tapped: 1, Panicked: 1}},
		"at the last FIN":      {6, TeeCounts{Sampled: 1, Tapped: 1, Panicked: 1}},
		"at the end of a flow": {-2, TeeCounts{Sampled: 1, Tapped: 1, Panicked: 1}},
	} {
		t.Run(name, func(t *testing.T) {
			tee := &recorder{panicAt: test.panicAt}
			r, connect := startTeed(t, tee, traffic.Whole, nil)
			p := connect(t)
			for range 2 {
				if err := talk(p.client, p.server); err != nil {
					t.Fatal(err)
				}
			}
			_ = p.client.CloseWrite()
			readAll(t, p.server)
			_ = p.server.CloseWrite()
			readAll(t, p.client)
			nettest.Eventually(t, "the flow is over", func() bool { return r.openFlows() == 0 })
			if diff := cmp.Diff(test.want, r.TeeCounts()["mx"]); diff != "" {
				t.Errorf("counts (-want +got):\n%s", diff)
			}
			if f := r.Faults(); f.Panics != 0 {
				t.Errorf("%d flows were cut off", f.Panics)
			}
			nettest.Eventually(t, "the log tells of it", func() bool { return strings.Contains(r.logs.String(), `who="a tee"`) })
		})
	}
}

func TestATeeMayDeclineAFlow(t *testing.T) {
	tee := &recorder{declines: true}
	r, connect := startTeed(t, tee, traffic.Whole, nil)
	p := connect(t)
	if err := talk(p.client, p.server); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(TeeCounts{Sampled: 1, Declined: 1}, r.TeeCounts()["mx"]); diff != "" {
		t.Errorf("counts (-want +got):\n%s", diff)
	}
}

// A chunk costs its own flow nothing that its receiver would notice: it is handed
// on when the receiver has it.
func TestAChunkIsWithItsReceiverBeforeTheTapIsGivenIt(t *testing.T) {
	given, goOn := make(chan struct{}), make(chan struct{})
	tee := &recorder{onChunk: func(Chunk) {
		given <- struct{}{}
		<-goOn
	}}
	_, connect := startTeed(t, tee, traffic.Whole, nil)
	p := connect(t)
	if _, err := p.client.Write([]byte("hi")); err != nil {
		t.Fatal(err)
	}
	<-given
	var b [2]byte
	if _, err := io.ReadFull(p.server, b[:]); err != nil {
		t.Errorf("while the tap has the chunk the server reads %v", err)
	}
	tee.onChunk = nil // the worker is held up
	close(goOn)
}

// The client reads nothing until the relay holds what it could not get rid of.
func TestBytesThatAReceiverTakesInPiecesAreGivenOnce(t *testing.T) {
	tee := &recorder{}
	r, connect := startTeed(t, tee, traffic.Whole, nil)
	p := connect(t)
	data := randomBytes(6, 32<<20)
	go func() {
		_, _ = p.server.Write(data)
		_ = p.server.CloseWrite()
	}()
	nettest.Eventually(t, "the relay holds a rest", func() bool {
		held := false
		r.inspect(func(w *worker) {
			w.flows.each(func(f *flow) { held = held || f.rests[backend].bytes != nil })
		})
		return held
	})
	if got := readAll(t, p.client); !bytes.Equal(got, data) {
		t.Errorf("the client has read %d bytes, want the %d that were sent", len(got), len(data))
	}
	_ = p.client.CloseWrite()
	tape := tee.only(t)
	tape.end(t)
	if !bytes.Equal(tape.bytes[backend], data) {
		t.Errorf("the tap was given %d bytes, want the %d that were sent", len(tape.bytes[backend]), len(data))
	}
}

func TestATapIsOfferedChunksWithoutAllocation(t *testing.T) {
	w := &worker{relay: &Relay{}}
	f := &flow{choice: &choice{standing: &standing{gate: &gate{}}}, tap: taker{}}
	chunk := make([]byte, bufferSize)
	if n := testing.AllocsPerRun(1000, func() { w.offerBytes(f, client, chunk) }); n != 0 {
		t.Errorf("%v allocations a chunk, want none", n)
	}
}

// taker takes everything and keeps nothing.
type taker struct{}

func (taker) Open(Opened) Tap { return taker{} }
func (taker) Take(Chunk) bool { return true }
func (taker) End(Ended)       {}
