package report_test

import (
	"strings"
	"testing"

	"github.com/splitd/splitd/shadow"
	"github.com/splitd/splitd/shadow/report"
	"github.com/splitd/splitd/shadow/tally"
)

// flows are those of a split by what is known of them.
type flows struct {
	unseen int // in TLS that nobody saw into
	inside int // seen inside TLS
	clear  int // said in clear to their end
}

const (
	halfKey = "TLS is not seen into: the primary's TLS takes AES-256, and the client could get AES-128: allow_aes128 would let it"
	noKey   = "encrypted from byte 117 of the client on (STARTTLS)"
)

// mails is the tally of sessions, each of a greeting and EHLO in clear, and of five exchanges
// more where those are seen.
func mails(f flows, reason string) *tally.Tally {
	all := tally.New(tally.Options{Protocol: "smtp"})
	add := func(endpoints ...string) {
		for _, endpoint := range endpoints {
			all.Add(shadow.Exchange{Endpoint: endpoint}, nil, clock(0))
		}
	}
	for i := range f.unseen + f.inside + f.clear {
		add("greeting", "EHLO")
		switch {
		case i < f.unseen:
			all.Add(shadow.Exchange{Endpoint: "STARTTLS", Verdict: shadow.Opaque, Reason: reason}, nil, clock(0))
			continue
		case i < f.unseen+f.inside:
			add("STARTTLS", "TLS")
		}
		add("EHLO", "MAIL", "RCPT", "RSET", "QUIT")
	}
	return all
}

// pages is the tally of flows of the web: one in clear is a request.
func pages(f flows, reason string) *tally.Tally {
	all := tally.New(tally.Options{Protocol: "http"})
	for range f.unseen {
		all.Add(shadow.Exchange{Endpoint: "TLS", Verdict: shadow.Opaque, Reason: reason}, nil, clock(0))
	}
	for range f.inside {
		all.Add(shadow.Exchange{Endpoint: "TLS"}, nil, clock(0))
	}
	for range f.inside + f.clear {
		all.Add(shadow.Exchange{Endpoint: "GET /"}, nil, clock(0))
	}
	return all
}

func TestNothingIsTheSameWhereMostOfTLSWasNotSeenInto(t *testing.T) {
	t.Parallel()
	const (
		advice = "what clients say there is not compared; name the service's certificates in shadow.tls, and it is."
		cause  = "what clients say there is not compared, above all: " + halfKey + `. docs/shadow.md, "Inside TLS", says of each reason what helps.`
	)
	for name, test := range map[string]struct {
		all      *tally.Tally
		seenInto bool
		says     string // "" is no doubt
	}{
		"no mail was ever seen":                  {mails(flows{unseen: 236}, halfKey), true, "236 of 236 flows went into TLS that was not seen into: " + cause},
		"half of it":                             {mails(flows{unseen: 200, inside: 200}, halfKey), true, "200 of 400 flows went into TLS that was not seen into: " + cause},
		"less than half":                         {mails(flows{unseen: 199, inside: 200}, halfKey), true, ""},
		"the first flows of each kind":           {mails(flows{unseen: 4, inside: 200}, halfKey), true, ""},
		"too few to matter among those in clear": {mails(flows{unseen: 9, clear: 1000}, halfKey), true, ""},
		"those in clear do not make up for it":   {mails(flows{unseen: 100, clear: 1000}, halfKey), true, "100 of 100 flows went into TLS that was not seen into: " + cause},
		"no certificates":                        {mails(flows{unseen: 236}, noKey), false, "236 of 236 flows went into TLS that was not seen into: " + advice},
		"no certificates, nine in ten":           {mails(flows{unseen: 180, clear: 20}, noKey), false, "180 of 200 flows went into TLS that was not seen into: " + advice},
		"no certificates, one in three":          {mails(flows{unseen: 100, clear: 200}, noKey), false, ""},
		"the web":                                {pages(flows{unseen: 500, inside: 400}, halfKey), true, "500 of 900 flows went into TLS that was not seen into: " + cause},
		"the web, with no certificates":          {pages(flows{unseen: 600, clear: 400}, "client: TLS"), false, "600 flows (60 % of what was seen) went into TLS that was not seen into: " + advice},
		"the web in clear":                       {pages(flows{unseen: 300, clear: 400}, "client: TLS"), false, ""},
	} {
		t.Run(name, func(t *testing.T) {
			r := report.Make(test.all.State(), report.Options{SeenInto: test.seenInto})
			want := report.Same
			if test.says != "" {
				want = report.Undecided
			}
			if r.Verdict != want || r.Doubt != test.says || !strings.Contains(r.Summary, test.says) || strings.Contains(r.Summary, "in all of") != (test.says == "") {
				t.Errorf("%s, doubt %q, want %q\n%s", r.Verdict, r.Doubt, test.says, r.Summary)
			}
			d := report.Limits{MaxMismatch: 0.01, MinCompared: 300}.Decide(r)
			if test.says == "" && d.ExitCode != 0 || test.says != "" && (d.ExitCode != 6 || d.Why != r.Doubt) {
				t.Errorf("a pipeline gets %+v", d)
			}
		})
	}
}

