package main

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/splitd/splitd/control/api"
	"github.com/splitd/splitd/traffic"
)

func (a *app) drain() *cobra.Command {
	var reason, rate string
	kill := killFlag{after: -1}
	var expect uint64
	cmd := &cobra.Command{
		Use:   "drain [SPLIT] CANDIDATE",
		Short: "Send a candidate no new flow, and end the open ones if asked",
		Long: "Close a candidate to new flows, those of its `clients: always` too, until its weight is set (set, undo).\n" +
			"Open flows go on. --kill ends them now: TCP clients get a reset, in mode kernel at their next packet.\n" +
			"--kill=30s ends what is left after that time. --rate 20/s ends so many a second, for pools and IMAP that\n" +
			"never reconnect by themselves. `splitctl status` tells how far it is.",
		Example: "  splitctl drain new                  of the only split\n" +
			"  splitctl drain mx new --kill=30s    and end what is open after 30 seconds\n" +
			"  splitctl drain mx new --rate 20/s   and end 20 flows a second\n" +
			"  splitctl wait mx --for=drained",
		Args: func(cmd *cobra.Command, args []string) error {
			if i := slices.IndexFunc(args, isDuration); i >= 0 && kill.after == 0 {
				return usagef("write --kill=%s, with an equals sign and no space", args[i])
			}
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
	cmd.Flags().Var(&kill, "kill", "end its open flows now, or with =30s what is left after that time")
	cmd.Flags().Lookup("kill").NoOptDefVal = "0s"
	cmd.Flags().StringVar(&rate, "rate", "", "end so many of its open flows, as in 20/s or 30/m")
	cmd.Flags().Uint64Var(&expect, "expect-generation", 0, "refuse, with exit code 7, at any other generation")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		request := api.DrainRequest{Request: a.request(reason), Backend: args[len(args)-1], Kill: kill.after == 0}
		if kill.after > 0 {
			request.KillAfterSeconds = kill.after.Seconds()
		}
		if cmd.Flags().Changed("rate") {
			perSecond, err := parseRate(rate)
			if err != nil {
				return usage(err)
			}
			if request.Kill {
				return usagef("--kill ends all flows at once and --rate some at a time: choose one of them, or a time for --kill as in --kill=30s")
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
		if kill.after > 0 {
			what += fmt.Sprintf(", and what is open after %v is ended", kill.after)
		}
		return a.printChangeOf(output, change, what)
	}
	return cmd
}

// killFlag is when flows are ended: at once (0), after some time, or not (-1).
type killFlag struct{ after time.Duration }

// String implements pflag.Value.
func (k *killFlag) String() string {
	if k.after < 0 {
		return ""
	}
	return k.after.String()
}

// Type implements pflag.Value; it is what the help calls the argument.
func (k *killFlag) Type() string { return "duration" }

// Set implements pflag.Value.
func (k *killFlag) Set(text string) error {
	after, err := time.ParseDuration(text)
	if err != nil || after < 0 {
		return fmt.Errorf("%q is not a time: write --kill for now, or such as --kill=30s", text)
	}
	k.after = after
	return nil
}

func isDuration(text string) bool {
	_, err := time.ParseDuration(text)
	return err == nil
}

// parseRate reads a number of flows a second ("20/s", "0.5/s"), a minute
// ("30/m") or an hour ("100/h").
func parseRate(text string) (perSecond float64, err error) {
	number, unit, _ := strings.Cut(strings.TrimSpace(text), "/")
	units := map[string]time.Duration{"s": time.Second, "m": time.Minute, "h": time.Hour}
	flows, err := strconv.ParseFloat(number, 64)
	per, known := units[unit]
	if err == nil && known && flows == 0 {
		return 0, fmt.Errorf("%q ends no flow: write more than 0, such as 20/s, or no --rate, which leaves flows alone", text)
	}
	// Digits alone: NaN, Inf and exponents are numbers to ParseFloat.
	if err != nil || !known || strings.Trim(number, ".0123456789") != "" || flows <= 0 {
		return 0, fmt.Errorf("%q is not a rate: write flows per time, such as 20/s or 30/m", text)
	}
	return flows / per.Seconds(), nil
}
