package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/splitd/splitd/configs"
	"github.com/splitd/splitd/control/api"
	"github.com/splitd/splitd/control/client"
	"github.com/splitd/splitd/netfilter"
	"github.com/splitd/splitd/shadow/play"
	"github.com/splitd/splitd/traffic"
)

func (a *app) plan() *cobra.Command {
	var files []string
	var exitCode, verify bool
	var receiver receiver
	cmd := &cobra.Command{
		Use:   "plan",
		Short: "Show the exact nft text, ip rules and routes, and what differs from the kernel",
		Long: "Show what splitd puts into the kernel, as the text that an operator would type. The daemon says what it\n" +
			"runs and what differs from the kernel. With --config, or without a daemon, the plan is made from the files\n" +
			"here, without root and without the nft program; then nobody compares.\n\n" +
			"With --receiver it prints what the new host needs so that replies come back through this router, as plain\n" +
			"configuration for a host that is to run no splitd: of the splits in the files here, or of return_paths.\n\n" +
			"  splitctl plan --receiver -o networkd --via 10.0.0.1 --device eth0\n" +
			"  splitctl plan --receiver -o nft --config new-host.yaml",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 0 {
				return usagef("%q is one too many: plan takes no split, it shows what is of the whole host", args[0])
			}
			return nil
		},
	}
	output := formatFlag(cmd, receiverForms()...)
	receiver.flags(cmd)
	cmd.Flags().StringArrayVar(&files, "config", nil, "plan this file instead of asking the daemon (repeatable)")
	cmd.Flags().BoolVar(&verify, "verify", false, "load the nft text with nft in a throw-away network namespace and compare what it lists")
	cmd.Flags().BoolVar(&exitCode, "exit-code", false, "exit with 0 if nothing differs from the kernel, 1 if something does, more on an error")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if exitCode && len(files) > 0 {
			return usagef("--exit-code compares with the kernel through the daemon: it does not go with --config")
		}
		if err := receiver.check(cmd, output); err != nil {
			return err
		}
		if receiver.wanted && verify {
			return usagef("--verify is about the plan of this host: it does not go with --receiver")
		}
		if receiver.wanted {
			return receiver.print(a, files, output)
		}
		plan, missing, err := a.makePlan(cmd.Context(), files)
		if err != nil {
			return aboveOne(err, exitCode)
		}
		if verify {
			if err := verifyText(cmd.Context(), plan.Nft); err != nil {
				return aboveOne(err, exitCode)
			}
			a.say("splitctl: nft loads the plan and lists the same text")
		}
		if err := a.print(output, plan, func(w io.Writer) error { return writePlan(w, plan) }, nil); err != nil {
			return aboveOne(err, exitCode)
		}
		switch {
		case !exitCode:
			return nil
		case missing != nil:
			return missing
		case len(plan.Differences) > 0:
			return differs()
		}
		return nil
	}
	return cmd
}

// makePlan asks the daemon; without one, or when files are named, it makes
// the plan itself and says in missing why nobody compared.
func (a *app) makePlan(ctx context.Context, files []string) (plan api.Plan, missing, err error) {
	if len(files) == 0 {
		plan, err = a.client(0).Plan(ctx)
		if !errors.Is(err, client.ErrUnreachable) || a.socket != "" {
			return plan, nil, err
		}
		missing = err
		a.say("splitctl: " + err.Error())
		a.say("splitctl: this plan is made from the files, with the files' weights")
	}
	config, err := a.load(files)
	if err != nil {
		return api.Plan{}, missing, err
	}
	plan, err = planOf(config, a.now())
	return plan, missing, err
}

// load reads the files, those at the usual place when none are named. Where an
// ordinary user's daemon would have its socket and state is asked by nobody
// here, so they have the system's defaults for everybody.
func (a *app) load(files []string) (configs.Config, error) {
	return configs.Load(configs.Options{Files: files, LookupEnv: a.lookupEnv})
}

