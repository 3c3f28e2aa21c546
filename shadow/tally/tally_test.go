package tally_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/splitd/splitd/shadow"
	"github.com/splitd/splitd/shadow/tally"
)

// clock is when the n-th exchange of a test is.
func clock(n int) time.Time {
	return time.Date(2026, 11, 26, 7, 0, 0, 0, time.UTC).Add(time.Duration(n) * time.Second)
}

func differs(path string, kind shadow.Kind, level shadow.Level, expected, got string) shadow.Difference {
	return shadow.Difference{Path: path, Kind: kind, Level: level, Expected: expected, Got: got, Plain: true}
}

func compared(endpoint string) shadow.Exchange { return shadow.Exchange{Endpoint: endpoint} }

func verdicts() []shadow.Verdict {
	return []shadow.Verdict{
		"", shadow.Skipped, shadow.Opaque, shadow.Truncated, shadow.Dropped, shadow.AfterDivergence,
		shadow.CandidateError, shadow.PrimaryError, shadow.Match, "nonsense",
	}
}

// randomly counts n exchanges of all sorts, with few bounds so that all overflow.
func randomly(random *rand.Rand, n int, t *tally.Tally) {
	for i := range n {
		x := shadow.Exchange{
			Endpoint: fmt.Sprint("endpoint ", random.IntN(9)), Verdict: verdicts()[random.IntN(len(verdicts()))],
			Reason: fmt.Sprint("reason ", string(rune('a'+random.IntN(5)))),
		}
		var found []shadow.Difference
		for range random.IntN(5) {
			d := differs(fmt.Sprint("path ", random.IntN(9)), shadow.Kinds()[random.IntN(6)], shadow.Level(random.IntN(4)), fmt.Sprint(random.IntN(50)), fmt.Sprint(random.IntN(50)))
			if random.IntN(4) == 0 {
				d.Excuse = "ignore *"
			}
			found = append(found, d)
		}
		shadow.SortDifferences(found)
		if random.IntN(5) == 0 {
			t.AddControl(x, found, clock(i))
		} else {
			t.Add(x, found, clock(i))
		}
	}
}

func smallBounds() tally.Bounds {
	return tally.Bounds{Endpoints: 4, Fields: 20, Signatures: 40, Combinations: 60, Samples: 10, SignaturesEach: 5, CombinationsEach: 30, SamplesEach: 2}
}

func TestCoverageAddsUpWhateverComes(t *testing.T) {
	t.Parallel()
	for seed := range uint64(50) {
		random := rand.New(rand.NewPCG(seed, 1))
		counted := tally.New(tally.Options{Bounds: smallBounds()})
		randomly(random, 500, counted)
		s := counted.State()
		if !s.Coverage.AddsUp() {
			t.Fatalf("seed %d: %+v does not add up", seed, s.Coverage)
		}
		var of, unanswered, reasons int64
		for _, e := range s.Endpoints {
			of += e.Compared
			unanswered += e.Unanswered
		}
		for _, r := range s.Reasons {
			reasons += r.Count
		}
		if of != s.Coverage.Compared || unanswered != s.Coverage.CandidateError || reasons != s.Coverage.Eligible-s.Coverage.Compared {
			t.Errorf("seed %d: endpoints have %d and %d, reasons %d, coverage %+v", seed, of, unanswered, reasons, s.Coverage)
		}
	}
}

func TestNoExchangeIsLostWhenABoundIsReached(t *testing.T) {
	t.Parallel()
	counted, bounds := tally.New(tally.Options{Bounds: smallBounds()}), smallBounds()
	const exchanges = 3000
	for i := range exchanges {
		x := compared(fmt.Sprint("endpoint ", i%100))
		counted.Add(x, []shadow.Difference{
			differs(fmt.Sprint("path ", i%70), shadow.Changed, shadow.Semantic, fmt.Sprint(i), "x"),
			differs(fmt.Sprint("path ", i%30), shadow.Missing, shadow.Text, "y", ""),
		}, clock(i))
	}
	s := counted.State()
	var of, differed, fields int64
	for _, e := range s.Endpoints {
		of += e.Compared
	}
	for _, c := range s.Combinations {
		differed += c.Count
	}
	for _, f := range s.Fields {
		fields += f.Differed
	}
	if of != exchanges || differed != exchanges || fields != 2*exchanges {
		t.Errorf("of %d exchanges %d are of endpoints, %d of combinations, and %d differences of fields", exchanges, of, differed, fields)
	}
	// The rests: one endpoint, per endpoint and kind a field, per field a signature.
	kinds := 2
	rests := (bounds.Endpoints + 1) * kinds
	if len(s.Endpoints) > bounds.Endpoints+1 || len(s.Fields) > bounds.Fields+rests || len(s.Samples) > bounds.Samples ||
		len(s.Signatures) > bounds.Signatures+len(s.Fields) || len(s.Combinations) > bounds.Combinations+len(s.Signatures) {
		t.Errorf("%d endpoints, %d fields, %d signatures, %d combinations, %d samples", len(s.Endpoints), len(s.Fields), len(s.Signatures), len(s.Combinations), len(s.Samples))
	}
	if f := s.Folded; f.Endpoints == 0 || f.Fields == 0 || f.Signatures == 0 || f.Combinations == 0 {
		t.Errorf("folded %+v: all should have been", f)
	}
	if last := s.Endpoints[len(s.Endpoints)-1]; last.Name != tally.OtherEndpoints || last.Compared != exchanges*96/100 {
		t.Errorf("the rest of endpoints is %+v", last)
	}
}

