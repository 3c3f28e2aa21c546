package main

import (
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/splitd/splitd/control/api"
)

func (a *app) show() *cobra.Command {
	cmd := &cobra.Command{
		Use:               "show [SPLIT]",
		Short:             "Show all that is known of a split",
		Args:              onlySplit,
		ValidArgsFunction: a.completeSplits,
	}
	output := formatFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		list, err := a.client(0).Splits(cmd.Context(), first(args))
		if err != nil {
			return err
		}
		if output.value == formatTable {
			a.warnAbout(list)
		}
		return a.print(output, list, func(w io.Writer) error { return a.writeSplits(w, list) }, nil)
	}
	return cmd
}

func (a *app) writeSplits(w io.Writer, list api.SplitList) error {
	for i, s := range list.Items {
		if i > 0 {
			if _, err := io.WriteString(w, "\n"); err != nil {
				return err
			}
		}
		if err := a.writeSplit(w, s); err != nil {
			return err
		}
	}
	return nil
}

// writeSplit writes one fact a line, then the backends and who decided the
// weight of each candidate.
func (a *app) writeSplit(w io.Writer, s api.Split) error {
	facts := []struct{ name, value string }{
		{"split", s.Name},
		{"mode", modeText(s)},
		{"protocol", s.Protocol},
		{"service", serviceText(s.Service)},
		{"generation", fmt.Sprint(s.Generation)},
		{"weight", fmt.Sprintf("%s (%d ppm)", percent(s.WeightPPM), s.WeightPPM)},
		{"observed", percentOrNone(s.ObservedPPM)},
		{"origin", a.originLine(s.Origin)},
		{"pinned", yesNo(s.Pinned)},
		{"flows", fmt.Sprintf("%s in all, %s active, as of %s", numberOrNone(s.Flows.Total), numberOrNone(s.Flows.Active), a.local(s.Flows.AsOf))},
		{"shadow", fmt.Sprintf("%s, sample %s", s.Shadow.State, percent(s.Shadow.SamplePPM))},
		{"in sync", syncCell(s.Kernel).text},
		{"defined in", s.Definition},
		{"differs from", s.DiffersFrom},
	}
	for _, fact := range facts {
		value := printable(fact.value)
		if value == "" {
			value = none
		}
		if _, err := fmt.Fprintf(w, "%-13s %s\n", fact.name, value); err != nil {
			return err
		}
	}
	if _, err := io.WriteString(w, "\n"); err != nil {
		return err
	}
	if err := a.backends([]api.Split{s}).write(w); err != nil {
		return err
	}
	return a.writeOrigins(w, s)
}

func (a *app) writeOrigins(w io.Writer, s api.Split) error {
	t := a.table(nil, "CANDIDATE", "WEIGHT", "DECIDED BY")
	for _, b := range s.Backends {
		if b.Origin != nil {
			t.row(b.Name, percent(b.WeightPPM), a.originLine(*b.Origin))
		}
	}
	if len(t.rows) == 0 {
		return nil
	}
	if _, err := io.WriteString(w, "\n"); err != nil {
		return err
	}
	return t.write(w)
}

// originLine tells all about who decided.
func (a *app) originLine(o api.Origin) string {
	text := o.Layer
	if o.Actor != "" {
		text += " " + o.Actor
	}
	if o.Since != nil {
		text += ", since " + a.localOrNone(o.Since)
	}
	if o.Until != nil {
		text += ", until " + a.localOrNone(o.Until)
	}
	if o.Reason != "" {
		text += ": " + o.Reason
	}
	return text
}

func joined(texts []string) string { return strings.Join(texts, ",") }
