package report_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/splitd/splitd/shadow"
	"github.com/splitd/splitd/shadow/report"
	"github.com/splitd/splitd/shadow/tally"
)

func differs(path string, kind shadow.Kind, level shadow.Level, expected, got string) shadow.Difference {
	return shadow.Difference{Path: path, Kind: kind, Level: level, Expected: expected, Got: got, Plain: true}
}

// counted is a tally of n exchanges of each list of differences.
type counted struct {
	n     int
	found []shadow.Difference
}

func count(all ...counted) *tally.Tally {
	t := tally.New(tally.Options{Protocol: "http", WarmUp: -1})
	for _, c := range all {
		for i := range c.n {
			t.Add(shadow.Exchange{Endpoint: "GET /"}, c.found, clock(i))
		}
	}
	return t
}

// controls are two hundred exchanges of A/A, so many of which differ.
func controls(t *tally.Tally, differ int, found ...shadow.Difference) {
	for i := range 200 {
		if i < differ {
			t.AddControl(shadow.Exchange{Endpoint: "GET /"}, found, clock(i))
		} else {
			t.AddControl(shadow.Exchange{Endpoint: "GET /"}, nil, clock(i))
		}
	}
}

func listed(all []report.Difference) map[string]int64 {
	counts := make(map[string]int64)
	for _, d := range all {
		counts[d.Field+" "+string(d.Kind)] += d.Count
	}
	return counts
}

