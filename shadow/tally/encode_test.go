package tally_test

import (
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/splitd/splitd/shadow"
	"github.com/splitd/splitd/shadow/tally"
)

func bytesOf(t *testing.T, of *tally.Tally) string {
	t.Helper()
	text, err := of.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func readBack(t *testing.T, text string, o tally.Options) *tally.Tally {
	t.Helper()
	got, err := tally.Read([]byte(text), o)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func TestATallyGoesOnAfterARestartAsIfNothingHadBeen(t *testing.T) {
	t.Parallel()
	o := tally.Options{Protocol: "http", Bounds: smallBounds(), WarmUp: 10}
	for seed := range uint64(20) {
		straight, stopped := tally.New(o), tally.New(o)
		a, b := rand.New(rand.NewPCG(seed, 2)), rand.New(rand.NewPCG(seed, 2))
		randomly(a, 200, straight)
		randomly(b, 200, stopped)
		stopped = readBack(t, bytesOf(t, stopped), o)
		randomly(a, 200, straight)
		randomly(b, 200, stopped)
		if diff := cmp.Diff(bytesOf(t, straight), bytesOf(t, stopped)); diff != "" {
			t.Fatalf("seed %d (-straight +stopped):\n%s", seed, diff)
		}
	}
}

func TestWhatIsReadHangsTogether(t *testing.T) {
	t.Parallel()
	good := tally.New(tally.Options{})
	good.Add(compared("RCPT"), []shadow.Difference{differs("code", shadow.Changed, shadow.Decision, "250", "550")}, clock(1))
	text := bytesOf(t, good)
	tests := []struct{ name, from, to, want string }{
		{"no JSON", "{", "", "read tally"},
		{"another version", `"version":1`, `"version":2`, "version 2, and this program knows 1: begin anew with `splitctl report --reset`"},
		{"a sum that is none", `"eligible":1`, `"eligible":2`, "does not add up"},
		{"a negative part", `"eligible":1,"compared":1,"skipped":0`, `"eligible":1,"compared":2,"skipped":-1`, "does not add up"},
		{"endpoints that have others", `"name":"RCPT","compared":1`, `"name":"RCPT","compared":2`, "coverage has 1 and 0"},
		{"a field of nothing", `"endpoint":0,"path"`, `"endpoint":7,"path"`, "endpoint 7, which is none"},
		{"a signature of nothing", `"field":0`, `"field":-1`, "field -1, which is none"},
		{"a combination of nothing", `"signatures":[0]`, `"signatures":[1]`, "signature 1, which is none"},
		{"an empty combination", `"signatures":[0]`, `"signatures":[]`, "0 signatures"},
		{"more differ than there are", `"signatures":[0],"count":1`, `"signatures":[0],"count":9`, "9 exchanges differ, of 1"},
		{"latencies that are none", `"first":{}`, `"first":{"positive":[[2000000000,1]]}`, "bin 2000000000 is none"},
		{"latencies of negative count", `"first":{}`, `"first":{"positive":[[1,-4]]}`, "is none"},
	}
	for _, test := range tests {
		broken := strings.Replace(text, test.from, test.to, 1)
		if broken == text {
			t.Errorf("%s: %q is not in %s", test.name, test.from, text)
		}
		if _, err := tally.Read([]byte(broken), tally.Options{}); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v, want %q", test.name, err, test.want)
		}
	}
}

func TestTheByteOfAReasonIsKeptOverTheDiskAndMerging(t *testing.T) {
	t.Parallel()
	opaque := func(to *tally.Tally, reason string) {
		to.Add(shadow.Exchange{Verdict: shadow.Opaque, Reason: reason}, nil, clock(0))
	}
	at := func(of *tally.Tally) (all []*int64) {
		for _, r := range of.State().Reasons {
			all = append(all, r.FirstAtByte)
		}
		return all
	}
	check := func(what string, of *tally.Tally, want ...*int64) {
		t.Helper()
		if diff := cmp.Diff(want, at(of)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", what, diff)
		}
	}
	counted := tally.New(tally.Options{})
	opaque(counted, "lone LF at byte 0")
	opaque(counted, "TLS")
	stopped := readBack(t, bytesOf(t, counted), tally.Options{})
	opaque(stopped, "lone LF at byte 7")
	check("over the disk", stopped, new(int64(0)), nil)

	other := tally.New(tally.Options{})
	opaque(other, "lone LF at byte 5")
	opaque(other, "lone CR at byte 6")
	stopped.Merge(other)
	check("merged", stopped, new(int64(0)), nil, new(int64(6)))

	old := strings.ReplaceAll(bytesOf(t, counted), `,"first_at_byte":0`, "")
	old = strings.ReplaceAll(old, `,"first_at_byte":null`, "")
	if strings.Contains(old, "first_at_byte") {
		t.Fatalf("this is no state of a program that did not know it: %s", old)
	}
	before := readBack(t, old, tally.Options{})
	check("of an older state", before, nil, nil)
	opaque(before, "lone LF at byte 9")
	check("of an older state, the first that is known", before, new(int64(9)), nil)

	damaged := strings.Replace(bytesOf(t, counted), `"first_at_byte":0`, `"first_at_byte":-4`, 1)
	check("of a damaged state", readBack(t, damaged, tally.Options{}), nil, nil)
}

func TestMergedTalliesCountWhatBothHave(t *testing.T) {
	t.Parallel()
	o := tally.Options{WarmUp: -1}
	for seed := range uint64(20) {
		together, first, second := tally.New(o), tally.New(o), tally.New(o)
		randomly(rand.New(rand.NewPCG(seed, 3)), 200, together)
		randomly(rand.New(rand.NewPCG(seed, 4)), 200, together)
		randomly(rand.New(rand.NewPCG(seed, 3)), 200, first)
		randomly(rand.New(rand.NewPCG(seed, 4)), 200, second)
		before := bytesOf(t, second)
		first.Merge(second)
		if bytesOf(t, second) != before {
			t.Error("Merge changes what it merges")
		}
		a, b := together.State(), first.State()
		a.Samples, b.Samples, a.NextSample, b.NextSample = nil, nil, 0, 0
		for _, s := range []*tally.State{&a, &b} {
			for i := range s.Signatures {
				s.Signatures[i].Samples = nil
			}
		}
		if diff := cmp.Diff(a, b, cmp.AllowUnexported(tally.Sketch{}), cmp.Comparer(func(a, b tally.Sketch) bool { return a.Count() == b.Count() })); diff != "" {
			t.Fatalf("seed %d (-together +merged):\n%s", seed, diff)
		}
	}
}

func TestMergingIsBoundedAndLosesNothing(t *testing.T) {
	t.Parallel()
	small, large := tally.New(tally.Options{Bounds: smallBounds()}), tally.New(tally.Options{})
	randomly(rand.New(rand.NewPCG(1, 1)), 2000, small)
	randomly(rand.New(rand.NewPCG(2, 2)), 2000, large)
	differed := func(s tally.State) (n int64) {
		for _, c := range s.Combinations {
			n += c.Count
		}
		return n
	}
	before := differed(small.State()) + differed(large.State())
	small.Merge(large)
	small.Merge(small)
	s := small.State()
	if !s.Coverage.AddsUp() || differed(s) != 2*before {
		t.Errorf("%d differ after merging, %d before twice; %+v", differed(s), before, s.Coverage)
	}
	if len(s.Endpoints) > 5 || len(s.Samples) > 10 {
		t.Errorf("%d endpoints, %d samples", len(s.Endpoints), len(s.Samples))
	}
	readBack(t, bytesOf(t, small), tally.Options{})
}

func FuzzRead(f *testing.F) {
	empty := tally.New(tally.Options{})
	full := tally.New(tally.Options{Bounds: smallBounds(), WarmUp: -1})
	randomly(rand.New(rand.NewPCG(7, 7)), 60, full)
	for _, seed := range []*tally.Tally{empty, full} {
		text, err := seed.Bytes()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
	}
	f.Add([]byte(`{"version":1,"samples":[{"id":9223372036854775807}]}`))
	f.Add([]byte(`{"version":1,"latency":{"delta":{"total":{"zero":3,"negative":[[-40000,1],[40000,2]]}}}}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		got, err := tally.Read(text, tally.Options{Bounds: smallBounds()})
		if err != nil {
			return
		}
		randomly(rand.New(rand.NewPCG(8, 8)), 30, got)
		got.Merge(got)
		if s := got.State(); !s.Coverage.AddsUp() {
			t.Errorf("%+v does not add up", s.Coverage)
		}
		again, err := got.Bytes()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := tally.Read(again, tally.Options{}); err != nil {
			t.Errorf("what was read is written so that it cannot be read: %v", err)
		}
	})
}

// A reason is as long as that of a TLS handshake that has failed, also after a restart.
func TestWhyThereIsNoReplyIsKeptWhole(t *testing.T) {
	t.Parallel()
	reason := "the TLS handshake fails: " + strings.Repeat("x", 256)
	x := shadow.Exchange{Endpoint: "TLS", Verdict: shadow.CandidateError, Reason: reason}
	counted := tally.New(tally.Options{})
	counted.Add(x, shadow.Differences(x, nil), clock(0))
	s := readBack(t, bytesOf(t, counted), tally.Options{}).State()
	if len(s.Signatures) != 1 || s.Signatures[0].Got != reason || len(s.Reasons) != 1 || s.Reasons[0].Reason != reason {
		t.Errorf("%+v\n%+v", s.Signatures, s.Reasons)
	}
}
