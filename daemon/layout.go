package daemon

import (
	"slices"

	"github.com/splitd/splitd/netfilter"
	"github.com/splitd/splitd/state"
	"github.com/splitd/splitd/traffic"
)

// relaid gives a record the layout that its weights make of another one: of
// the one in force before, so that a client network moves only where a weight
// does. A split that needs none has none.
func relaid(record state.Record, from traffic.Slots) state.Record {
	record.Slots = traffic.Effective(record.Definition, record.Overrides).Relaid(from).Slots
	return record
}

// layout is what a change of the record starts from.
func layout(record state.Record) traffic.Slots {
	switch {
	case record.Definition.Affinity != traffic.AffinitySource:
		return nil // nobody has a side to keep
	case record.Removed:
		return record.Slots // as it was when it was removed
	}
	return inForce(record).Layout()
}

// redefinedLayout is layout, or what the new definition lists: a list counts
// when it appears or changes, else a reload would bring old sides back.
func redefinedLayout(definition traffic.Split, record state.Record) traffic.Slots {
	if len(definition.Slots) > 0 && !slices.Equal(definition.Slots, record.Definition.Slots) {
		return definition.Slots
	}
	return layout(record)
}

// adoptedLayout is the kernel's: it is what clients have seen.
func adoptedLayout(definition traffic.Split, record *state.Record, kernel netfilter.SplitState) traffic.Slots {
	switch {
	case len(kernel.Slots) > 0:
		return kernel.Slots
	case record != nil:
		return redefinedLayout(definition, *record)
	}
	return definition.Slots
}
