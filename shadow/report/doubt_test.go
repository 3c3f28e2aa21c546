package report_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/splitd/splitd/shadow"
	"github.com/splitd/splitd/shadow/report"
	"github.com/splitd/splitd/shadow/tally"
)

// failing is an exchange that was not answered.
func failing() (shadow.Exchange, []shadow.Difference) {
	x := shadow.Exchange{Endpoint: "GET /", Verdict: shadow.CandidateError, Reason: "connection refused"}
	return x, shadow.Differences(x, nil)
}

func TestAControlThatIsDeadExcusesNoDeadCandidate(t *testing.T) {
	t.Parallel()
	all := count(counted{1000, nil})
	for i := range 50 {
		x, found := failing()
		all.Add(x, found, clock(i))
	}
	for i := range 200 {
		x, found := failing()
		all.AddControl(x, found, clock(i))
	}
	r := report.Make(all.State(), report.Options{})
	if diff := cmp.Diff(map[string]int64{"reply availability": 50}, listed(r.Differences)); diff != "" || r.Verdict != report.Differs || len(r.Masked) != 0 {
		t.Errorf("%s, masked %+v, differences (-want +got):\n%s", r.Verdict, r.Masked, diff)
	}
	if r.Controls != 200 || r.ControlsUnanswered != 200 {
		t.Errorf("%d of %d controls were not answered", r.ControlsUnanswered, r.Controls)
	}
	if want := "200, of which the control did not answer 200: nothing is learnt from those"; !strings.Contains(write(t, report.Table, r), want) {
		t.Errorf("the table does not say %q", want)
	}
}

// What older versions have learnt of availability is none either.
func TestAvailabilityOfAnEarlierVersionIsNoNoise(t *testing.T) {
	t.Parallel()
	all := count(counted{1000, nil})
	for i := range 50 {
		x, found := failing()
		all.Add(x, found, clock(i))
	}
	s := all.State()
	s.Fields[0].ControlDiffered, s.Endpoints[0].ControlsUnanswered = 200, 200
	if r := report.Make(s, report.Options{}); r.Verdict != report.Differs {
		t.Errorf("%s: %s", r.Verdict, r.Summary)
	}
}

// held is a report that is not to be called the same, and that no pipeline passes.
func held(t *testing.T, s tally.State, doubtful int64, words ...string) {
	t.Helper()
	r := report.Make(s, report.Options{Primary: "old", Candidate: "new"})
	if r.Verdict != report.Undecided || r.Exchanges.Doubtful != doubtful || r.Exchanges.Noise != doubtful {
		t.Errorf("%s, %+v, want %d doubtful", r.Verdict, r.Exchanges, doubtful)
	}
	d := report.Limits{MaxMismatch: 0.001, MinCompared: 100}.Decide(r)
	if d.ExitCode != 6 || d.Why != r.Doubt {
		t.Errorf("a pipeline gets %+v, want 6", d)
	}
	for _, word := range words {
		if !strings.Contains(r.Doubt, word) || !strings.Contains(r.Summary, word) || strings.Contains(r.Summary, "as old in all of") {
			t.Errorf("doubt %q, summary %q: want %q in both", r.Doubt, r.Summary, word)
		}
	}
}

// refused is a refusal that the built-in rule of identity excuses.
func refused() []shadow.Difference {
	const excuse = "ignore identity *"
	code := differs("identity code", shadow.Changed, shadow.Decision, "250", "554")
	text := differs("identity text", shadow.Changed, shadow.Text, "<text>", "<text>")
	code.Excuse, text.Excuse = excuse, excuse
	return []shadow.Difference{code, text}
}

func TestAPipelineIsHeldWhereRefusalsArePutDownToIdentity(t *testing.T) {
	t.Parallel()
	all := count(counted{1000, nil}, counted{1000, refused()})
	held(t, all.State(), 1000, `n 1000 of 2000 exchanges (50 %)`, `1000 put down to what is built in as "ignore identity *" (tell the candidate who the client is, key identity`)
}

func TestAPipelineIsHeldWhereThePrimaryRefusesTheControl(t *testing.T) {
	t.Parallel()
	class := differs("class", shadow.Changed, shadow.Decision, "2xx", "4xx")
	all := count(counted{1000, []shadow.Difference{class}})
	controls(all, 200, class)
	held(t, all.State(), 1000, `n 1000 of 1000 exchanges (100 %)`, "1000 put down to the primary, which answers otherwise when it is asked twice too", "control: none")
}

// A few are no reason to hold, and what a user has a rule for is his word. Neither
// is noise of what is less than a verdict.
func TestNoiseThatCanHideLittleIsNoDoubt(t *testing.T) {
	t.Parallel()
	date := differs("header date", shadow.Changed, shadow.Semantic, "x", "y")
	noisy := count(counted{1000, []shadow.Difference{date}})
	controls(noisy, 200, date)
	users := tally.New(tally.Options{Ignore: []shadow.Ignore{rule(t, "ignore identity *")}})
	for i := range 1000 {
		users.Add(shadow.Exchange{Endpoint: "RCPT"}, refused(), clock(i))
	}
	for name, all := range map[string]*tally.Tally{
		"one in a hundred": count(counted{990, nil}, counted{10, refused()}),
		"of a field":       noisy,
		"by a user's rule": users,
	} {
		r := report.Make(all.State(), report.Options{})
		if r.Verdict != report.Same || r.Doubt != "" {
			t.Errorf("%s: %s, %q", name, r.Verdict, r.Doubt)
		}
	}
}

// A mismatch beyond the limit stops a pipeline, whatever is in doubt besides.
func TestDoubtHidesNoDifference(t *testing.T) {
	t.Parallel()
	status := differs("status", shadow.Changed, shadow.Decision, "200", "500")
	r := report.Make(count(counted{1000, refused()}, counted{1000, []shadow.Difference{status}}).State(), report.Options{})
	if d := (report.Limits{MaxMismatch: 0.001}).Decide(r); r.Verdict != report.Differs || d.ExitCode != 1 || !strings.Contains(r.Summary, "that may hide") {
		t.Errorf("%s, %+v, %q", r.Verdict, d, r.Summary)
	}
}

func TestTheSameIsSaidOfAsManyAsBoundWhatMayDiffer(t *testing.T) {
	t.Parallel()
	tests := []struct {
		n    int
		o    report.Options
		want report.Verdict
		says string
	}{
		{1, report.Options{}, report.Undecided, "with 95 % certainty fewer than 79.3 % differ. That is too few to call it the same: it takes 381."},
		{380, report.Options{}, report.Undecided, "it takes 381."},
		{381, report.Options{}, report.Same, "with 95 % certainty fewer than 0.998 % differ."},
		{100, report.Options{Thresholds: tally.Thresholds{Effect: 0.01, Least: 3}}, report.Same, "fewer than 3.7 % differ."},
		{30, report.Options{Thresholds: tally.Thresholds{Effect: 0.01, Least: 3}}, report.Undecided, "it takes 35."},
		{30, report.Options{MinCompared: 30}, report.Same, "fewer than 11.4 % differ."},
	}
	for _, test := range tests {
		r := report.Make(count(counted{test.n, nil}).State(), test.o)
		if r.Verdict != test.want || !strings.Contains(r.Summary, test.says) {
			t.Errorf("%d: %s, %q, want %q", test.n, r.Verdict, r.Summary, test.says)
		}
	}
}
