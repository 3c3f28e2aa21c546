package main

import (
	"fmt"
	"io"
	"net/netip"
	"strings"

	"github.com/spf13/cobra"

	"github.com/splitd/splitd/configs"
	"github.com/splitd/splitd/control/api"
	"github.com/splitd/splitd/control/items"
	"github.com/splitd/splitd/traffic"
)

func (a *app) where() *cobra.Command {
	var files []string
	cmd := &cobra.Command{
		Use:   "where CLIENT [SPLIT]",
		Short: "Tell which backend a client goes to, and which serves it now",
		Long: "Tell where the new flows of a client go, under affinity, groups, drains and health, and which of its\n" +
			"flows are open where. With --config no daemon is asked: the files' weights count.",
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usagef("name a client: usage: splitctl %s", cmd.Use)
			}
			if _, err := parseClient(args[0]); err != nil {
				return usage(err)
			}
			return onlySplit(cmd, args[1:])
		},
	}
	output := formatFlag(cmd)
	cmd.Flags().StringArrayVar(&files, "config", nil, "ask these files instead of the daemon")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		client, err := parseClient(args[0])
		if err != nil {
			return usage(err)
		}
		var list api.WhereList
		if len(files) > 0 {
			list, err = whereInFiles(files, first(args[1:]), client)
		} else {
			list, err = a.client(0).Where(cmd.Context(), first(args[1:]), client)
		}
		if err != nil {
			return err
		}
		for _, w := range list.Warnings {
			a.warn("%s", w)
		}
		return a.print(output, list, func(w io.Writer) error { return a.writeWhere(w, list) }, nil)
	}
	return cmd
}

func parseClient(text string) (netip.Addr, error) {
	client, err := netip.ParseAddr(text)
	if err != nil || client.Zone() != "" {
		return netip.Addr{}, fmt.Errorf("%q is not an IP address of a client", text)
	}
	return client.Unmap(), nil
}

// whereInFiles asks the splits as files define them.
func whereInFiles(files []string, name string, client netip.Addr) (api.WhereList, error) {
	config, err := configs.Load(configs.Options{Files: files})
	if err != nil {
		return api.WhereList{}, err
	}
	list := api.WhereList{Envelope: api.Of(api.KindWhere), Client: client.String(), Items: []api.Where{}}
	for _, s := range traffic.SortSplits(config.Splits) {
		if name == "" || s.Name == name {
			s.Slots = s.Layout()
			list.Items = append(list.Items, items.Where(s, s.Where(client)))
		}
	}
	if name != "" && len(list.Items) == 0 {
		return api.WhereList{}, fmt.Errorf("find split %q: the files have none of that name", name)
	}
	return list, nil
}

// writeWhere writes a line for each split, and one for each open flow.
func (a *app) writeWhere(w io.Writer, list api.WhereList) error {
	t := a.table(nil, "SPLIT", "NETWORK", "NEW FLOWS", "WHY")
	for _, item := range list.Items {
		t.row(item.Split, item.Network, goesTo(item), whyText(item))
	}
	if err := t.write(w); err != nil {
		return err
	}
	flows := a.table([]string{"GENERATION", "BYTES IN", "BYTES OUT"},
		"SPLIT", "OPEN FLOW", "SERVICE", "BACKEND", "SERVED BY", "GENERATION", "BYTES IN", "BYTES OUT")
	for _, item := range list.Items {
		for _, f := range item.Flows {
			client, server := f.Client+"/"+f.Transport, f.Server
			if f.Via != "" {
				client += " via " + f.Via
			}
			if f.HalfOpen {
				server += " (no answer yet)"
			}
			flows.row(item.Split, client, f.Service, f.Backend, server, generationText(f.Generation), numberOrNone(f.BytesIn), numberOrNone(f.BytesOut))
		}
	}
	if len(flows.rows) == 0 {
		return nil
	}
	if _, err := io.WriteString(w, "\n"); err != nil {
		return err
	}
	return flows.write(w)
}

func generationText(g uint64) string {
	if g == 0 {
		return none
	}
	return fmt.Sprint(g)
}

func goesTo(item api.Where) string {
	switch {
	case item.Why == string(traffic.WhyFamily):
		return none
	case item.Backend != "" && item.Address != "":
		return item.Backend + " at " + item.Address
	case item.Backend != "":
		return item.Backend
	}
	texts := make([]string, 0, len(item.Odds))
	for _, o := range item.Odds {
		texts = append(texts, o.Backend+" "+percent(o.WeightPPM))
	}
	return strings.Join(texts, ", ")
}

func whyText(item api.Where) string {
	text := map[string]string{
		string(traffic.WhyFamily):  "the service has no address of this family",
		string(traffic.WhyBackend): "a backend itself is never split",
		string(traffic.WhyAlways):  "clients: always",
		string(traffic.WhyDraw):    "drawn anew for each flow",
	}[item.Why]
	if item.NumberPPM != nil {
		text = fmt.Sprintf("affinity: it has drawn %d of %d", *item.NumberPPM, traffic.Whole)
	}
	switch item.But {
	case string(traffic.ButClosed):
		text += fmt.Sprintf("; meant for %s, which is closed (drain or off)", item.Meant)
	case string(traffic.ButDown):
		text += fmt.Sprintf("; meant for %s, which is down", item.Meant)
	case string(traffic.ButNever):
		text += fmt.Sprintf("; meant for %s, but clients: never", item.Meant)
	}
	return text + sampledText(item.Sampled)
}

// sampledText says which of the client's flows are shadowed.
func sampledText(s *api.Sampled) string {
	switch {
	case s == nil:
		return ""
	case s.Paused != "" && s.NumberPPM == nil:
		return fmt.Sprintf("; %s of those to the primary would be shadowed, but it is paused: %s", percent(s.SharePPM), s.Paused)
	case s.Paused != "" && s.SharePPM > 0:
		return fmt.Sprintf("; would be shadowed (it has drawn %d for the sample), but it is paused: %s", *s.NumberPPM, s.Paused)
	case s.NumberPPM == nil:
		return fmt.Sprintf("; %s of those to the primary are shadowed", percent(s.SharePPM))
	case s.SharePPM == 0:
		return fmt.Sprintf("; not shadowed: it has drawn %d for the sample", *s.NumberPPM)
	}
	return fmt.Sprintf("; shadowed: it has drawn %d for the sample", *s.NumberPPM)
}
