package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/splitd/splitd/control/api"
	"github.com/splitd/splitd/control/client"
	"github.com/splitd/splitd/traffic"
)

// The groups of the help text.
const (
	groupRead   = "read"
	groupChange = "change"
	groupLater  = "later"
)

// app is one run of splitctl.
type app struct {
	env
	socket  string
	started bool // the command line was understood: errors are no longer about usage
}

// root is the table of contents.
func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "splitctl",
		Short: "Ask and steer splitd",
		Long: "Splitctl asks a running splitd and changes what it does.\n\n" +
			"The way back, always: splitctl off [SPLIT|--all], and with --force when the daemon does not answer.\n\n" +
			"Exit codes: 0 ok, 1 error, 2 usage or not available in this version, 3 daemon unreachable,\n" +
			"4 wait timed out, 5 rolled back, 6 held, needs a human, 7 conflict, 130 interrupted.",
		SilenceErrors:    true,
		SilenceUsage:     true,
		PersistentPreRun: func(*cobra.Command, []string) { a.started = true },
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return errors.New("a command is missing")
			}
			text := fmt.Sprintf("unknown command %q", args[0])
			if like := likely(cmd, args[0]); len(like) > 0 {
				text += ": did you mean " + strings.Join(like, " or ") + "?"
			}
			return errors.New(text)
		},
		RunE: func(*cobra.Command, []string) error { return nil },
	}
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return plainFlagError(err) })
	root.PersistentFlags().StringVar(&a.socket, "socket", "",
		"control socket (default: $SPLITD_CONTROL_SOCKET, "+client.SystemSocket+", $XDG_RUNTIME_DIR/splitd/splitd.sock)")
	root.AddGroup(
		&cobra.Group{ID: groupRead, Title: "Commands that read:"},
		&cobra.Group{ID: groupChange, Title: "Commands that change:"},
		&cobra.Group{ID: groupLater, Title: "Not available in this version:"})
	add(root, groupRead, a.status(), a.show(), a.plan(), a.history(), a.where(), a.report(), a.wait(), a.doctor(), a.version())
	add(root, groupChange, a.set(), a.shadow(), a.off(), a.drain(), a.undo(), a.apply())
	add(root, groupLater, later()...)
	root.AddCommand(a.candidate())
	return root
}

// likely are the commands that a word may have been meant for: of a short one
// every letter counts. What is not available yet is nobody's intention.
func likely(root *cobra.Command, word string) []string {
	root.SuggestionsMinimumDistance = 2
	if len(word) < 4 {
		root.SuggestionsMinimumDistance = 1
	}
	return slices.DeleteFunc(root.SuggestionsFor(word), func(name string) bool {
		return slices.ContainsFunc(root.Commands(), func(c *cobra.Command) bool { return c.Name() == name && c.GroupID == groupLater })
	})
}

// plainFlagError says what a number must be, and not which function has read it.
func plainFlagError(err error) error {
	before, after, ok := strings.Cut(err.Error(), ": strconv.")
	switch {
	case !ok:
		return err
	case strings.HasSuffix(after, strconv.ErrRange.Error()):
		return fmt.Errorf("%s: it is too large, or too small", before)
	case strings.HasPrefix(after, "ParseBool"):
		return fmt.Errorf("%s: it must be true or false", before)
	}
	return fmt.Errorf("%s: it must be a whole number", before)
}

// daemons names the program that has the command, where it is the other one.
func (a *app) daemons(err error) error {
	if len(a.args) > 0 && slices.Contains([]string{"check", "cleanup", "demo", "restore", "run"}, a.args[0]) {
		return fmt.Errorf("unknown command %q: that is `splitd %s`", a.args[0], a.args[0])
	}
	return err
}

func add(root *cobra.Command, group string, commands ...*cobra.Command) {
	for _, c := range commands {
		c.GroupID = group
		root.AddCommand(c)
	}
}

// client asks the daemon; 0 is the usual patience.
func (a *app) client(timeout time.Duration) *client.Client {
	if timeout == 0 {
		timeout = a.patience
	}
	return &client.Client{Socket: a.socket, Timeout: timeout, Getenv: a.getenv}
}

// request carries what every change carries.
func (a *app) request(reason string) api.Request {
	return api.Request{Reason: reason, Command: commandLine(a.args), SudoUser: a.getenv("SUDO_USER")}
}

// commandLine writes the arguments as a shell would read them.
func commandLine(args []string) string {
	words := make([]string, 0, len(args)+1)
	words = append(words, "splitctl")
	for _, arg := range args {
		if arg == "" || strings.ContainsAny(arg, " \t\n'\"\\$`*?[]{}()<>|&;#~!") {
			arg = "'" + strings.ReplaceAll(arg, "'", `'\''`) + "'"
		}
		words = append(words, arg)
	}
	return strings.Join(words, " ")
}

// onlySplit reads the one argument [SPLIT].
func onlySplit(cmd *cobra.Command, args []string) error {
	if len(args) > 1 {
		return usagef("%q is one too many: usage: %s", args[1], cmd.UseLine())
	}
	if len(args) == 1 {
		if err := traffic.CheckName(args[0]); err != nil {
			return usagef("name split: %v", err)
		}
	}
	return nil
}

func first(args []string) string {
	if len(args) == 0 {
		return ""
	}
	return args[0]
}

// completeSplits offers the names of the splits for the first argument.
func (a *app) completeSplits(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	ctx := cmd.Context()
	if ctx == nil {
		ctx = context.Background()
	}
	list, err := a.client(time.Second).Splits(ctx, "")
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	names := make([]string, 0, len(list.Items))
	for _, s := range list.Items {
		names = append(names, s.Name)
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}
