package daemon

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/splitd/splitd/state"
	"github.com/splitd/splitd/traffic"
)

// mayBeAlone refuses a run whose one split stands on the command line where the
// state directory is that of a configuration: its splits would count as removed,
// in the kernel too, and what operators have set, an `off` among it, would be
// forgotten. The split of an earlier run of that kind is in nobody's way.
func (d *Daemon) mayBeAlone(known map[string]state.Record) error {
	if !d.options.Fileless {
		return nil
	}
	var there []string
	held := false
	own := d.options.Config.Splits
	for _, name := range slices.Sorted(maps.Keys(known)) {
		record := known[name]
		ours := slices.ContainsFunc(own, func(s traffic.Split) bool { return s.Name == name }) && record.Definition.Mode == traffic.ModeProxy
		if record.Removed || ours {
			continue
		}
		there = append(there, fmt.Sprintf("split %q", name))
		held = held || len(record.Overrides) > 0
	}
	snapshot, err := state.ReadSnapshot(d.snapshotPath())
	if err == nil && len(there) == 0 { // the store may be lost or not be readable
		for _, s := range snapshot.Splits {
			there = append(there, fmt.Sprintf("split %q", s.Name))
		}
		for _, s := range snapshot.Relayed {
			if !slices.ContainsFunc(own, func(o traffic.Split) bool { return o.Name == s.Name }) {
				there = append(there, fmt.Sprintf("split %q", s.Name))
			}
		}
	}
	for _, p := range snapshot.ReturnPaths {
		there = append(there, fmt.Sprintf("return path %q", p.Name))
	}
	if len(there) == 0 {
		return nil
	}
	lost := "this run would remove"
	if held {
		lost += ", with the weights that operators have set"
	}
	dir := d.options.Config.StateDir
	return fmt.Errorf("start without a file: the state directory %q has %s of a configuration, which %s: "+
		"write the split into that configuration, or give this run its own --state-dir and --control-socket, as in `--state-dir \"$PWD/splitd-state\" --control-socket \"$PWD/splitd.sock\"`; "+
		"if nobody needs what is there, stop that splitd, run `splitd cleanup` and move the directory away",
		dir, someOf(there), lost)
}

// someOf names the first few.
func someOf(names []string) string {
	const few = 5
	if len(names) <= few {
		return strings.Join(names, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(names[:few], ", "), len(names)-few)
}
