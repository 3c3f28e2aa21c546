package daemon

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/splitd/splitd/control/api"
	"github.com/splitd/splitd/splitter"
	"github.com/splitd/splitd/traffic"
)

// leftOutMost bounds how many addresses of a candidate a warning names.
const leftOutMost = 3

// leftOutOf are the addresses that the relay leaves out of a candidate that gets
// flows, without those that are withdrawn, of which a warning tells already.
func leftOutOf(b traffic.Backend, out []splitter.LeftOut) []splitter.LeftOut {
	if b.Closed || b.Weight == 0 && len(b.Clients.Always) == 0 {
		return nil
	}
	return slices.DeleteFunc(slices.Clone(out), func(l splitter.LeftOut) bool { return slices.Contains(b.Down, l.Address.Addr()) })
}

// leftOutWarning says what becomes of the flows of a candidate of which addresses are
// left out; "" where none is.
func leftOutWarning(b traffic.Backend, out []splitter.LeftOut, now time.Time) string {
	if out = leftOutOf(b, out); len(out) == 0 {
		return ""
	}
	var at []string
	for _, l := range out[:min(len(out), leftOutMost)] {
		at = append(at, fmt.Sprintf("%s (for %s)", l.Address, now.Sub(l.Since).Round(time.Second)))
	}
	where := strings.Join(at, ", ")
	if more := len(out) - len(at); more > 0 {
		where += fmt.Sprintf(" and %d more", more)
	}
	return fmt.Sprintf("candidate %q is left out at %s: flows failed there in a row, to be connected or to get a first byte, see the log; they go to another address of it, else to the primary, and it is tried again now and then", b.Name, where)
}

func leftOutItems(out []splitter.LeftOut) []api.LeftOut {
	var items []api.LeftOut
	for _, l := range out {
		items = append(items, api.LeftOut{Address: l.Address.String(), Transport: string(l.Transport), Since: l.Since})
	}
	return items
}
