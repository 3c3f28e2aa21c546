package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/splitd/splitd/control/api"
	"github.com/splitd/splitd/traffic"
)

// How often `wait` looks. A look that took long is followed by as long a rest.
const waitEvery = 200 * time.Millisecond

func (a *app) wait() *cobra.Command {
	var conditions []string
	timeout := duration(time.Minute)
	cmd := &cobra.Command{
		Use:   "wait [SPLIT] --for=CONDITION",
		Short: "Wait until something holds; exit code 4 when it does not in time",
		Long: "Wait until all that is asked for holds:\n" +
			"  drained[=CANDIDATE]   the candidates that get no new flow (or that one) have no open one\n" +
			"  in-sync               the kernel does what splitd wants\n" +
			"  weight=5%             the candidates together have that weight; weight=CANDIDATE:5% of one\n" +
			"  sample=100%           so much of the primary's flows is shadowed\n" +
			"  healthy               every address of every backend passes its health checks\n" +
			"  up=BACKEND            at least one of its addresses passes them; `status` has up 1/2 where another does not\n" +
			"  down=BACKEND          none of its addresses passes them",
		Example: "  splitctl drain mx new && splitctl wait mx --for=drained --timeout 10m",
		Args:    onlySplit, ValidArgsFunction: a.completeSplits,
	}
	output := formatFlag(cmd)
	cmd.Flags().StringSliceVar(&conditions, "for", nil, "what to wait for; more than one must hold together")
	cmd.Flags().Var(&timeout, "timeout", "how long at most")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		wanted, err := parseConditions(conditions)
		if err != nil {
			return usage(err)
		}
		if timeout <= 0 {
			return usagef("--timeout %v must be positive", time.Duration(timeout))
		}
		list, err := a.await(cmd.Context(), first(args), wanted, time.Duration(timeout))
		if err != nil {
			return err
		}
		return a.print(output, list, nothing, nil)
	}
	return cmd
}

// nothing is what `wait` prints as a table: its exit code says it all.
func nothing(io.Writer) error { return nil }

// await looks again and again until all conditions hold.
func (a *app) await(ctx context.Context, split string, wanted []condition, timeout time.Duration) (api.SplitList, error) {
	deadline := time.Now().Add(timeout)
	ctx, cancel := context.WithDeadline(ctx, deadline)
	defer cancel()
	missing := "the daemon has not answered"
	for {
		began := time.Now()
		list, err := a.client(0).Splits(ctx, split)
		switch {
		case err != nil && ctx.Err() == nil && time.Now().Before(deadline): // a socket may notice it first
			return list, err
		case err == nil:
			if split == "" && len(list.Items) != 1 {
				return list, usagef("name a split: there are %d", len(list.Items))
			}
			if missing, err = unmet(list.Items[0], wanted); err != nil || missing == "" {
				return list, err
			}
		}
		rest := time.NewTimer(max(waitEvery, time.Since(began)))
		select {
		case <-ctx.Done():
			rest.Stop()
			return list, &coded{code: exitTimedOut, err: fmt.Errorf("waited %v: %s", timeout, missing)}
		case <-rest.C:
		}
	}
}

// A condition is a word with an argument, which may be "".
type condition struct {
	word, of string
	weight   traffic.Weight
}

func parseConditions(texts []string) ([]condition, error) {
	if len(texts) == 0 {
		return nil, fmt.Errorf("--for is missing: say what to wait for, such as --for=drained")
	}
	wanted := make([]condition, 0, len(texts))
	for _, text := range texts {
		c, err := parseCondition(text)
		if err != nil {
			return nil, fmt.Errorf("--for=%s: %w", text, err)
		}
		wanted = append(wanted, c)
	}
	return wanted, nil
}