// Who has not the key, or whose clients speak HTTP/2, can see no more: that it does not matter is
// the user's to say, by a rule that is none about what was compared.
func TestWhoSaysThatUnseenFlowsDoNotMatterIsBelieved(t *testing.T) {
	t.Parallel()
	for rule, accepted := range map[string]bool{"ignore TLS | unseen": true, "ignore TLS | *": false, "shape TLS | unseen": false, "ignore unseen": false} {
		read, err := shadow.ParseIgnore(rule)
		if err != nil {
			t.Fatal(err)
		}
		all := tally.New(tally.Options{Protocol: "smtp", Ignore: []shadow.Ignore{read}})
		for range 400 {
			all.Add(shadow.Exchange{Endpoint: "greeting"}, nil, clock(0))
			all.Add(shadow.Exchange{Endpoint: "STARTTLS", Verdict: shadow.Opaque, Reason: noKey}, nil, clock(0))
		}
		r := report.Make(all.State(), report.Options{})
		want := report.Undecided
		if accepted {
			want = report.Same
		}
		if unused := len(r.UnusedRules) > 0; r.Verdict != want || unused == accepted {
			t.Errorf("%s: %s, unused %q", rule, r.Verdict, r.UnusedRules)
		}
		if read.Path == shadow.Unseen && (shadow.PointlessSecured(read) == "") != accepted {
			t.Errorf("%s is judged: %q", rule, shadow.PointlessSecured(read))
		}
	}
}

// A candidate that offers no STARTTLS has nothing compared inside: the flows were seen all the same.
func TestWhatACandidateDoesNotOfferIsSeen(t *testing.T) {
	t.Parallel()
	all := mails(flows{unseen: 12}, halfKey)
	for range 500 {
		all.Add(shadow.Exchange{Endpoint: "TLS", Verdict: shadow.AfterDivergence, Reason: "the candidate does not offer STARTTLS"}, nil, clock(0))
	}
	if r := report.Make(all.State(), report.Options{SeenInto: true}); r.SeenInside != 500 || r.EncryptedOf != 512 || r.Doubt != "" {
		t.Errorf("%d of %d seen, doubt %q", r.SeenInside, r.EncryptedOf, r.Doubt)
	}
}

// Few flows are no excuse: a pipeline that takes two exchanges for enough is held as well.
func TestAPipelineIsHeldByTheFirstFlowThatWasNotSeenInto(t *testing.T) {
	t.Parallel()
	r := report.Make(mails(flows{unseen: 1}, halfKey).State(), report.Options{SeenInto: true})
	if d := (report.Limits{MaxMismatch: 0.01, MinCompared: 2}).Decide(r); d.ExitCode != 6 {
		t.Errorf("a pipeline gets %+v", d)
	}
}

