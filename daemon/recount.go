package daemon

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/splitd/splitd/configs"
	"github.com/splitd/splitd/traffic"
)

// recounting says what a definition does to reports that have counted something: one
// of another candidate or protocol begins anew, and rules hold from now on.
func (d *Daemon) recounting(ctx context.Context, definition configs.Definition) (notes []string) {
	v := d.view.Load()
	for _, split := range definition.Splits {
		record, err := v.find(split.Name)
		if err != nil {
			continue // it is new
		}
		was := record.Definition
		if other := isOfAnother(was, split); !other && slices.Equal(was.Shadow.Ignore, split.Shadow.Ignore) {
			continue
		} else if n := d.counted(ctx, split.Name); n > 0 && other {
			notes = append(notes, fmt.Sprintf("split %q: its report of %d exchanges begins anew with the next sampled flow: it is of candidate %q and protocol %s, the file says %q and %s",
				split.Name, n, was.Shadow.To, was.Protocol, split.Shadow.To, split.Protocol))
		} else if n > 0 {
			notes = append(notes, fmt.Sprintf("split %q: ignore has changed, and its report has %d exchanges that were compared by the rules before: `splitctl report %s --reset` counts by these alone",
				split.Name, n, split.Name))
		}
	}
	return notes
}

// isOfAnother says whether what one definition has counted is nothing to the other.
func isOfAnother(was, is traffic.Split) bool {
	return was.Shadow.To != is.Shadow.To || was.Protocol != is.Protocol
}

// counted is how many exchanges the report of a split has.
func (d *Daemon) counted(ctx context.Context, name string) int64 {
	text, err := d.Report(ctx, name)
	var r struct {
		Coverage struct {
			Eligible int64 `json:"eligible"`
		} `json:"coverage"`
	}
	if err == nil {
		err = json.Unmarshal(text, &r)
	}
	if err != nil {
		return 0 // it cannot be shadowed, so there is none
	}
	return r.Coverage.Eligible
}
