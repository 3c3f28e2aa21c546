package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/splitd/splitd/control/api"
	"github.com/splitd/splitd/shadow/report"
	"github.com/splitd/splitd/traffic"
)

// The formats of reports beside those of every command.
const (
	formatMarkdown = string(report.Markdown)
	formatHTML     = string(report.HTML)
	formatJUnit    = string(report.JUnit)
)

// reportFlags are what `report` is asked for.
type reportFlags struct {
	output      *format
	maxMismatch share
	minCompared int64
	limited     bool // one of the two was given
	follow      bool
	interval    duration
	sample      int
	reset       bool
	reason      string
}

func (a *app) report() *cobra.Command {
	f := reportFlags{interval: duration(2 * time.Second)}
	cmd := &cobra.Command{
		Use:   "report [SPLIT]",
		Short: "Tell how the candidate's answers differ from the primary's",
		Long: "Tell what a shadowed candidate answers otherwise than the primary: how often, since when, with an example,\n" +
			"what was taken for noise and why, and what was not compared. `splitctl shadow mx 100%` begins to compare.\n\n" +
			"With --max-mismatch or --min-compared it decides for a pipeline: exit code 0 within the limits, 1 beyond\n" +
			"them, 6 when too little was compared or seen to say. The sentence why is on standard error. -o junit says the same;\n" +
			"without limits each difference fails in it.\n\n" +
			"--follow tells anew whenever something has changed, until it is interrupted: a terminal is redrawn, else\n" +
			"it is a line each (with -o json a report a line). A daemon that restarts is waited for.",
		Example: "  splitctl report                                          of the only split\n" +
			"  splitctl report mx --sample 17                           one exchange, both replies side by side\n" +
			"  splitctl report mx -o html > mx.html                     one file, with plots\n" +
			"  splitctl report mx -o markdown                           for a ticket\n" +
			"  splitctl report mx --max-mismatch 0.1% --min-compared 1000 -o junit > report.xml\n" +
			"  splitctl report mx --reset                               forget it, as for a new release",
		Args: onlySplit, ValidArgsFunction: a.completeSplits,
	}
	f.output = formatFlag(cmd, formatMarkdown, formatHTML, formatJUnit)
	cmd.Flags().Var(&f.maxMismatch, "max-mismatch", "exit with 1 when the candidate answers more than this share otherwise or not at all (0% unless given)")
	cmd.Flags().Int64Var(&f.minCompared, "min-compared", 1, "exit with 6 until so many exchanges were compared")
	cmd.Flags().BoolVar(&f.follow, "follow", false, "tell again whenever something has changed")
	cmd.Flags().Var(&f.interval, "interval", "with --follow: how often to look")
	cmd.Flags().IntVar(&f.sample, "sample", 0, "show the exchange of this number, both replies side by side")
	cmd.Flags().BoolVar(&f.reset, "reset", false, "forget what was compared, and begin anew")
	cmd.Flags().StringVar(&f.reason, "reason", "", "with --reset: why, for the history")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if err := f.judge(cmd.Flags().Changed); err != nil {
			return usage(err)
		}
		switch {
		case f.reset:
			return a.resetReport(cmd, first(args), f)
		case f.follow:
			return a.followReport(cmd.Context(), first(args), f)
		}
		text, err := a.client(0).Report(cmd.Context(), first(args))
		if err != nil {
			return err
		}
		return a.tellReport(cmd.Context(), text, f)
	}
	return cmd
}

// judge says what of the flags cannot be asked for together.
func (f *reportFlags) judge(given func(string) bool) error {
	f.limited = given("max-mismatch") || given("min-compared")
	var what []string
	for _, name := range []string{"follow", "sample", "reset"} {
		if given(name) {
			what = append(what, "--"+name)
		}
	}
	if len(what) > 1 {
		return fmt.Errorf("%s and %s are two questions: ask one of them", what[0], what[1])
	}
	data := f.output.value == formatTable || f.output.data()
	switch {
	case f.minCompared < 1:
		return fmt.Errorf("--min-compared %d: at least one exchange has to be compared to say anything", f.minCompared)
	case f.limited && len(what) > 0:
		return fmt.Errorf("--max-mismatch and --min-compared decide about a whole report: leave %s out", what[0])
	case given("interval") && !f.follow:
		return errors.New("--interval goes with --follow")
	case f.interval <= 0:
		return fmt.Errorf("--interval %v must be positive", time.Duration(f.interval))
	case given("reason") && !f.reset:
		return errors.New("--reason goes with --reset: reading is no change")
	case given("sample") && f.sample < 1:
		return fmt.Errorf("--sample %d: samples are numbered from 1 on, see the column SAMPLE", f.sample)
	case given("sample") && f.output.value != formatTable:
		return fmt.Errorf("--sample is a table: -o %s without it has all samples that this format can show", f.output.value)
	case len(what) > 0 && !data:
		return fmt.Errorf("%s is told as table, json or yaml, not as %s", what[0], f.output.value)
	}
	return nil
}

