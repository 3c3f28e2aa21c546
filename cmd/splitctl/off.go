package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/splitd/splitd/control/api"
	"github.com/splitd/splitd/control/client"
)

// offPatience is how long `off` waits for the daemon. A healthy one answers
// within 100 ms; with --force the whole way back takes less than 2 s.
const offPatience = time.Second

func (a *app) off() *cobra.Command {
	o := &offCommand{app: a}
	cmd := &cobra.Command{
		Use:   "off [SPLIT | --all]",
		Short: "Send no new flow to any candidate, now",
		Long: "Take every candidate to 0, now. It only lowers, and needs no store, no disk and no configuration.\n\n" +
			"With --force (as root) it also works when the daemon hangs or is dead: it ends the daemon and rewrites\n" +
			"the kernel itself. Without a daemon to ask, --force without SPLIT means every split.",
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 && o.all {
				return usagef("%q and --all: choose one of them", args[0])
			}
			return onlySplit(cmd, args)
		},
		ValidArgsFunction: a.completeSplits,
	}
	o.output = formatFlag(cmd)
	cmd.Flags().BoolVar(&o.all, "all", false, "every split")
	cmd.Flags().BoolVar(&o.force, "force", false, "if the daemon does not answer, end it and rewrite the kernel")
	cmd.Flags().StringVar(&o.reason, "reason", "", "why, for the history")
	cmd.Flags().StringVar(&o.stateDir, "state-dir", "", "with --force: the daemon's state_dir (default: as the kernel's table says, as the daemon was started, $SPLITD_STATE_DIR, or beside the socket or in "+systemStateDir+" if its files are there)")
	cmd.RunE = func(cmd *cobra.Command, args []string) error { return o.run(cmd.Context(), first(args)) }
	return cmd
}

type offCommand struct {
	*app
	output     *format
	all, force bool
	reason     string
	stateDir   string
}

func (o *offCommand) run(ctx context.Context, split string) error {
	err := o.ask(ctx, split)
	if err == nil {
		return nil
	}
	missing, silent := errors.AsType[*client.Unreachable](err)
	if !o.force {
		if silent && !errors.Is(missing.Cause, fs.ErrPermission) {
			return o.teach(missing, split)
		}
		return err
	}
	// A daemon that answers that it cannot is no way back either.
	if refusal, ok := errors.AsType[*api.Error](err); ok && refusal.Code != api.CodeFailed {
		return err
	}
	why := err.Error()
	if silent && missing.Ending == nil {
		why = missing.Brief()
	}
	o.say("splitctl: going on without the daemon, in the kernel: " + printableLines(why))
	return o.forceOff(ctx, split, !silent || missing.Hung)
}

// ask has the daemon do it.
func (o *offCommand) ask(ctx context.Context, split string) error {
	daemon, request := o.client(offPatience), o.request(o.reason)
	daemon.Strict = o.force // who forces does not wait for a change that goes on
	if o.all {
		list, err := daemon.OffAll(ctx, request)
		if err != nil {
			return err
		}
		return o.printChanges(o.output, list)
	}
	change, err := daemon.Off(ctx, split, request)
	if err != nil {
		return o.orAll(ctx, err)
	}
	return o.printChangeOf(o.output, change, closed)
}

// orAll adds to the daemon's question which split is meant that all may be,
// where there are others.
func (o *offCommand) orAll(ctx context.Context, err error) error {
	refusal, ok := errors.AsType[*api.Error](err)
	if !ok || refusal.Code != api.CodeInvalid && refusal.Code != api.CodeNotFound {
		return err
	}
	if list, failed := o.client(0).Splits(ctx, ""); failed == nil && len(list.Items) < 2 {
		return err
	}
	more := *refusal
	more.Message += " (`splitctl off --all` takes all)"
	return &more
}

// teach names the command that needs no daemon.
func (o *offCommand) teach(missing *client.Unreachable, split string) error {
	command := o.forceLine(split)
	if e := missing.Ending; e != nil && !e.Kernel {
		return missing // nothing of it can be forced: its relay begins no flows
	}
	text := fmt.Sprintf("no daemon listens on %q: %s (as root) rewrites the kernel itself", missing.Socket, command)
	if missing.Hung {
		text = fmt.Sprintf("the daemon does not answer: %s (as root) ends it and rewrites the kernel itself", command)
	}
	if missing.Ending != nil {
		text = fmt.Sprintf("%v; for splits in the kernel: %s (as root) ends it and rewrites the kernel itself", missing, command)
	}
	return &coded{code: exitUnreachable, err: errors.New(text)}
}

// forceLine is the command that needs no daemon.
func (o *offCommand) forceLine(split string) string {
	words := []string{"splitctl", "off"}
	if o.all {
		words = append(words, "--all")
	}
	if split != "" {
		words = append(words, split)
	}
	return strings.Join(append(words, "--force"), " ")
}
