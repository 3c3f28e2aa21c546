package demo

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"
)

// faults are what differs at the new MX before it is mended, as reports name it.
func faults() []string { return []string{"EHLO keyword SIZE", "RCPT code"} }

// shadowed is what a report says of how the new MX answers.
type shadowed struct {
	Verdict     string `json:"verdict"`
	Differences []struct {
		Endpoint string `json:"endpoint"`
		Field    string `json:"field"`
	} `json:"differences"`
	Suspects []json.RawMessage `json:"suspects"`
	Coverage struct {
		Compared int64 `json:"compared"`
	} `json:"coverage"`
	arrived int // mails at the new MX by then
}

// named are the differences in order.
func (r shadowed) named() []string {
	var names []string
	for _, d := range r.Differences {
		names = append(names, d.Endpoint+" "+d.Field)
	}
	slices.Sort(names)
	return names
}

// comparedEnough is how many exchanges must have been compared before the demo
// believes that nothing differs.
const comparedEnough = 1500

// rehearse is the act before the first real mail goes to the new MX: the clients'
// sessions are played to it, what it answers otherwise is mended, and they are
// played again.
func (s *story) rehearse(ctx context.Context) error {
	s.show.line("First the new MX is shadowed: clients' sessions, all behind STARTTLS, are played to it up to RCPT, and its answers compared.")
	differs := func(r shadowed) bool {
		return r.Verdict == "differs" && len(r.named()) >= len(faults()) && len(r.Suspects) == 0
	}
	if err := s.shadow(ctx, "what would it answer?", differs); err != nil {
		return err
	}
	if err := s.cast.mend(ctx); err != nil {
		return err
	}
	s.show.line("  Both faults are mended at the new MX, and it is started again.")
	if err := s.command(ctx, "report", splitName, "--reset"); err != nil {
		return err
	}
	same := func(r shadowed) bool { return r.Verdict == "same" && r.Coverage.Compared >= comparedEnough }
	return s.shadow(ctx, "and now?", same)
}

// shadow plays all sessions until the report says enough, shows it, and ends.
func (s *story) shadow(ctx context.Context, reason string, enough func(shadowed) bool) error {
	if err := s.command(ctx, "shadow", splitName, "100%", "--reason", reason); err != nil {
		return err
	}
	report, err := s.awaitReport(ctx, enough)
	if err != nil {
		return err
	}
	report.arrived = s.cast.book.Judge().Arrived[newMX]
	s.reports = append(s.reports, report)
	whole, err := s.cast.splitctl(ctx, "report", splitName)
	s.show.command([]string{"splitctl", "report", splitName}, gist(whole))
	if err != nil {
		return fmt.Errorf("run splitctl report: %w", err)
	}
	return s.command(ctx, "shadow", splitName, "0%")
}

// gist is the beginning of a report: the verdict, and what differs.
func gist(report string) string {
	parts := strings.SplitAfter(report, "\n\n")
	end := 1
	if len(parts) > 1 && strings.HasPrefix(parts[1], "differences\n") {
		end = 2
	}
	if left := strings.Count(strings.Join(parts[end:], ""), "\n"); left > 0 {
		return strings.TrimSpace(strings.Join(parts[:end], "")) + fmt.Sprintf("\n(and %d lines more)\n", left)
	}
	return report
}

// reportPatience is how long a report may take to say enough: a second or two where the
// host has nothing else to do.
const reportPatience = 3 * time.Minute

// awaitReport asks for the report until it says enough.
func (s *story) awaitReport(ctx context.Context, enough func(shadowed) bool) (shadowed, error) {
	ctx, cancel := context.WithTimeout(ctx, reportPatience)
	defer cancel()
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	var r shadowed
	late := func() error {
		return fmt.Errorf("wait for the report: %w: it says %q of %d exchanges, and names %q", ctx.Err(), r.Verdict, r.Coverage.Compared, r.named())
	}
	for {
		output, err := s.cast.splitctl(ctx, "report", splitName, "-o", "json")
		switch {
		case ctx.Err() != nil:
			return shadowed{}, late()
		case err != nil && strings.Contains(output, "try again"): // a host with much else to do
			output = "{}"
		case err != nil:
			return shadowed{}, fmt.Errorf("run splitctl report: %w: %s", err, output)
		}
		r = shadowed{}
		// A hint may follow, which is for people.
		if err := json.NewDecoder(strings.NewReader(output)).Decode(&r); err != nil {
			return shadowed{}, fmt.Errorf("parse report %q: %w", output, err)
		}
		if enough(r) {
			return r, nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return shadowed{}, late()
		}
		if err := s.cast.missing(); err != nil {
			return shadowed{}, err
		}
	}
}

// rehearsalClaim says whether the reports named the faults and nothing else.
func (s *story) rehearsalClaim() claim {
	if len(s.reports) < 2 {
		return claim{text: "the new MX was not shadowed to the end"}
	}
	var why []string
	if got := s.reports[0].named(); !slices.Equal(got, faults()) {
		why = append(why, fmt.Sprintf("before it was mended the report named %s, not %s", strings.Join(got, ", "), strings.Join(faults(), ", ")))
	}
	if got := s.reports[1].named(); len(got) > 0 {
		why = append(why, "once it was mended the report named "+strings.Join(got, ", "))
	}
	if n := s.reports[1].arrived; n > 0 {
		why = append(why, fmt.Sprintf("%d mails arrived there before it got its first share", n))
	}
	if why != nil {
		return claim{text: "the shadow of the new MX was wrong", why: why}
	}
	return claimf(true, "behind STARTTLS the shadow named both faults of the new MX and nothing else, and none once they were mended; no mail came there by it")
}