func TestOneExchangeWithVeryManyDifferencesIsBounded(t *testing.T) {
	t.Parallel()
	counted := tally.New(tally.Options{})
	var found []shadow.Difference
	for i := range 5000 {
		found = append(found, differs(fmt.Sprint("path ", i), shadow.Changed, shadow.Text, "1", "2"))
	}
	counted.Add(compared("GET /"), found, clock(0))
	s := counted.State()
	if n := len(s.Combinations[0].Signatures); n > 70 {
		t.Errorf("the combination is of %d signatures", n)
	}
	if s.Folded.Fields != 5000-64 {
		t.Errorf("folded %+v", s.Folded)
	}
	for _, f := range s.Fields {
		if f.Differed != 1 {
			t.Errorf("one exchange is %d in %q", f.Differed, f.Path)
		}
	}
}

func TestACombinationKeepsWhatAnExchangeDifferedInTheHeaviestFirst(t *testing.T) {
	t.Parallel()
	counted := tally.New(tally.Options{})
	code := differs("code", shadow.Changed, shadow.Decision, "250", "550")
	text := differs("text", shadow.Changed, shadow.Text, "OK", "no")
	counted.Add(compared("RCPT"), []shadow.Difference{code, text}, clock(1))
	counted.Add(compared("RCPT"), []shadow.Difference{code, text}, clock(5))
	counted.Add(compared("RCPT"), []shadow.Difference{text}, clock(9))
	counted.Add(compared("RCPT"), nil, clock(10))
	want := []tally.Combination{
		{Signatures: []int{0, 1}, Count: 2, First: clock(1), Last: clock(5)},
		{Signatures: []int{1}, Count: 1, First: clock(9), Last: clock(9)},
	}
	if diff := cmp.Diff(want, counted.State().Combinations); diff != "" {
		t.Errorf("combinations (-want +got):\n%s", diff)
	}
}

func TestReasonsAreToldApartByWordsAndNotByNumbers(t *testing.T) {
	t.Parallel()
	counted := tally.New(tally.Options{})
	for i := range 300 {
		counted.Add(shadow.Exchange{Verdict: shadow.Opaque, Reason: fmt.Sprintf("bare LF at byte %d", i)}, nil, clock(i))
	}
	want := []tally.Reason{{Verdict: shadow.Opaque, Reason: "bare LF at byte N", Count: 300, FirstAtByte: new(int64(0))}}
	if diff := cmp.Diff(want, counted.State().Reasons); diff != "" {
		t.Errorf("reasons (-want +got):\n%s", diff)
	}
}