// planOf makes the plan of a configuration; Differences stays nil, because
// nobody compared. What is wrong with files by which shadows see into TLS is a note: the
// plan may be made elsewhere.
func planOf(config configs.Config, now time.Time) (api.Plan, error) {
	wanted, err := netfilter.Describe(config.Splits, config.ReturnPaths, netfilter.Settings(config.Netfilter))
	if err != nil {
		return api.Plan{}, err
	}
	ofFiles, _ := config.JudgeFiles(now, configs.Never)
	plan := api.Plan{
		Envelope: api.Of(api.KindPlan), Nft: wanted.Nft,
		Rules: append([]string{}, wanted.Rules...), Routes: append([]string{}, wanted.Routes...),
		Notes: slices.Concat([]string{}, config.Notes, ofFiles, play.Notes(config.Splits)),
	}
	if way := wayBackNote(config.Splits); way != "" {
		plan.Notes = append(plan.Notes, way)
	}
	inKernel := false
	for _, s := range config.Splits {
		inKernel = inKernel || s.Mode != traffic.ModeProxy
		if s.Mode == traffic.ModeAuto {
			plan.Notes = append(plan.Notes, fmt.Sprintf("split %q: mode auto is planned as kernel", s.Name))
		}
	}
	if inKernel {
		plan.Notes = append(plan.Notes, trackingNote())
	}
	return plan, nil
}

// wayBackNote says what no file and no health check shows of the backends that
// answer by return_paths.
func wayBackNote(splits []traffic.Split) string {
	var named []string
	for _, s := range splits {
		for _, b := range s.Backends() {
			elsewhere := slices.ContainsFunc(b.Addresses, func(a traffic.Address) bool {
				return !slices.Contains(s.Service.Addresses, a.IP) && !a.IP.IsLoopback()
			})
			if answersByPolicy(s) && elsewhere {
				named = append(named, fmt.Sprintf("%q of split %q", b.Name, s.Name))
			}
		}
	}
	if len(named) == 0 {
		return ""
	}
	more := ""
	if len(named) > 1 {
		more = fmt.Sprintf(" (and of %d more)", len(named)-1)
	}
	return "replies of backend " + named[0] + more + " have to come back through this host, which health checks do not see: " +
		"that host needs return_paths, or `splitctl plan --receiver` makes them for it"
}

// answersByPolicy says that the split's backends elsewhere need a return path to
// this host: their clients' addresses are kept, and it is no matter of their
// other routes.
func answersByPolicy(s traffic.Split) bool {
	return s.Transparent() || s.Mode != traffic.ModeProxy && s.Return == traffic.ReturnPolicy
}

// trackingNote says what every kernel split does to its host: the first nat
// chain turns connection tracking on for all of its traffic.
func trackingNote() string {
	note := "the nat chain turns connection tracking on for all traffic of this host"
	limit, err := os.ReadFile("/proc/sys/net/netfilter/nf_conntrack_max")
	if err != nil { // not loaded yet
		return note + "; nf_conntrack_max bounds the flows it holds"
	}
	return note + ", which holds " + strings.TrimSpace(string(limit)) + " flows (nf_conntrack_max)"
}

// writePlan writes the nft text so that `nft -f` takes the whole answer: all
// else are its comments.
func writePlan(w io.Writer, plan api.Plan) error {
	var text strings.Builder
	text.WriteString(plan.Nft)
	if plan.Nft == "" && len(plan.Rules)+len(plan.Routes) == 0 {
		text.WriteString("# nothing goes into the kernel: splits in mode proxy are the relay's, `splitctl show` has them\n")
	}
	for _, section := range []struct {
		title string
		lines []string
	}{
		{"ip rules", plan.Rules}, {"ip routes", plan.Routes}, {"notes", plan.Notes}, {"differs from the kernel", plan.Differences},
	} {
		if len(section.lines) == 0 {
			continue
		}
		if text.Len() > 0 {
			text.WriteString("\n")
		}
		text.WriteString("# " + section.title + ":\n")
		for _, line := range section.lines {
			text.WriteString("#   " + printable(line) + "\n")
		}
	}
	if plan.Differences != nil && len(plan.Differences) == 0 {
		text.WriteString("\n# nothing differs from the kernel\n")
	}
	_, err := io.WriteString(w, text.String())
	return err
}

// aboveOne keeps exit code 1 free for "something differs".
func aboveOne(err error, wanted bool) error {
	if wanted && exitCode(err) <= exitError {
		return &coded{code: exitUsage, err: err}
	}
	return err
}

func (a *app) lookupEnv(name string) (string, bool) {
	value := a.getenv(name)
	return value, value != ""
}
