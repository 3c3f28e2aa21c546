package main

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/splitd/splitd/control/api"
	"github.com/splitd/splitd/traffic"
)

func (a *app) drain() *cobra.Command {
	var reason, rate string
	var kill bool
	var expect uint64
	cmd := &cobra.Command{
		Use:   "drain [SPLIT] CANDIDATE",
		Short: "Send a candidate no new flow, and end the open ones if asked",
		Long: "Close a candidate to new flows, those of its `clients: always` too, until its weight is set (set, undo).\n" +
			"Open flows go on. --kill ends them now: TCP clients get a reset at their next packet. --rate 20/s ends\n" +
			"so many a second, for pools and IMAP that never reconnect by themselves.",
		Example: "  splitctl drain new                  of the only split\n" +
			"  splitctl drain mx new --rate 20/s   and end 20 flows a second\n" +
			"  splitctl wait mx --for=drained",
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 || len(args) > 2 {
				return usagef("name a candidate: usage: splitctl %s", cmd.Use)
			}
			for _, name := range args {
				if err := traffic.CheckName(name); err != nil {
					return usage(err)
				}
			}
			return nil
		},
		ValidArgsFunction: a.completeSplits,
	}
	output := formatFlag(cmd)
	cmd.Flags().StringVar(&reason, "reason", "", "why, for the history")
	cmd.Flags().BoolVar(&kill, "kill", false, "end its open flows now")
	cmd.Flags().StringVar(&rate, "rate", "", "end so many of its open flows, as in 20/s or 30/m")
	cmd.Flags().Uint64Var(&expect, "expect-generation", 0, "refuse, with exit code 7, at any other generation")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		request := api.DrainRequest{Request: a.request(reason), Backend: args[len(args)-1], Kill: kill}
		if cmd.Flags().Changed("rate") {
			perSecond, err := parseRate(rate)
			if err != nil {
				return usage(err)
			}
			if kill {
				return usagef("--kill ends all flows at once and --rate some at a time: choose one of them")
			}
			request.RatePerSecond = perSecond
		}
		if cmd.Flags().Changed("expect-generation") {
			request.ExpectGeneration = &expect
		}
		change, err := a.client(0).Drain(cmd.Context(), first(args[:len(args)-1]), request)
		if err != nil {
			return unsure(err)
		}
		what := request.Backend + " is drained: it gets no new flow, of its groups neither"
		if request.RatePerSecond > 0 {
			what += ", and " + rate + " of the open ones end"
		}
		return a.printChangeOf(output, change, what)
	}
	return cmd
}

// parseRate reads a number of flows a second ("20/s", "0.5/s"), a minute
// ("30/m") or an hour ("100/h").
func parseRate(text string) (perSecond float64, err error) {
	number, unit, _ := strings.Cut(strings.TrimSpace(text), "/")
	units := map[string]time.Duration{"s": time.Second, "m": time.Minute, "h": time.Hour}
	flows, err := strconv.ParseFloat(number, 64)
	per, known := units[unit]
	// Digits alone: NaN, Inf and exponents are numbers to ParseFloat.
	if err != nil || !known || strings.Trim(number, ".0123456789") != "" || flows <= 0 {
		return 0, fmt.Errorf("%q is not a rate: write flows per time, such as 20/s or 30/m", text)
	}
	return flows / per.Seconds(), nil
}