func TestAReasonKeepsTheByteOfTheFirstOfIt(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name    string
		reasons []string
		want    *int64
	}{
		{"the first one's, not the least", []string{"lone LF at byte 117", "lone LF at byte 4"}, new(int64(117))},
		{"a length is none", []string{"client: more than 65536 bytes from byte 900 on do not wait", "client: more than 65536 bytes from byte 30 on do not wait"}, new(int64(900))},
		{"a length behind it", []string{"client: the command at byte 70 is longer than 4096 bytes"}, new(int64(70))},
		{"a word that only ends so", []string{"a megabyte 5, and byte x, at byte 6"}, new(int64(6))},
		{"at the begin", []string{"byte 3 is wrong"}, new(int64(3))},
		{"none", []string{"timed out after 30s"}, nil},
		{"a number that is none", []string{"at byte 99999999999999999999"}, nil},
	}
	for _, test := range tests {
		counted := tally.New(tally.Options{})
		for i, reason := range test.reasons {
			counted.Add(shadow.Exchange{Verdict: shadow.Opaque, Reason: reason}, nil, clock(i))
		}
		all := counted.State().Reasons
		if len(all) != 1 || all[0].Count != int64(len(test.reasons)) {
			t.Errorf("%s: the reasons are %+v, want one", test.name, all)
		}
		if diff := cmp.Diff(test.want, all[0].FirstAtByte); diff != "" {
			t.Errorf("%s: first at byte (-want +got):\n%s", test.name, diff)
		}
	}
	many := tally.New(tally.Options{})
	for i := range 70 {
		many.Add(shadow.Exchange{Verdict: shadow.Opaque, Reason: strings.Repeat("x", i) + " at byte 4"}, nil, clock(i))
	}
	all := many.State().Reasons
	if rest := all[len(all)-1]; rest.Reason != tally.OtherReasons || rest.FirstAtByte != nil {
		t.Errorf("the rest, which is of many reasons, is %+v", rest)
	}
	missed := tally.New(tally.Options{})
	missed.Miss(shadow.Dropped, "the driver failed at byte 12", 3, clock(0))
	if at := missed.State().Reasons[0].FirstAtByte; at == nil || *at != 12 {
		t.Errorf("of what was missed it is %v, want 12", at)
	}
}

func TestARuleThatIsAboutNothingIsKnown(t *testing.T) {
	t.Parallel()
	var rules []shadow.Ignore
	for _, text := range []string{"ignore GET /a | header etag", "shape header date", "ignore header typo"} {
		rule, err := shadow.ParseIgnore(text)
		if err != nil {
			t.Fatal(err)
		}
		rules = append(rules, rule)
	}
	counted := tally.New(tally.Options{Ignore: rules})
	x := compared("GET /b")
	x.Primary.Fields = []shadow.Field{{Path: "header etag", Value: "1"}}
	x.Candidate.Fields = []shadow.Field{{Path: "header date", Value: "2"}}
	counted.Add(x, shadow.Differences(x, rules), clock(0))
	want := []tally.Rule{{Text: rules[0].String()}, {Text: rules[1].String(), Matched: true}, {Text: rules[2].String()}}
	if diff := cmp.Diff(want, counted.State().Rules); diff != "" {
		t.Errorf("rules (-want +got):\n%s", diff)
	}
}

func TestSamplesAreMaskedUnlessTheyAreToBeFull(t *testing.T) {
	t.Parallel()
	x := shadow.Exchange{
		Endpoint: "GET /users/{id}", Request: []shadow.Field{{Path: "target", Value: "/users/alice@example.com"}},
		Primary:   shadow.Reply{Fields: []shadow.Field{{Path: "status", Value: "200", Plain: true}, {Path: "body $.mail", Value: `"alice@example.com"`}}},
		Candidate: shadow.Reply{Fields: []shadow.Field{{Path: "status", Value: "404", Plain: true}, {Path: "body $.error", Value: `"nobody is alice"`}}},
	}
	tests := []struct {
		full bool
		want [3]tally.Value
	}{
		{false, [3]tally.Value{{Path: "target", Value: "<text>"}, {Path: "body $.mail", Value: "<mail>"}, {Path: "body $.error", Value: "<text>"}}},
		{true, [3]tally.Value{{Path: "target", Value: "/users/alice@example.com"}, {Path: "body $.mail", Value: `"alice@example.com"`}, {Path: "body $.error", Value: `"nobody is alice"`}}},
	}
	for _, test := range tests {
		counted := tally.New(tally.Options{Full: test.full})
		counted.Add(x, shadow.Differences(x, nil), clock(0))
		s := counted.State().Samples[0]
		if s.Masked == test.full {
			t.Errorf("full %t: the sample says masked %t", test.full, s.Masked)
		}
		got := [3]tally.Value{s.Request[0], s.Primary[1], s.Candidate[1]}
		if diff := cmp.Diff(test.want, got); diff != "" {
			t.Errorf("full %t (-want +got):\n%s", test.full, diff)
		}
		if diff := cmp.Diff(tally.Value{Path: "status", Value: "404"}, s.Candidate[0]); diff != "" {
			t.Errorf("what is the protocol's (-want +got):\n%s", diff)
		}
		for _, g := range counted.State().Signatures {
			if g.Expected == `"alice@example.com"` || g.Got == `"nobody is alice"` {
				t.Errorf("full %t: signature %+v holds payload", test.full, g)
			}
		}
	}
}