func TestTLSThatWasNotSeenIntoHidesNoDifference(t *testing.T) {
	t.Parallel()
	all := mails(flows{unseen: 236}, halfKey)
	for i := range 50 {
		x, found := failing()
		all.Add(x, found, clock(i))
	}
	r := report.Make(all.State(), report.Options{SeenInto: true})
	if d := (report.Limits{MaxMismatch: 0.01}).Decide(r); r.Verdict != report.Differs || d.ExitCode != 1 || !strings.Contains(r.Summary, r.Doubt) {
		t.Errorf("%s, %+v, %s", r.Verdict, d, r.Summary)
	}
}

func TestADoubtOfNoiseAndOneOfTLSAreBothTold(t *testing.T) {
	t.Parallel()
	all := mails(flows{unseen: 236}, halfKey)
	for i := range 1000 {
		all.Add(shadow.Exchange{Endpoint: "RCPT"}, refused(), clock(i))
	}
	r := report.Make(all.State(), report.Options{SeenInto: true})
	for _, want := range []string{"236 of 236 flows", " In 1000 of 1472 exchanges"} {
		if !strings.Contains(r.Doubt, want) || !strings.Contains(r.Summary, want) {
			t.Errorf("the doubt is %q, and the summary %q: want %q in both", r.Doubt, r.Summary, want)
		}
	}
}

func TestAReportHasTheNumbersOfWhatWasSeenInsideTLS(t *testing.T) {
	t.Parallel()
	type numbers struct{ encrypted, of, inside int64 }
	for name, test := range map[string]struct {
		all      *tally.Tally
		seenInto bool
		want     numbers
	}{
		"mail, of flows that began TLS":     {mails(flows{3, 5, 7}, halfKey), true, numbers{3, 8, 5}},
		"mail, of all flows":                {mails(flows{3, 0, 7}, noKey), false, numbers{3, 10, 0}},
		"web, of flows that began TLS":      {pages(flows{3, 5, 7}, halfKey), true, numbers{3, 8, 5}},
		"web, of exchanges":                 {pages(flows{3, 0, 7}, "client: TLS"), false, numbers{3, 10, 0}},
		"certificates that were taken back": {mails(flows{3, 5, 7}, noKey), false, numbers{3, 15, 5}},
		"nothing":                           {mails(flows{}, ""), true, numbers{}},
	} {
		r := report.Make(test.all.State(), report.Options{SeenInto: test.seenInto})
		if got := (numbers{r.Encrypted, r.EncryptedOf, r.SeenInside}); got != test.want {
			t.Errorf("%s: %+v, want %+v", name, got, test.want)
		}
	}
}

func TestWhatComparedNothingDoesNotPassInJUnit(t *testing.T) {
	t.Parallel()
	r := report.Make(mails(flows{unseen: 236}, halfKey).State(), report.Options{SeenInto: true})
	text := write(t, report.JUnit, r)
	for _, want := range []string{`tests="4" failures="0" skipped="2"`, `<skipped message="nothing of it was compared">`, `<skipped message="236 of 236 flows went into TLS`} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is not in\n%s", want, text)
		}
	}
}

// What an extra or missing value comes with is left out where it comes with nothing.
func TestJUnitSaysWhatComesWithADifferenceWhereSomethingDoes(t *testing.T) {
	t.Parallel()
	code := differs("code", shadow.Changed, shadow.Decision, "250", "550")
	text := differs("text", shadow.Changed, shadow.Text, "Ok", "no")
	for name, found := range map[string][]shadow.Difference{"": {code}, "text (value)": {code, text}} {
		r := report.Make(count(counted{1000, found}).State(), report.Options{})
		if got := write(t, report.JUnit, r); strings.Contains(got, "with it: "+name) != (name != "") {
			t.Errorf("with %q:\n%s", name, got)
		}
	}
}
