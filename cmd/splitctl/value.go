package main

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/splitd/splitd/control/api"
	"github.com/splitd/splitd/traffic"
)

// none stands for what is null.
const none = "-"

func percent(ppm int) string { return traffic.Weight(ppm).String() }

func percentOrNone(ppm *int) string {
	if ppm == nil {
		return none
	}
	return percent(*ppm)
}

func numberOrNone(n *uint64) string {
	if n == nil {
		return none
	}
	return strconv.FormatUint(*n, 10)
}

// local writes a time as the operator's clock shows it.
func (a *app) local(t time.Time) string {
	if t.IsZero() {
		return none
	}
	return t.In(a.zone).Format(time.RFC3339)
}

func (a *app) localOrNone(t *time.Time) string {
	if t == nil {
		return none
	}
	return a.local(*t)
}

func modeText(s api.Split) string {
	if s.ModeConfigured == "" || s.ModeConfigured == s.Mode {
		return s.Mode
	}
	return s.Mode + " (" + s.ModeConfigured + ")"
}

func serviceText(s api.Service) string {
	return strings.Join(s.Addresses, ",") + " " + strings.Join(s.Ports, ",")
}

// daemonItself is the actor of what nobody ordered.
const daemonItself = "splitd"

// originText says which layer decided, in the width of a column.
func (a *app) originText(o api.Origin) string {
	text := o.Layer
	if o.Actor == daemonItself && o.Reason != "" {
		text = daemonItself + ": " + printable(o.Reason) // nobody ordered it: why is what matters
	} else if o.Actor != "" {
		text += " (" + o.Actor + ")"
	}
	if o.Until != nil {
		text += " until " + a.local(*o.Until)
	}
	return text
}

// syncCell says whether the kernel does what the daemon wants; in proxy mode
// there is no such question, and sometimes nobody knows.
func syncCell(k *api.Kernel) cell {
	switch {
	case k == nil || k.InSync == nil:
		return cell{text: none}
	case *k.InSync:
		return cell{"yes", styleGood}
	}
	return cell{"no", styleBad}
}

func stateCell(state string) cell {
	switch state {
	case "up":
		return cell{state, styleGood}
	case "down":
		return cell{state, styleBad}
	}
	return cell{text: state}
}

// backendCell is stateCell; of a backend that is up with a part of its
// addresses it says with how many.
func backendCell(b api.Backend) cell {
	alive := 0
	for _, c := range b.Checks {
		if c.State != "down" {
			alive++
		}
	}
	if b.State != "up" || alive == len(b.Checks) {
		return stateCell(b.State)
	}
	return cell{text: fmt.Sprintf("up %d/%d", alive, len(b.Checks))}
}

func yesNo(yes bool) string {
	if yes {
		return "yes"
	}
	return "no"
}

// duration is a flag whose error says what to write.
type duration time.Duration

// String implements pflag.Value; "" is no default worth showing.
func (d *duration) String() string {
	if *d == 0 {
		return ""
	}
	return time.Duration(*d).String()
}

// Type implements pflag.Value.
func (d *duration) Type() string { return "duration" }

// Set implements pflag.Value.
func (d *duration) Set(text string) error {
	parsed, err := time.ParseDuration(text)
	if days, ok := strings.CutSuffix(text, "d"); ok {
		if n, err := strconv.Atoi(days); err == nil {
			return fmt.Errorf("write %dh", 24*n)
		}
	}
	if err != nil {
		return errors.New("write a duration such as 30s, 90m or 2h30m")
	}
	*d = duration(parsed)
	return nil
}
