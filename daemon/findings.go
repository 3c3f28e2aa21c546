package daemon

import (
	"maps"

	"github.com/splitd/splitd/health"
)

// findings are the targets that are down, by split. They are not modified.
type findings map[string]map[health.Key]bool

// down says whether a target is among them. It may be asked of nil.
func (f *findings) down(key health.Key) bool { return f != nil && (*f)[key.Split][key] }

// copy returns findings that may be changed with set until others see them.
func (f *findings) copy() *findings {
	next := findings{}
	if f != nil {
		maps.Copy(next, *f)
	}
	return &next
}

func (f *findings) set(split string, down map[health.Key]bool) {
	if len(down) == 0 {
		delete(*f, split)
		return
	}
	(*f)[split] = down
}

// of are those of one split.
func (f *findings) of(split string) map[health.Key]bool {
	if f == nil {
		return nil
	}
	return (*f)[split]
}

// splits names the splits of which something is down.
func (f *findings) splits() []string {
	var names []string
	if f != nil {
		for name := range *f {
			names = append(names, name)
		}
	}
	return names
}