func parseCondition(text string) (condition, error) {
	word, of, given := strings.Cut(text, "=")
	c := condition{word: word, of: of}
	switch word {
	case "in-sync", "healthy":
		if given {
			return c, fmt.Errorf("%s takes no argument", word)
		}
		return c, nil
	case "drained":
		if !given {
			return c, nil
		}
		return c, traffic.CheckName(of)
	case "up", "down":
		return c, traffic.CheckName(of)
	case "sample":
		var err error
		c.of = ""
		c.weight, err = traffic.ParseWeight(of)
		return c, err
	case "weight":
		name, share, one := strings.Cut(of, ":")
		if !one {
			name, share = "", of
		}
		var err error
		if c.of = name; one {
			err = traffic.CheckName(name)
		}
		if err == nil {
			c.weight, err = traffic.ParseWeight(share)
		}
		return c, err
	}
	return c, fmt.Errorf("there is no condition %q: use drained, in-sync, weight=5%%, sample=100%%, healthy, up=BACKEND or down=BACKEND", word)
}

// unmet says what does not hold yet, "" if all does. An error is what will
// never hold.
func unmet(s api.Split, wanted []condition) (string, error) {
	for _, c := range wanted {
		text, err := c.unmet(s)
		if err != nil || text != "" {
			return text, err
		}
	}
	return "", nil
}

func (c condition) unmet(s api.Split) (string, error) {
	if c.of != "" && !slices.ContainsFunc(s.Backends, func(b api.Backend) bool { return b.Name == c.of }) {
		return "", usagef("split %q has no backend %q: `splitctl show %s` names them", s.Name, c.of, s.Name)
	}
	switch c.word {
	case "in-sync":
		if s.Kernel != nil && !s.Kernel.Synced() {
			return fmt.Sprintf("the kernel does not do what is wanted of %q: `splitctl plan` shows how", s.Name), nil
		}
		return "", nil
	case "weight":
		return c.unmetWeight(s), nil
	case "sample":
		if s.Shadow.SamplePPM != int(c.weight) {
			return fmt.Sprintf("the sample of %q is %s", s.Name, percent(s.Shadow.SamplePPM)), nil
		}
		return "", nil
	case "drained":
		return c.undrained(s)
	}
	return c.unhealthy(s)
}

func (c condition) unmetWeight(s api.Split) string {
	what, have := s.Name, s.WeightPPM
	for _, b := range s.Backends {
		if b.Name == c.of {
			what, have = b.Name, b.WeightPPM
		}
	}
	if have == int(c.weight) {
		return ""
	}
	return fmt.Sprintf("the weight of %q is %s", what, percent(have))
}

// undrained looks at the candidates that get no new flow, or at the named one.
func (c condition) undrained(s api.Split) (string, error) {
	looked := false
	for _, b := range s.Backends {
		if b.Role == string(traffic.RolePrimary) || c.of != "" && b.Name != c.of || c.of == "" && b.WeightPPM > 0 {
			continue
		}
		looked = true
		switch {
		case b.WeightPPM > 0:
			return fmt.Sprintf("%q still gets new flows, %s of them", b.Name, percent(b.WeightPPM)), nil
		case b.FlowsActive == nil:
			return fmt.Sprintf("how many flows of %q are open is not known", b.Name), nil
		case *b.FlowsActive > 0:
			return fmt.Sprintf("%q has %d open flows", b.Name, *b.FlowsActive), nil
		}
	}
	if !looked {
		return fmt.Sprintf("every candidate of %q still gets new flows: `splitctl drain %s CANDIDATE` stops one", s.Name, s.Name), nil
	}
	return "", nil
}

// failing is an address of the backend that does not pass its health checks, ""
// when all do.
func failing(b api.Backend) string {
	for _, check := range b.Checks {
		if check.State != "up" {
			return check.Address
		}
	}
	return ""
}

func (c condition) unhealthy(s api.Split) (string, error) {
	wanted := "up"
	if c.word == "down" {
		wanted = c.word
	}
	for _, b := range s.Backends {
		switch {
		case c.of == "" && b.State == wanted && failing(b) != "":
			return fmt.Sprintf("%q is up, but not at %s", b.Name, failing(b)), nil
		case c.of != "" && b.Name != c.of || b.State == wanted:
		case b.State == "unchecked" && c.of != "":
			return "", fmt.Errorf("wait: nothing checks %q: see `health` in its configuration", b.Name)
		case b.State == "unchecked":
		default:
			return fmt.Sprintf("%q is %s", b.Name, b.State), nil
		}
	}
	return "", nil
}