func TestAnExchangeIsChargedOnceToTheHeaviestThatIsNoNoise(t *testing.T) {
	t.Parallel()
	status := differs("status", shadow.Changed, shadow.Decision, "200", "404")
	body := differs("body", shadow.Changed, shadow.Semantic, "a", "b")
	date := differs("header date", shadow.Changed, shadow.Semantic, "x", "y")
	all := count(counted{900, nil}, counted{50, []shadow.Difference{status, body, date}}, counted{30, []shadow.Difference{body, date}}, counted{20, []shadow.Difference{date}})
	// Before noise is learnt, the date is charged like anything else.
	r := report.Make(all.State(), report.Options{})
	if diff := cmp.Diff(map[string]int64{"status value": 50, "body value": 30, "header date value": 20}, listed(r.Differences)); diff != "" {
		t.Errorf("before (-want +got):\n%s", diff)
	}
	// What is learnt now holds for what was counted before, too.
	controls(all, 190, date)
	r = report.Make(all.State(), report.Options{})
	if diff := cmp.Diff(map[string]int64{"status value": 50, "body value": 30}, listed(r.Differences)); diff != "" {
		t.Errorf("after (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(report.Exchanges{Match: 900, Mismatch: 80, Noise: 20}, r.Exchanges); diff != "" {
		t.Errorf("exchanges (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"body (value)"}, r.Differences[0].Also); diff != "" {
		t.Errorf("what differs with it (-want +got):\n%s", diff)
	}
	want := []report.Mask{{Endpoint: "GET /", Field: "header date", Kind: shadow.Changed, Why: "learnt: differs from itself in 95 % of 200", Count: 100}}
	if diff := cmp.Diff(want, r.Masked); diff != "" {
		t.Errorf("masked (-want +got):\n%s", diff)
	}
}

func TestNoiseThatIsTheHeaviestDoesNotHideWhatIsLighter(t *testing.T) {
	t.Parallel()
	token := differs("header token", shadow.Changed, shadow.Decision, "1", "2")
	price := differs("body price", shadow.Changed, shadow.Text, "10", "11")
	all := count(counted{1000, []shadow.Difference{token, price}})
	controls(all, 200, token)
	r := report.Make(all.State(), report.Options{})
	if diff := cmp.Diff(map[string]int64{"body price value": 1000}, listed(r.Differences)); diff != "" {
		t.Errorf("differences (-want +got):\n%s", diff)
	}
}

func TestANoisyFieldCannotHideAWrongOne(t *testing.T) {
	t.Parallel()
	value := differs("header date", shadow.Changed, shadow.Semantic, "Thu", "Fri")
	class := differs("header date", shadow.Retyped, shadow.Semantic, "Thu", "none")
	missing := differs("header date", shadow.Missing, shadow.Semantic, "Thu", "")
	all := count(counted{500, []shadow.Difference{value}}, counted{300, []shadow.Difference{class}}, counted{200, []shadow.Difference{missing}})
	controls(all, 200, value)
	r := report.Make(all.State(), report.Options{})
	if diff := cmp.Diff(map[string]int64{"header date class": 300, "header date missing": 200}, listed(r.Differences)); diff != "" {
		t.Errorf("differences (-want +got):\n%s", diff)
	}
}

func TestWhatIsTooRareIsSuspectAndTheVerdictUndecided(t *testing.T) {
	t.Parallel()
	r := report.Make(count(counted{5000, nil}, counted{2, []shadow.Difference{differs("status", shadow.Changed, shadow.Decision, "200", "500")}}).State(), report.Options{})
	if r.Verdict != report.Undecided || len(r.Differences) != 0 || len(r.Suspects) != 1 || r.Exchanges.Mismatch != 2 {
		t.Errorf("%s: %d differences, %d suspects, %+v", r.Verdict, len(r.Differences), len(r.Suspects), r.Exchanges)
	}
	if want := "2 of 5002 exchanges differ, too few to tell from chance"; !strings.Contains(r.Summary, want) {
		t.Errorf("%q, want %q", r.Summary, want)
	}
	if want := "differs in 2 of 5002, 3 would be reported"; r.Suspects[0].Why != want {
		t.Errorf("why is %q, want %q", r.Suspects[0].Why, want)
	}
}

func TestNothingDifferingHasABoundAndIsNeverCertain(t *testing.T) {
	t.Parallel()
	r := report.Make(count(counted{940, nil}).State(), report.Options{Primary: "old", Candidate: "new"})
	if want := "new answers as old in all of 940 exchanges but for known noise: with 95 % certainty fewer than 0.407 % differ."; r.Summary != want || r.Verdict != report.Same {
		t.Errorf("%s: %q, want %q", r.Verdict, r.Summary, want)
	}
	r = report.Make(count(counted{940, nil}).State(), report.Options{MinCompared: 1000})
	if r.Verdict != report.Undecided {
		t.Errorf("940 of the 1000 that are needed are %s", r.Verdict)
	}
	r = report.Make(count().State(), report.Options{})
	if r.Verdict != report.Undecided || r.Window != nil || r.Latency != nil {
		t.Errorf("of nothing: %s, %v, %v", r.Verdict, r.Window, r.Latency)
	}
}

func TestACandidateThatDoesNotAnswerIsADifference(t *testing.T) {
	t.Parallel()
	all := count(counted{90, nil})
	for i := range 10 {
		x := shadow.Exchange{Endpoint: "GET /", Verdict: shadow.CandidateError, Reason: "refused"}
		all.Add(x, shadow.Differences(x, nil), clock(i))
	}
	r := report.Make(all.State(), report.Options{})
	if diff := cmp.Diff(map[string]int64{"reply availability": 10}, listed(r.Differences)); diff != "" {
		t.Errorf("differences (-want +got):\n%s", diff)
	}
	if r.Verdict != report.Differs || r.Exchanges != (report.Exchanges{Match: 90}) || r.Differences[0].Rate != 0.1 {
		t.Errorf("%s, %+v, rate %g", r.Verdict, r.Exchanges, r.Differences[0].Rate)
	}
}

func TestLightDifferencesCanBeLeftOutAndAreListed(t *testing.T) {
	t.Parallel()
	text := differs("text", shadow.Changed, shadow.Text, "Ok", "Fine")
	r := report.Make(count(counted{1000, []shadow.Difference{text}}).State(), report.Options{Level: shadow.Semantic})
	want := []report.Mask{{Endpoint: "GET /", Field: "text", Kind: shadow.Changed, Why: "lighter than semantic", Count: 1000}}
	if diff := cmp.Diff(want, r.Masked); diff != "" {
		t.Errorf("masked (-want +got):\n%s", diff)
	}
	if r.Verdict != report.Same || r.Exchanges.Noise != 1000 {
		t.Errorf("%s, %+v", r.Verdict, r.Exchanges)
	}
}

func TestRulesAreListedWithWhatTheyHideAndWhoseTheyAre(t *testing.T) {
	t.Parallel()
	ours, builtin := rule(t, "ignore header etag"), rule(t, "ignore header date")
	unused := rule(t, "shape header typo")
	all := tally.New(tally.Options{Ignore: []shadow.Ignore{ours, unused}})
	x := shadow.Exchange{Endpoint: "GET /", Primary: reply(1, "header etag=1", "header date=2"), Candidate: reply(1, "header etag=3", "header date=4")}
	for i := range 10 {
		all.Add(x, shadow.Differences(x, []shadow.Ignore{ours, builtin, unused}), clock(i))
	}
	r := report.Make(all.State(), report.Options{})
	want := []report.Mask{
		{Endpoint: "GET /", Field: "header date", Kind: shadow.Changed, Why: "built in: ignore header date", Count: 10},
		{Endpoint: "GET /", Field: "header etag", Kind: shadow.Changed, Why: "ignored: ignore header etag", Count: 10},
	}
	if diff := cmp.Diff(want, r.Masked); diff != "" {
		t.Errorf("masked (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"shape header typo"}, r.UnusedRules); diff != "" {
		t.Errorf("unused (-want +got):\n%s", diff)
	}
}

func TestAPipelineIsStoppedByEvidenceAndHeldByTooLittle(t *testing.T) {
	t.Parallel()
	bad := []shadow.Difference{differs("status", shadow.Changed, shadow.Decision, "200", "500")}
	tests := []struct {
		name       string
		good, bad  int
		unanswered int
		want       int
	}{
		{"clean", 1000, 0, 0, 0},
		{"at the limit", 999, 1, 0, 0},
		{"beyond", 998, 2, 0, 1},
		{"no answers are beyond too", 1000, 0, 2, 1},
		{"too few", 999, 0, 0, 6},
		{"too few, and beyond whatever comes", 10, 5, 0, 1},
		{"too few, and a first mismatch", 10, 1, 0, 6},
		{"nothing", 0, 0, 0, 6},
	}
	for _, test := range tests {
		all := count(counted{test.good, nil}, counted{test.bad, bad})
		for i := range test.unanswered {
			all.Add(shadow.Exchange{Verdict: shadow.CandidateError}, nil, clock(i))
		}
		got := report.Limits{MaxMismatch: 0.001, MinCompared: 1000}.Decide(report.Make(all.State(), report.Options{}))
		if got.ExitCode != test.want {
			t.Errorf("%s: exit code %d (%s), want %d", test.name, got.ExitCode, got.Why, test.want)
		}
	}
}

// A reader who sees "75 %, at least 94 %" takes one of them for wrong.
func TestNoBoundIsAboveTheRateThatItIsOf(t *testing.T) {
	t.Parallel()
	price := differs("body $.a", shadow.Changed, shadow.Semantic, "10", "11")
	extra := differs("body $.z", shadow.Extra, shadow.Semantic, "", "true")
	r := report.Make(count(counted{15, []shadow.Difference{price, extra}}, counted{45, []shadow.Difference{extra}}).State(), report.Options{})
	if diff := cmp.Diff(map[string]int64{"body $.a value": 15, "body $.z extra": 45}, listed(r.Differences)); diff != "" {
		t.Errorf("differences (-want +got):\n%s", diff)
	}
	for _, d := range r.Differences {
		if d.LowerBound <= 0 || d.LowerBound > d.Rate {
			t.Errorf("%s differs in %g, at least in %g", d.Field, d.Rate, d.LowerBound)
		}
	}
}

// unanswered is of fifty exchanges.
func unanswered(reason string) *tally.Tally {
	t := tally.New(tally.Options{Protocol: "http", WarmUp: -1})
	for i := range 50 {
		x := shadow.Exchange{Endpoint: "GET /", Verdict: shadow.CandidateError, Reason: reason}
		t.Add(x, shadow.Differences(x, nil), clock(i))
	}
	return t
}

func TestTheFirstSentenceSaysThatACandidateDoesNotAnswerAndWhy(t *testing.T) {
	t.Parallel()
	r := report.Make(unanswered("no answer: refused").State(), report.Options{Split: "web", Primary: "old", Candidate: "new"})
	if want := "new did not answer 50 of 50 exchanges (100 %), first of all GET /: no answer: refused."; !strings.HasPrefix(r.Summary, want) {
		t.Errorf("%q, want %q", r.Summary, want)
	}
	// The why is last, so no column cuts it.
	long := unanswered("candidate's reply ends at byte 17 before it is whole: closed")
	if table := write(t, report.Table, report.Make(long.State(), report.Options{})); !strings.Contains(table, "a reply   candidate's reply ends at byte N before it is whole: closed  50") {
		t.Errorf("the table cuts why:\n%s", table)
	}
}

func TestWhatWasTooMuchToTellApartSaysWhereItCounts(t *testing.T) {
	t.Parallel()
	values := tally.New(tally.Options{WarmUp: -1, Bounds: tally.Bounds{SignaturesEach: 2}})
	for i := range 7 {
		values.Add(shadow.Exchange{Endpoint: "GET /"}, []shadow.Difference{differs("body", shadow.Changed, shadow.Semantic, "1", strings.Repeat("2", i+1))}, clock(i))
	}
	table := write(t, report.Table, report.Make(values.State(), report.Options{}))
	if want := "too many to tell apart  5 differences in more values of a field count as (other values)"; !strings.Contains(table, want) {
		t.Errorf("want %q in\n%s", want, table)
	}
}

// The most likely fault of identity: xclient is that the candidate does not offer it to
// this host, and then it is this host that is compared.
func TestAReportSaysThatTheCandidateWasNotToldWhoTheClientIs(t *testing.T) {
	t.Parallel()
	greeted := func(missing int) report.Report {
		all := tally.New(tally.Options{Protocol: "smtp", WarmUp: -1})
		for i := range 60 {
			var found []shadow.Difference
			if i < missing {
				found = []shadow.Difference{{Path: "identity xclient", Kind: shadow.Extra, Got: "not offered", Plain: true, Excuse: "ignore identity *"}}
			}
			all.Add(shadow.Exchange{Endpoint: "EHLO"}, found, clock(i))
		}
		return report.Make(all.State(), report.Options{Candidate: "new"})
	}
	if r := greeted(60); !strings.Contains(r.Summary, " In 60 of 60 greetings the candidate did not take XCLIENT from this host") || r.Exchanges.Noise != 60 || r.Exchanges.Doubtful != 0 {
		t.Errorf("%q, %+v", r.Summary, r.Exchanges)
	}
	if r := greeted(0); r.Untold != "" || strings.Contains(r.Summary, "XCLIENT") {
		t.Errorf("where it was told: %q, %q", r.Untold, r.Summary)
	}
}

func TestACandidateThatAnswersNothingMayExpectAnotherBeginning(t *testing.T) {
	t.Parallel()
	const hint = "expects what it gets first (identity: a PROXY header or none)"
	if r := report.Make(unanswered("no answer: closed").State(), report.Options{}); !strings.Contains(r.Summary, hint) {
		t.Errorf("%q, want %q", r.Summary, hint)
	}
	some := unanswered("no answer: closed")
	some.Add(shadow.Exchange{Endpoint: "GET /"}, nil, clock(60))
	if r := report.Make(some.State(), report.Options{}); strings.Contains(r.Summary, hint) {
		t.Errorf("of one that answers: %q", r.Summary)
	}
}

// A rule that is off by two signs is listed beside what it was to excuse.
func TestARuleAboutNothingIsShownBesideWhatItMayMean(t *testing.T) {
	t.Parallel()
	all := tally.New(tally.Options{Protocol: "http", WarmUp: -1, Ignore: []shadow.Ignore{rule(t, "set GET / | body $.tags"), rule(t, "ignore header x-build")}})
	for i := range 50 {
		all.Add(shadow.Exchange{Endpoint: "GET /"}, []shadow.Difference{differs("body $.tags[]", shadow.Reordered, shadow.Semantic, "a, b", "b, a")}, clock(i))
	}
	r := report.Make(all.State(), report.Options{})
	table := write(t, report.Table, r)
	for _, want := range []string{"set GET / | body $.tags  what differs is GET / | body $.tags[]\n", "ignore header x-build    -\n"} {
		if !strings.Contains(table, want) {
			t.Errorf("want %q in\n%s", want, table)
		}
	}
	if want := "- `set GET / | body $.tags`: `what differs is GET / | body $.tags[]`\n"; !strings.Contains(write(t, report.Markdown, r), want) {
		t.Errorf("the markdown lacks %q", want)
	}
}
