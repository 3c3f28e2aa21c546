package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"maps"
	"slices"

	"github.com/spf13/cobra"

	"github.com/splitd/splitd/control/api"
)

func (a *app) status() *cobra.Command {
	cmd := &cobra.Command{
		Use:               "status [SPLIT]",
		Short:             "Show weights, shares and flows",
		Args:              onlySplit,
		ValidArgsFunction: a.completeSplits,
	}
	output := formatFlag(cmd, formatProm)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if output.data() {
			return a.passSplits(cmd.Context(), output, first(args))
		}
		list, err := a.client(0).Splits(cmd.Context(), first(args))
		if err != nil {
			return err
		}
		if output.value == formatTable {
			a.warnAbout(list)
		}
		return a.print(output, nil,
			func(w io.Writer) error { return a.writeStatus(w, list) },
			map[string]printer{formatProm: func(w io.Writer) error { return writeProm(w, list) }})
	}
	return cmd
}

// passSplits prints the state as the daemon wrote it.
func (a *app) passSplits(ctx context.Context, output *format, name string) error {
	text, err := a.client(0).SplitsText(ctx, name)
	if err != nil {
		return err
	}
	return a.print(output, text, nil, nil)
}

// writeStatus writes a table each of the splits, their backends, and the return
// paths, where there are any.
func (a *app) writeStatus(w io.Writer, list api.SplitList) error {
	if len(list.Items) == 0 && len(list.ReturnPaths) > 0 {
		return a.returnPaths(list.ReturnPaths).write(w)
	}
	splits := a.table([]string{"GENERATION", "WEIGHT", "OBSERVED", "FLOWS", "ACTIVE"},
		"SPLIT", "MODE", "SERVICE", "GENERATION", "WEIGHT", "OBSERVED", "ORIGIN", "FLOWS", "ACTIVE", "IN SYNC")
	for _, s := range list.Items {
		splits.row(s.Name, modeText(s), serviceText(s.Service), s.Generation, percent(s.WeightPPM), percentOrNone(s.ObservedPPM),
			a.originText(s.Origin), numberOrNone(s.Flows.Total), numberOrNone(s.Flows.Active), syncCell(s.Kernel))
	}
	if err := splits.write(w); err != nil || len(list.Items) == 0 {
		return err
	}
	if _, err := io.WriteString(w, "\n"); err != nil {
		return err
	}
	if err := a.backends(list.Items).write(w); err != nil {
		return err
	}
	if err := a.writeBelow(w, a.shadows(list.Items)); err != nil {
		return err
	}
	if err := a.writeBelow(w, a.drains(list.Items)); err != nil || len(list.ReturnPaths) == 0 {
		return err
	}
	if _, err := io.WriteString(w, "\n"); err != nil {
		return err
	}
	return a.returnPaths(list.ReturnPaths).write(w)
}

// returnPaths is the table of a host that is the new one to some router.
func (a *app) returnPaths(paths []api.ReturnPath) *table {
	t := a.table(nil, "RETURN PATH", "VIA", "DEVICE", "REPLIES", "IN SYNC")
	for _, p := range paths {
		t.row(p.Name, cmp.Or(p.Via, none), p.Device, cmp.Or(p.Address, "marked where they came in"), syncCell(&api.Kernel{InSync: p.InSync}))
	}
	return t
}

func (a *app) backends(splits []api.Split) *table {
	const failed = "CONNECT FAILED"
	t := a.table([]string{"SHARE", "FLOWS", "ACTIVE", "BYTES IN", "BYTES OUT", failed},
		"SPLIT", "BACKEND", "ROLE", "ADDRESSES", "SHARE", "STATE", "FLOWS", "ACTIVE", "BYTES IN", "BYTES OUT", failed)
	for _, s := range splits {
		for _, b := range s.Backends {
			t.row(s.Name, b.Name, b.Role, joined(b.Addresses), percent(b.WeightPPM), backendCell(b), numberOrNone(b.FlowsTotal),
				numberOrNone(b.FlowsActive), numberOrNone(b.BytesIn), numberOrNone(b.BytesOut), numberOrNone(b.ConnectFailed))
		}
	}
	return t
}

// shadows is the table of the splits whose flows are played to a candidate.
func (a *app) shadows(splits []api.Split) *table {
	t := a.table([]string{"SAMPLE"}, "SPLIT", "SHADOW", "SAMPLE", "PLAYED TO", "DIFFERS", "ORIGIN")
	for _, s := range splits {
		if s.Shadow.SamplePPM == 0 && s.Shadow.Origin == nil {
			continue // the file's 0, which nobody asks about
		}
		origin := none
		if s.Shadow.Origin != nil {
			origin = a.originText(*s.Shadow.Origin)
		}
		t.row(s.Name, s.Shadow.State, percent(s.Shadow.SamplePPM), cmp.Or(s.Shadow.To, none), differsText(s.Shadow.Differs), origin)
	}
	return t
}

// differsText says in how many exchanges a candidate answers otherwise: what differs is
// for `splitctl report`.
func differsText(d *api.Differing) string {
	if d == nil {
		return none
	}
	return fmt.Sprintf("%d of %d", d.Exchanges, d.Of)
}

// warnAbout says on standard error what the data formats hold as warnings, a
// line a matter.
func (a *app) warnAbout(list api.SplitList) {
	for _, warning := range list.Warnings {
		a.warn("%s", printable(warning))
	}
	a.warnOfDifferences(list.Items)
	for _, s := range list.Items {
		for _, warning := range s.Warnings {
			a.warn("%s: %s", s.Name, printable(warning))
		}
	}
}

// warnOfDifferences names the files that say otherwise, each once.
func (a *app) warnOfDifferences(splits []api.Split) {
	names := map[string][]string{} // by file
	for _, s := range splits {
		if s.DiffersFrom != "" {
			names[s.DiffersFrom] = append(names[s.DiffersFrom], s.Name)
		}
	}
	for _, file := range slices.Sorted(maps.Keys(names)) {
		who := fmt.Sprintf("%d splits differ", len(names[file]))
		if len(names[file]) == 1 {
			who = names[file][0] + ": differs"
		}
		a.warn("%s from %s: that is since an `apply -f`, and `splitctl apply` goes back to the files", who, printable(file))
	}
}