func TestSamplesAreFewAndSmall(t *testing.T) {
	t.Parallel()
	counted := tally.New(tally.Options{Full: true})
	long := make([]byte, 3000)
	for i := range long {
		long[i] = 'a'
	}
	x := compared("GET /")
	for i := range 500 {
		x.Primary.Fields = append(x.Primary.Fields, shadow.Field{Path: fmt.Sprint("p", i), Value: string(long)})
		x.Candidate.Fields = append(x.Candidate.Fields, shadow.Field{Path: fmt.Sprint("p", i), Value: string(long[:i+1])})
	}
	found := shadow.Differences(x, nil)
	for i := range 100 {
		counted.Add(x, found, clock(i))
	}
	s := counted.State()
	if len(s.Samples) != 3 {
		t.Errorf("%d samples of the same", len(s.Samples))
	}
	size := 0
	for _, v := range slices.Concat(s.Samples[0].Request, s.Samples[0].Primary, s.Samples[0].Candidate) {
		size += len(v.Path) + len(v.Value)
	}
	if size > 8<<10 || s.Samples[0].Left == 0 {
		t.Errorf("a sample has %d bytes and leaves %d out", size, s.Samples[0].Left)
	}
}

// The first samples of all are of what is learnt to be noise later.
func TestNoiseTakesNoSampleFromADifference(t *testing.T) {
	t.Parallel()
	const places = 10
	counted := tally.New(tally.Options{Bounds: tally.Bounds{Samples: places}})
	random := func(i int) []shadow.Difference {
		return []shadow.Difference{differs(fmt.Sprintf("body $.ids[%d]", i%places), shadow.Changed, shadow.Semantic, "1", "2")}
	}
	for i := range 1000 {
		counted.Add(compared("GET /"), random(i), clock(i))
	}
	wrong := []shadow.Difference{differs("status", shadow.Changed, shadow.Decision, "200", "500")}
	counted.Add(compared("GET /"), wrong, clock(1000))
	if s := counted.State(); len(s.Samples) != places || len(s.Signatures[places].Samples) != 0 {
		t.Fatalf("before noise is known: %d samples, of the difference %v", len(s.Samples), s.Signatures[places].Samples)
	}
	for i := range 200 {
		counted.AddControl(compared("GET /"), random(i), clock(i))
	}
	for i := range 3000 {
		counted.Add(compared("GET /"), random(i), clock(2000+i))
		if i%100 == 0 {
			counted.Add(compared("GET /"), slices.Concat(wrong, random(i)), clock(2000+i))
		}
	}
	s, kept := counted.State(), make(map[int]bool)
	for _, sample := range s.Samples {
		kept[sample.ID] = true
	}
	if n := len(s.Signatures[places].Samples); n != 3 || len(kept) > places {
		t.Errorf("of the difference there are %d samples, want 3; of all %d", n, len(kept))
	}
	for i, g := range s.Signatures {
		for _, id := range g.Samples {
			if !kept[id] {
				t.Errorf("signature %d has sample %d, which is none", i, id)
			}
		}
	}
}

func TestExchangesAreAskedASecondTimeUntilNoiseIsKnown(t *testing.T) {
	t.Parallel()
	counted := tally.New(tally.Options{})
	if !counted.WantsControl("GET /", 0.99) {
		t.Error("the first of an endpoint is not asked again")
	}
	for i := range 200 {
		counted.AddControl(compared("GET /"), nil, clock(i))
	}
	wants := func(draw float64) bool { return counted.WantsControl("GET /", draw) }
	if wants(0.5) || wants(0.05) || !wants(0.005) {
		t.Error("after 200 it is not 1 %")
	}
	for i := range 5000 {
		counted.Add(compared("GET /"), nil, clock(i))
	}
	counted.Add(compared("GET /"), []shadow.Difference{differs("a", shadow.Changed, shadow.Text, "1", "2")}, clock(9))
	if wants(0.5) || !wants(0.05) {
		t.Error("with a suspect it is not 10 %")
	}
	if counted.WantsControl("GET /other", 0.99) != true {
		t.Error("another endpoint is not asked again")
	}
}

func TestResetBeginsAnew(t *testing.T) {
	t.Parallel()
	counted := tally.New(tally.Options{Protocol: "smtp"})
	randomly(rand.New(rand.NewPCG(1, 1)), 300, counted)
	counted.Reset()
	empty, err := tally.New(tally.Options{Protocol: "smtp"}).Bytes()
	if err != nil {
		t.Fatal(err)
	}
	got, err := counted.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(empty), string(got)); diff != "" {
		t.Errorf("after Reset (-empty +got):\n%s", diff)
	}
}
