package main

import (
	"fmt"
	"io"
	"maps"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

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
		if output.data() {
			return a.passSplits(cmd.Context(), output, first(args))
		}
		list, err := a.client(0).Splits(cmd.Context(), first(args))
		if err != nil {
			return err
		}
		a.warnAbout(list)
		return a.print(output, nil, func(w io.Writer) error { return a.writeSplits(w, list) }, nil)
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

type fact struct{ name, value string }

// writeSplit writes one fact a line, then the backends and who decided the
// weight of each candidate.
func (a *app) writeSplit(w io.Writer, s api.Split) error {
	facts := []fact{
		{"split", s.Name},
		{"mode", modeText(s)},
		{"protocol", s.Protocol},
		{"service", serviceText(s.Service)},
	}
	facts = append(facts, drawFacts(s.Draw)...)
	facts = append(facts, []fact{
		{"generation", fmt.Sprint(s.Generation)},
		{"weight", fmt.Sprintf("%s (%d ppm)", percent(s.WeightPPM), s.WeightPPM)},
		{"observed", percentOrNone(s.ObservedPPM)},
		{"origin", a.originLine(s.Origin)},
		{"pinned", yesNo(s.Pinned)},
		{"flows", fmt.Sprintf("%s in all, %s active, as of %s", numberOrNone(s.Flows.Total), numberOrNone(s.Flows.Active), a.local(s.Flows.AsOf))},
		{"health", healthText(s.Health)},
		{"shadow", a.shadowLine(s.Shadow)},
	}...)
	facts = append(facts, insideFacts(s.Shadow.TLS)...)
	facts = append(facts, []fact{
		{"in sync", syncCell(s.Kernel).text},
		{"defined in", s.Definition},
		{"differs from", s.DiffersFrom},
	}...)
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
	if err := a.writeOrigins(w, s); err != nil {
		return err
	}
	if err := a.writeGroups(w, s); err != nil {
		return err
	}
	if err := a.writeChecks(w, s); err != nil {
		return err
	}
	return a.writeEvidence(w, s)
}

// shadowLine tells what is shadowed, and who decided it.
func (a *app) shadowLine(s api.Shadow) string {
	text := fmt.Sprintf("%s, sample %s", s.State, percent(s.SamplePPM))
	if s.To != "" {
		text += " of the primary's flows, played to " + s.To
	}
	if s.Origin != nil {
		text += "; " + a.originLine(*s.Origin)
	}
	return text
}

// insideFacts tell what became of sampled flows that may be encrypted, where splitd can see
// into them.
func insideFacts(t *api.ShadowTLS) []fact {
	if t == nil {
		return nil
	}
	text := []string{fmt.Sprintf("%d flows seen, %d of them resumed a session", t.Terminated, t.Resumed)}
	text = append(text, fmt.Sprintf("%d handshakes failed with clients, %d with the primary", t.FailedClient, t.FailedPrimary))
	for _, reason := range slices.Sorted(maps.Keys(t.PassedThrough)) {
		text = append(text, fmt.Sprintf("%d passed on unseen: %s", t.PassedThrough[reason], reason))
	}
	return []fact{{"inside TLS", strings.Join(text, "; ")}}
}

// healthText says how the backends are checked.
func healthText(h *api.Health) string {
	if h == nil {
		return "not checked"
	}
	return fmt.Sprintf("%s every %gs, at most %gs; down after %d, up after %d; a dead candidate's share: %s",
		h.Check, h.IntervalSeconds, h.TimeoutSeconds, h.Fall, h.Rise, h.WhenDown)
}

// writeChecks writes what the health checks say of each address.
func (a *app) writeChecks(w io.Writer, s api.Split) error {
	t := a.table(nil, "BACKEND", "CHECKED AT", "STATE", "SINCE", "REASON")
	for _, b := range s.Backends {
		for _, c := range b.Checks {
			reason := c.Reason
			if c.Trouble != "" {
				reason = strings.TrimPrefix(reason+"; cannot be checked: "+c.Trouble, "; ")
			}
			t.row(b.Name, checkedAt(c), stateCell(c.State), a.local(c.Since), reason)
		}
	}
	return a.writeBelow(w, t)
}

// checkedAt is where a check connects to; a daemon of before tells no port.
func checkedAt(c api.Check) string {
	if c.Port == 0 {
		return c.Address
	}
	return net.JoinHostPort(c.Address, strconv.Itoa(int(c.Port)))
}

// writeGroups tells how many networks of clients the weights do not concern.
func (a *app) writeGroups(w io.Writer, s api.Split) error {
	t := a.table([]string{"ALWAYS", "NEVER"}, "CANDIDATE", "ALWAYS", "NEVER")
	for _, b := range s.Backends {
		if b.Clients != nil {
			t.row(b.Name, b.Clients.Always, b.Clients.Never)
		}
	}
	return a.writeBelow(w, t)
}

// writeBelow writes a table after what stands above it, if it has rows.
func (a *app) writeBelow(w io.Writer, t *table) error {
	if len(t.rows) == 0 {
		return nil
	}
	if _, err := io.WriteString(w, "\n"); err != nil {
		return err
	}
	return t.write(w)
}

func (a *app) writeOrigins(w io.Writer, s api.Split) error {
	t := a.table(nil, "CANDIDATE", "WEIGHT", "DECIDED BY")
	for _, b := range s.Backends {
		if b.Origin != nil {
			weight := percent(b.WeightPPM)
			if b.Closed {
				weight += ", closed"
			}
			t.row(b.Name, weight, a.originLine(*b.Origin))
		}
	}
	return a.writeBelow(w, t)
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

// drawFacts tell whom a split draws and how, as far as it is not the default.
func drawFacts(d api.Draw) []fact {
	affinity := d.Affinity
	if p := d.AffinityPrefix; p != nil {
		affinity += fmt.Sprintf(", by networks of /%d and /%d", p.IPv4, p.IPv6)
	}
	if d.AffinitySeed != "" {
		affinity += fmt.Sprintf(", seed %q", d.AffinitySeed)
	}
	facts := []fact{{"affinity", affinity}}
	if n := len(d.Slots); n > 0 {
		facts = append(facts, fact{"slots", fmt.Sprintf("%d (-o json lists them)", n)})
	}
	if d.LocalClients {
		facts = append(facts, fact{"local clients", "split too"})
	}
	if d.UDPTimeoutSeconds > 0 {
		facts = append(facts, fact{"udp timeout", (time.Duration(d.UDPTimeoutSeconds) * time.Second).String()})
	}
	if m := d.Mirror; m != nil {
		facts = append(facts, fact{"mirror", fmt.Sprintf("%s of the udp flows to %s", percent(m.SamplePPM), m.To)})
	}
	return facts
}
