package splitter

import (
	"bytes"
	"io"
	"net"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/splitd/splitd/internal/nettest"
	"github.com/splitd/splitd/traffic"
)

// sampledBy are those clients of a split that are sampled, among those of the
// primary, and who they all are.
func sampledBy(t *testing.T, s traffic.Split, clients []netip.Addr, draw func() traffic.Weight) (sampled, primarys map[netip.Addr]bool) {
	t.Helper()
	sampled, primarys = map[netip.Addr]bool{}, map[netip.Addr]bool{}
	c := choiceOf(t, s, s.Service.Addresses[0])
	for _, client := range clients {
		p, why := c.pick(client, draw)
		if p != &c.primary {
			continue
		}
		primarys[client] = true
		if c.samples(client, why, draw) {
			sampled[client] = true
		}
	}
	return sampled, primarys
}

func TestASampleWithAffinityIsOfNetworksAndRaisedItOnlyAdds(t *testing.T) {
	s := drawnSplit()
	clients := clientsOf(s, false, 20_000)
	forbidden := func() traffic.Weight { t.Error("with affinity something is drawn"); return 0 }
	last := map[netip.Addr]bool{}
	for _, sample := range []traffic.Weight{0, 1_000, 50_000, 300_000, 999_999, traffic.Whole} {
		s.Sample = sample
		sampled, primarys := sampledBy(t, s, clients, forbidden)
		for client := range last {
			if !sampled[client] {
				t.Fatalf("at %s %s is sampled no more", sample, client)
			}
		}
		for client := range sampled {
			if got := s.SampleLots().Number(client); got >= sample {
				t.Fatalf("at %s %s is sampled with the number %s", sample, client, got)
			}
		}
		drawn := 0 // by lots: the backends themselves are the primary's without
		for client := range primarys {
			if s.SampleLots().Number(client) < sample && s.Where(client).Why == traffic.WhyAffinity && s.Where(client).But == "" {
				drawn++
			}
		}
		if len(sampled) != drawn {
			t.Errorf("at %s %d clients are sampled, want %d", sample, len(sampled), drawn)
		}
		last = sampled
	}
	if len(last) == 0 {
		t.Error("nobody is sampled at 100%")
	}
}

// Who has drawn a low number for the weights has not drawn one for the sample: a
// candidate's share would else eat the sample's.
func TestTheDrawOfTheSampleTellsNothingOfThatOfTheWeights(t *testing.T) {
	for _, affinity := range []traffic.Affinity{traffic.AffinityNone, traffic.AffinitySource} {
		s := drawnSplit()
		s.Affinity, s.AffinityPrefix = affinity, traffic.AffinityPrefix{IPv4: 32, IPv6: 128}
		for i := range s.Candidates {
			s.Candidates[i].Clients = traffic.Clients{}
		}
		s.Sample = 200_000
		var clients []netip.Addr
		for i := range 20_000 {
			clients = append(clients, netip.AddrFrom4([4]byte{198, 18, byte(i >> 8), byte(i)}))
		}
		sampled, primarys := sampledBy(t, s, clients, seededDraw(4))
		if low, high := binomialInterval(len(primarys), s.Sample); len(sampled) < low || len(sampled) > high {
			t.Errorf("affinity %s: %d of %d are sampled, want %d to %d", affinity, len(sampled), len(primarys), low, high)
		}
	}
}

func TestSharesOfRealFlowsThatATeeIsToldOfLieWithinTheBinomialInterval(t *testing.T) {
	const flows = 2000
	ip := families()["IPv4"]
	tee := &recorder{}
	service := netip.AddrPortFrom(ip, freePort())
	split := newSplit("mx", service, startServer(t, ip, greeter('o')), map[string]candidate{"new": {startServer(t, ip, greeter('n')), traffic.Whole / 2}})
	split.Sample = traffic.Whole / 4
	r := startRelay(t, Options{Tee: tee, Draw: seededDraw(6)}, split)
	served := dialMany(t, service, flows, 4)
	nettest.Eventually(t, "all flows are over", func() bool { return r.openFlows() == 0 })
	if low, high := binomialInterval(served['o'], split.Sample); tee.told() < low || tee.told() > high {
		t.Errorf("the tee was told of %d flows of the primary's %d, want %d to %d", tee.told(), served['o'], low, high)
	}
	if got := r.TeeCounts()["mx"]; got != (TeeCounts{Sampled: uint64(tee.told()), Tapped: uint64(tee.told())}) {
		t.Errorf("counts are %+v, the tee was told of %d", got, tee.told())
	}
}

// The header is the relay's own word: neither side has sent it.
func TestATapIsGivenNoPROXYHeader(t *testing.T) {
	for _, version := range []traffic.SendProxy{traffic.SendProxyV1, traffic.SendProxyV2} {
		tee := &recorder{}
		_, connect := startPairsOf(t, families()["IPv4"], Options{Tee: tee}, func(s *traffic.Split) {
			s.Sample, s.Proxy.SendProxy = traffic.Whole, version
		})
		p := connect(t)
		if _, err := p.client.Write([]byte("the client's own words")); err != nil {
			t.Fatal(err)
		}
		_ = p.client.CloseWrite()
		if got := readAll(t, p.server); !bytes.HasSuffix(got, []byte("the client's own words")) || len(got) == len("the client's own words") {
			t.Errorf("%s: the server reads %q", version, got)
		}
		_ = p.server.CloseWrite()
		readAll(t, p.client)
		tape := tee.only(t)
		tape.end(t)
		if got := string(tape.bytes[client]); got != "the client's own words" {
			t.Errorf("%s: the tap was given %q", version, got)
		}
	}
}

