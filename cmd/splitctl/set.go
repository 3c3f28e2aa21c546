package main

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/splitd/splitd/control/api"
	"github.com/splitd/splitd/traffic"
)

// wordDefault drops the operator's weights: the file's are in force again.
const wordDefault = "default"

func (a *app) set() *cobra.Command {
	var reason, confirm string
	var ttl duration
	var expect uint64
	var kill bool
	cmd := &cobra.Command{
		Use:   "set [SPLIT] W | [SPLIT] CANDIDATE=W... | [SPLIT] default",
		Short: "Set weights: 5%, 1/3, new=5% other=1%, or the file's",
		Example: "  splitctl set 5%                    the only candidate of the only split\n" +
			"  splitctl set mx 5% --reason CHG-1  of the split mx\n" +
			"  splitctl set mx new=5% other=1%    by candidate\n" +
			"  splitctl set mx default            the file's weights again",
		Args: func(cmd *cobra.Command, args []string) error {
			if _, _, err := parseSet(args); err != nil {
				return fmt.Errorf("%w: usage: splitctl %s", err, cmd.Use)
			}
			return nil
		},
		ValidArgsFunction: a.completeSplits,
	}
	cmd.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return shareFlagError(err, "weights") })
	output := formatFlag(cmd)
	cmd.Flags().StringVar(&reason, "reason", "", "why, for the history")
	cmd.Flags().Var(&ttl, "ttl", "end the override by itself after this time, as in 2h30m")
	cmd.Flags().BoolVar(&kill, "kill", false, "end the open flows of the candidates that are set to 0%")
	cmd.Flags().StringVar(&confirm, "confirm", "", "roll back unless confirmed in time (not available in this version)")
	cmd.Flags().Uint64Var(&expect, "expect-generation", 0, "refuse, with exit code 7, at any other generation")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if cmd.Flags().Changed("confirm") {
			return notAvailable("set --confirm", "`--ttl 5m` takes the weight back by itself, to the file's")
		}
		name, request, err := parseSet(args)
		if err != nil {
			return usage(err)
		}
		if cmd.Flags().Changed("ttl") {
			if ttl <= 0 || request.Default {
				return usagef("--ttl %v must be positive and goes with a weight", time.Duration(ttl))
			}
			request.TTLSeconds = time.Duration(ttl).Seconds()
		}
		request.Request, request.Kill = a.request(reason), kill
		if cmd.Flags().Changed("expect-generation") {
			request.ExpectGeneration = &expect
		}
		change, err := a.client(0).Set(cmd.Context(), name, request)
		if err != nil {
			return unsure(err)
		}
		what := "held as you have set it"
		switch {
		case request.Default:
			what = "held by the file again"
		case len(request.Weights) > 1:
			what = "its candidates' weights are as you have set them"
		}
		return a.printChangeOf(output, change, what)
	}
	return cmd
}

// shareFlagError says what a share of that name is for what is no flag.
func shareFlagError(err error, shares string) error {
	if _, cut, ok := strings.Cut(err.Error(), "unknown shorthand flag: '"); ok && cut[0] >= '0' && cut[0] <= '9' {
		return fmt.Errorf("%s: %s are 0%% to 100%%", cut[strings.LastIndex(cut, " ")+1:], shares)
	}
	return plainFlagError(err)
}

// parseSet reads [SPLIT] and then one weight, weights by candidate, or the
// word default. A split may be called default: the last argument is never the
// split.
func parseSet(args []string) (name string, request api.SetRequest, err error) {
	if len(args) == 0 {
		return "", request, errors.New("a weight is missing: write it as in `splitctl set 5%`, or `splitctl set mx 5%` where there are several splits")
	}
	if len(args) > 1 && !strings.Contains(args[0], "=") {
		name, args = args[0], args[1:]
		if err := traffic.CheckName(name); err != nil {
			return "", request, fmt.Errorf("name split: %w", err)
		}
	}
	if strings.Contains(args[0], "=") {
		request.Weights, err = parseWeights(args)
		return name, request, err
	}
	if len(args) > 1 {
		return "", request, fmt.Errorf("%q is one too many", args[1])
	}
	if args[0] == wordDefault {
		request.Default = true
		return name, request, nil
	}
	weight, err := traffic.ParseWeight(args[0])
	if err != nil && name == "" && traffic.CheckName(args[0]) == nil && !strings.ContainsAny(args[0][:1], "0123456789") {
		return "", request, fmt.Errorf("a weight is missing after %q: write it as in `splitctl set %s 5%%`", args[0], args[0])
	}
	if err != nil {
		return "", request, fmt.Errorf("parse weight: %w", err)
	}
	ppm := int(weight)
	request.WeightPPM = &ppm
	return name, request, nil
}

// parseWeights reads CANDIDATE=W for each argument.
func parseWeights(args []string) (map[string]int, error) {
	weights := map[string]int{}
	for _, arg := range args {
		candidate, text, ok := strings.Cut(arg, "=")
		if !ok {
			return nil, fmt.Errorf("%q is not CANDIDATE=W", arg)
		}
		if err := traffic.CheckName(candidate); err != nil {
			return nil, fmt.Errorf("name candidate: %w", err)
		}
		if _, twice := weights[candidate]; twice {
			return nil, fmt.Errorf("candidate %q stands twice", candidate)
		}
		weight, err := traffic.ParseWeight(text)
		if err != nil {
			return nil, fmt.Errorf("parse weight of %q: %w", candidate, err)
		}
		weights[candidate] = int(weight)
	}
	return weights, nil
}
