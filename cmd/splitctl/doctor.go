package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/splitd/splitd/configs"
	"github.com/splitd/splitd/control/api"
	"github.com/splitd/splitd/control/client"
	"github.com/splitd/splitd/netfilter"
	"github.com/splitd/splitd/netfilter/doctor"
	"github.com/splitd/splitd/traffic"
)

func (a *app) doctor() *cobra.Command {
	var files []string
	var strict bool
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Look for what will go wrong on this host, with the cure of each",
		Long: "Look at this host for what keeps splits from working or breaks them in silence: forwarding, routes, firewalls,\n" +
			"marks, connection tracking, saved rulesets. Each finding has what was seen, why it matters, and the command\n" +
			"that cures it. It changes nothing.\n\n" +
			"The daemon looks, for what it runs. With --config, or without a daemon, this program does, for the files,\n" +
			"which needs root. Run it on the router and on the new host.\n\n" +
			"Exit codes: 0 no error was found (warnings and notes may be), 1 an error was; with --exit-code 1 for warnings\n" +
			"too, and more than 1 when the host could not be looked at.",
		Args: cobra.NoArgs,
	}
	output := formatFlag(cmd)
	cmd.Flags().StringArrayVar(&files, "config", nil, "look for what this file needs instead of asking the daemon (repeatable)")
	cmd.Flags().BoolVar(&strict, "exit-code", false, "exit with 1 if there are warnings too, more on an error")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		found, err := a.examine(cmd.Context(), files)
		if err != nil {
			return aboveOne(err, strict)
		}
		if err := a.print(output, found, func(w io.Writer) error { return a.writeFindings(w, found.Items) }, nil); err != nil {
			return aboveOne(err, strict)
		}
		worst := worstOf(found.Items)
		if worst == doctor.LevelError || strict && worst == doctor.LevelWarning {
			return &coded{code: exitError, err: errors.New("something is wrong with this host"), quiet: true}
		}
		return nil
	}
	return cmd
}

// examine asks the daemon; without one, or when files are named, it looks
// itself.
func (a *app) examine(ctx context.Context, files []string) (api.Doctor, error) {
	if len(files) == 0 {
		found, err := a.client(0).Doctor(ctx)
		if !errors.Is(err, client.ErrUnreachable) || a.socket != "" {
			return found, err
		}
		a.say("splitctl: " + err.Error())
		a.say("splitctl: this host is looked at for what the files say")
	}
	config, err := a.load(files)
	if err != nil {
		return api.Doctor{}, err
	}
	question := doctor.Question{
		Paths: config.ReturnPaths, Settings: netfilter.Settings(config.Netfilter), IncludeDir: filepath.Dir(config.Control.Socket),
	}
	for _, s := range config.Splits {
		broken, remarks := configs.JudgeSplit(s, time.Now())
		question.Shadows = append(question.Shadows, doctor.Shadow{Split: s.Name, Broken: broken, Remarks: remarks, SeenInto: s.Shadow.TLS.On()})
		switch {
		case s.Mode != traffic.ModeProxy:
			question.Splits = append(question.Splits, s)
		case s.Transparent():
			question.Relayed = append(question.Relayed, s)
		}
	}
	findings, err := doctor.Examiner{}.Examine(ctx, question)
	if err != nil {
		return api.Doctor{}, err
	}
	found := api.Doctor{Envelope: api.Of(api.KindDoctor), Items: make([]api.Finding, 0, len(findings))}
	for _, f := range findings {
		found.Items = append(found.Items, api.Finding{
			ID: f.ID, Level: string(f.Level), Where: string(f.Where), Seen: f.Seen, Why: f.Why, Cure: f.Cure, Advice: f.Advice(),
		})
	}
	return found, nil
}

// worstOf is the worst level that was found.
func worstOf(items []api.Finding) doctor.Level {
	worst := doctor.LevelOK
	for _, f := range items {
		worst = worst.Worse(doctor.Level(f.Level))
	}
	return worst
}

// writeFindings writes the errors first, then warnings and notes, and what was
// looked at and found well in one line.
func (a *app) writeFindings(w io.Writer, items []api.Finding) error {
	var text strings.Builder
	paint := func(s style, t string) string {
		if !a.colours(a.stdout) {
			return t
		}
		return sgr(s, t)
	}
	var well []string
	for _, level := range []struct {
		name  doctor.Level
		style style
	}{{doctor.LevelError, styleBad}, {doctor.LevelWarning, styleWarn}, {doctor.LevelNote, styleHead}, {doctor.LevelOK, styleGood}} {
		for _, f := range items {
			switch {
			case f.Level != string(level.name):
			case level.name == doctor.LevelOK:
				well = append(well, printable(f.ID))
			default:
				fmt.Fprintf(&text, "%s %s (%s)\n", paint(level.style, f.Level), printable(f.ID), printable(f.Where))
				for _, line := range []string{f.Seen, f.Why, f.Advice} {
					if line != "" {
						text.WriteString("  " + printable(line) + "\n")
					}
				}
			}
		}
	}
	if len(well) > 0 {
		fmt.Fprintf(&text, "%s %s\n", paint(styleGood, "ok"), strings.Join(well, ", "))
	}
	_, err := io.WriteString(w, text.String())
	return err
}