// script plays flows of all kinds one after the other, each step when the one
// before has arrived, so that the kernel is asked the same each time.
func script(t *testing.T, r *testRelay, connect func(testing.TB) pair) {
	t.Helper()
	over := func() { nettest.Eventually(t, "the flow is over", func() bool { return r.openFlows() == 0 }) }
	for range 20 { // closed, by one and by the other
		for _, byServer := range []bool{false, true} {
			p := connect(t)
			for range 3 {
				if err := talk(p.client, p.server); err != nil {
					t.Fatal(err)
				}
			}
			first, second := p.client, p.server
			if byServer {
				first, second = second, first
			}
			for _, ends := range [][2]*net.TCPConn{{first, second}, {second, first}} {
				_ = ends[0].CloseWrite()
				readAll(t, ends[1])
			}
			over()
		}
	}
	for _, byServer := range []bool{false, true} { // reset
		p := connect(t)
		if err := talk(p.client, p.server); err != nil {
			t.Fatal(err)
		}
		from, to := p.client, p.server
		if byServer {
			from, to = to, from
		}
		abortConn(from)
		awaitReset(t, to)
		over()
	}
}

func TestFlowsWithoutATapAskTheKernelWhatTheyAskWithoutATee(t *testing.T) {
	asked := func(tee Tee, sample traffic.Weight) map[string]int {
		calls := newCallEdge()
		r, connect := startTeed(t, tee, sample, calls)
		script(t, r, connect)
		return calls.all()
	}
	want := asked(nil, 0)
	if want["recv"] == 0 || want["send"] == 0 || want["shut"] == 0 || want["connect"] != 42 || want["reset"] == 0 {
		t.Fatalf("the script asks the kernel %v", want)
	}
	for name, got := range map[string]map[string]int{
		"a sample without a tee": asked(nil, traffic.Whole),
		"nothing is sampled":     asked(&recorder{}, 0),
		"none has been drawn":    asked(&recorder{}, 1), // the seed's first numbers are higher
		"all are declined":       asked(&recorder{declines: true}, traffic.Whole),
		"taps change nothing":    asked(&recorder{}, traffic.Whole), // of what is not spliced
	} {
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: calls (-without a tee +with it):\n%s", name, diff)
		}
	}
}

func TestStreamsWithoutATapAreSplicedAsWithoutATee(t *testing.T) {
	data := randomBytes(9, 32<<20)
	for name, test := range map[string]struct {
		tee    Tee
		sample traffic.Weight
	}{
		"no tee":              {nil, 0},
		"nothing is sampled":  {&recorder{}, 0},
		"none has been drawn": {&recorder{}, 1},
		"all are declined":    {&recorder{declines: true}, traffic.Whole},
	} {
		t.Run(name, func(t *testing.T) {
			counting := &countingEdge{}
			_, connect := startTeed(t, test.tee, test.sample, counting)
			p := connect(t)
			go func() {
				_, _ = p.server.Write(data)
				_ = p.server.CloseWrite()
			}()
			if got := readAll(t, p.client); !bytes.Equal(got, data) {
				t.Fatalf("the client has read %d bytes, want the %d that were sent", len(got), len(data))
			}
			if spliced := counting.poured.Load(); spliced < int64(len(data))*9/10 {
				t.Errorf("%d bytes of %d were spliced", spliced, len(data))
			}
			if calls := counting.calls.Load(); calls > int64(len(data)/(16<<10)) {
				t.Errorf("%d calls for %d MiB", calls, len(data)>>20)
			}
		})
	}
}

// benchTee is what a relay may have to do for a tee.
type benchTee struct {
	name   string
	tee    Tee
	sample traffic.Weight
}

func benchTees() []benchTee {
	return []benchTee{{"none", nil, 0}, {"unsampled", taker{}, 0}, {"sampled", taker{}, traffic.Whole}, {"carried", &carriers{}, traffic.Whole}}
}

// reportCPU reports the CPU that this process has used for an operation since it
// was called: peers and relay together, whoever else uses the machine.
func reportCPU(b *testing.B) (report func()) {
	b.Helper()
	used := func() int64 {
		var u unix.Rusage
		if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
			b.Fatal(err)
		}
		return u.Utime.Nano() + u.Stime.Nano()
	}
	before := used()
	return func() { b.ReportMetric(float64(used()-before)/float64(b.N), "cpu-ns/op") }
}

func BenchmarkRelayedExchange(b *testing.B) {
	for _, test := range benchTees() {
		b.Run("tee="+test.name, func(b *testing.B) {
			_, connect := startTeed(b, test.tee, test.sample, nil)
			p := connect(b)
			b.ReportAllocs()
			report := reportCPU(b)
			for b.Loop() {
				if err := talk(p.client, p.server); err != nil {
					b.Fatal(err)
				}
			}
			report()
		})
	}
}

func BenchmarkRelayedStream(b *testing.B) {
	const piece = 1 << 20
	for _, test := range benchTees() {
		b.Run("tee="+test.name, func(b *testing.B) {
			_, connect := startTeed(b, test.tee, test.sample, nil)
			p := connect(b)
			data := randomBytes(1, piece)
			go func() {
				for {
					if _, err := p.server.Write(data); err != nil {
						return
					}
				}
			}()
			got := make([]byte, piece)
			b.SetBytes(piece)
			b.ReportAllocs()
			report := reportCPU(b)
			for b.Loop() {
				if _, err := io.ReadFull(p.client, got); err != nil {
					b.Fatal(err)
				}
			}
			report()
		})
	}
}
