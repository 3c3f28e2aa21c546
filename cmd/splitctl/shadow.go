package main

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/splitd/splitd/control/api"
	"github.com/splitd/splitd/traffic"
)

func (a *app) shadow() *cobra.Command {
	var reason string
	var ttl duration
	var expect uint64
	var test selfTestFlags
	cmd := &cobra.Command{
		Use:   "shadow [SPLIT] W | [SPLIT] default | [SPLIT] --self-test",
		Short: "Play a share of the primary's flows to the candidate too: 100%, 1/3, or the file's",
		Long: "Set the sample: the share of the flows that go to the primary which is also played to the candidate of\n" +
			"shadow.to. What that answers reaches no client. Weights stay as they are; `shadow 0%` ends it at once.\n\n" +
			"With --self-test it changes nothing: a splitd of its own shadows to candidates that are healthy, dead, refusing,\n" +
			"blackholed, hanging, dripping, flooding, resetting and differing (with --tls three more: garbling, trickling and expired),\n" +
			"on loopback, with the limits of SPLIT, and the table has what clients of the primary waited with the shadow\n" +
			"and without. Exit code 1 if they could tell, 6 if this machine is too busy to say.",
		Example: "  splitctl shadow 100%                    of the only split\n" +
			"  splitctl shadow mx 5% --reason CHG-1    of the split mx\n" +
			"  splitctl shadow mx 0%                   no more, now\n" +
			"  splitctl shadow mx default              the file's sample again\n" +
			"  splitctl shadow mx --self-test          what a bad candidate costs clients, measured here",
		Args: func(cmd *cobra.Command, args []string) error {
			if test.on {
				return test.judge(args)
			}
			if _, _, err := parseShadow(args); err != nil {
				return fmt.Errorf("%w: usage: splitctl %s", err, cmd.Use)
			}
			return nil
		},
		ValidArgsFunction: a.completeSplits,
	}
	cmd.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return shareFlagError(err, "samples") })
	output := formatFlag(cmd)
	cmd.Flags().StringVar(&reason, "reason", "", "why, for the history")
	cmd.Flags().Var(&ttl, "ttl", "end the override by itself after this time, as in 2h30m")
	cmd.Flags().Uint64Var(&expect, "expect-generation", 0, "refuse, with exit code 7, at any other generation")
	test.register(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		switch {
		case test.on:
			for _, name := range []string{"reason", "ttl", "expect-generation"} {
				if cmd.Flags().Changed(name) {
					return usagef("--%s goes with a sample, not with --self-test, which changes nothing", name)
				}
			}
			if cmd.Flags().Changed("config") && len(args) == 0 {
				return usagef("--config says where the limits of a split are: name the split")
			}
			return a.selfTest(cmd.Context(), first(args), test, output)
		case cmd.Flags().Changed("for"):
			return usagef("--for goes with --self-test: --ttl ends a sample by itself")
		case cmd.Flags().Changed("config"):
			return usagef("--config goes with --self-test, which reads the limits of SPLIT there: change a sample in the file and run `splitctl apply`")
		case test.tls:
			return usagef("--tls goes with --self-test: `tls` of a split's `shadow` says how its encrypted flows are seen into")
		case cmd.Flags().Changed("rate"):
			return usagef("--rate goes with --self-test: the sample is a share, as in 5%%")
		}
		name, request, err := parseShadow(args)
		if err != nil {
			return usage(err)
		}
		if cmd.Flags().Changed("ttl") {
			if ttl <= 0 || request.Default {
				return usagef("--ttl %v must be positive and goes with a sample", time.Duration(ttl))
			}
			request.TTLSeconds = time.Duration(ttl).Seconds()
		}
		request.Request = a.request(reason)
		if cmd.Flags().Changed("expect-generation") {
			request.ExpectGeneration = &expect
		}
		change, err := a.client(0).Shadow(cmd.Context(), name, request)
		if err != nil {
			return unsure(err)
		}
		a.warnOf(change)
		return a.print(output, change, func(w io.Writer) error {
			_, err := fmt.Fprintln(w, shadowText(change, request.Default))
			return err
		}, nil)
	}
	return cmd
}

// parseShadow reads [SPLIT] and then a sample or the word default. A split may be
// called default: the last argument is never the split.
func parseShadow(args []string) (name string, request api.ShadowRequest, err error) {
	switch len(args) {
	case 0:
		return "", request, errors.New("a sample is missing: write it as in `splitctl shadow 100%`, or `splitctl shadow mx 100%` where there are several splits")
	case 1:
	case 2:
		name, args = args[0], args[1:]
		if err := traffic.CheckName(name); err != nil {
			return "", request, fmt.Errorf("name split: %w", err)
		}
	default:
		return "", request, fmt.Errorf("%q is one too many", args[2])
	}
	if args[0] == wordDefault {
		request.Default = true
		return name, request, nil
	}
	sample, err := traffic.ParseWeight(args[0])
	switch {
	case err != nil && name == "" && traffic.CheckName(args[0]) == nil:
		return "", request, fmt.Errorf("a sample is missing after %q: write it as in `splitctl shadow %s 100%%`", args[0], args[0])
	case err != nil && strings.Contains(args[0], "="):
		return "", request, fmt.Errorf("%q: the sample is the split's, whichever candidate is played to: the key shadow.to names that", args[0])
	case err != nil:
		return "", request, fmt.Errorf("parse sample: %w", err)
	}
	request.SamplePPM = new(int(sample))
	return name, request, nil
}

// shadowText says what a change did to the sample.
func shadowText(change api.Change, byDefault bool) string {
	switch {
	case !change.Changed:
		return fmt.Sprintf("%s: sample already %s, generation %d", change.Split, percent(change.SamplePPM), change.Generation)
	case change.PreviousSamplePPM != change.SamplePPM:
		return changeText(change, "")
	case byDefault:
		return fmt.Sprintf("%s: sample held by the file again, still %s, generation %d", change.Split, percent(change.SamplePPM), change.Generation)
	}
	return fmt.Sprintf("%s: sample held as you have set it, still %s, generation %d", change.Split, percent(change.SamplePPM), change.Generation)
}