// tellReport prints a report once, and decides where there are limits.
func (a *app) tellReport(ctx context.Context, text json.RawMessage, f reportFlags) error {
	r, err := readReport(text)
	if err != nil {
		return err
	}
	var limits report.Limits
	if f.limited {
		limits = report.Limits{MaxMismatch: ratio(int(f.maxMismatch)), MinCompared: f.minCompared}
	}
	write := func(format report.Format) printer {
		return func(w io.Writer) error { return report.Write(w, format, r, limits) }
	}
	table := write(report.Table)
	if f.sample > 0 {
		table = func(w io.Writer) error { return report.WriteSample(w, r, f.sample) }
	}
	err = a.print(f.output, text, table, map[string]printer{
		formatMarkdown: write(report.Markdown), formatHTML: write(report.HTML), formatJUnit: write(report.JUnit),
	})
	if err != nil {
		return err
	}
	if f.limited {
		return a.decide(r, limits)
	}
	a.remark(ctx, r)
	return nil
}

// decide is the exit code of a report within limits, and says why.
func (a *app) decide(r report.Report, limits report.Limits) error {
	decision := limits.Decide(r)
	why := r.Split + ": " + decision.Why
	if decision.ExitCode == exitOK {
		a.say("splitctl: " + printable(why))
		return nil
	}
	return &coded{code: decision.ExitCode, err: errors.New(why)}
}

// remark says what a reader of data has to know, and what to do next.
func (a *app) remark(ctx context.Context, r report.Report) {
	if fault := r.Unaccounted(); fault != "" {
		a.warn("%s: %s", printable(r.Split), printable(fault))
	}
	if r.Cover.Eligible == 0 {
		a.say("splitctl: " + printable(r.Split) + ": nothing was shadowed yet: " + a.begins(ctx, r.Split))
	}
}

// begins says what has a report begin: a sample or, where there is one, a flow.
func (a *app) begins(ctx context.Context, split string) string {
	name := printable(split)
	list, err := a.client(0).Splits(ctx, split)
	if err == nil && len(list.Items) == 1 && list.Items[0].Shadow.SamplePPM > 0 {
		return fmt.Sprintf("the sample is %s, and no flow has come through yet: `splitctl show %s` has the state of the shadow", percent(list.Items[0].Shadow.SamplePPM), name)
	}
	return fmt.Sprintf("`splitctl shadow %s 100%%` begins, `splitctl show %s` has the sample in force", name, name)
}

func readReport(text json.RawMessage) (report.Report, error) {
	var r report.Report
	if err := json.Unmarshal(text, &r); err != nil {
		return r, fmt.Errorf("read report: %w: use the splitctl that came with that splitd", err)
	}
	return r, nil
}

func (a *app) resetReport(cmd *cobra.Command, name string, f reportFlags) error {
	change, err := a.client(0).ResetReport(cmd.Context(), name, a.request(f.reason))
	if err != nil {
		return unsure(err)
	}
	a.warnOf(change)
	return a.print(f.output, change, func(w io.Writer) error {
		_, err := fmt.Fprintln(w, printable(a.forgotten(change)))
		return err
	}, nil)
}

// forgotten says what a reset has thrown away.
func (a *app) forgotten(change api.Change) string {
	held := change.Forgotten
	switch {
	case !change.Changed:
		return change.Split + ": there was nothing to forget"
	case held == nil:
		return change.Split + ": the report is forgotten and begins anew"
	}
	return fmt.Sprintf("%s: forgot %d exchanges, %d of them compared, from %s to %s: the report begins anew",
		change.Split, held.Exchanges, held.Compared, a.localOrNone(held.From), a.localOrNone(held.To))
}

// share is a flag that is a part of a whole, in parts per million.
type share traffic.Weight

// String implements pflag.Value; "" is no default worth showing.
func (s *share) String() string {
	if *s == 0 {
		return ""
	}
	return traffic.Weight(*s).String()
}

// Type implements pflag.Value.
func (s *share) Type() string { return "share" }

// Set implements pflag.Value.
func (s *share) Set(text string) error {
	if _, err := strconv.ParseFloat(text, 64); err == nil {
		return errors.New("it is a bare number: write a percentage such as 0.1% or a fraction such as 1/1000")
	}
	parsed, err := traffic.ParseWeight(text)
	if err != nil {
		return err
	}
	*s = share(parsed)
	return nil
}
