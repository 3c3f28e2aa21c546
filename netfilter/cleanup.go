package netfilter

import (
	"context"
	"fmt"
)

// CleanupResult says what Cleanup had to leave. The zero value says that
// nothing is left and nothing was ended.
type CleanupResult struct {
	// LiveFlows is the number of flows that still need us; with now it is the
	// number that were ended, or lost their way back.
	LiveFlows int
	// ReturnFlows are those of LiveFlows that came in by return paths of this
	// host; the others were sent to another host by splits.
	ReturnFlows int
	// KeeperLeft says that the keeper table stands until the flows that were
	// sent end: call Cleanup again then.
	KeeperLeft bool
	// ReturnsLeft says that the rules and routes of the return paths and the
	// marking table stand until ReturnFlows end: call Cleanup again then.
	ReturnsLeft bool
	// RelayFlows are those of LiveFlows that are a transparent relay's own, and
	// RelayLeft says that what they need stands until they end: the relay is gone,
	// so that is a matter of seconds.
	RelayFlows int
	RelayLeft  bool
}

// Cleanup removes what splitd put into the kernel and nothing else. New flows
// stop being split at once. Flows that were sent to another host live on
// unless now is set: a keeper table stays for them, and the return paths of
// this host stay, all of them, while flows use any; the result says so. With now
// the conntrack entries of flows that were sent are deleted too, so that the
// next packet of each is answered with a reset, and return paths go at once:
// the replies of their flows take whatever way this host has. While
// another process has a Kernel open the error is ErrAnotherSplitd.
func Cleanup(ctx context.Context, settings Settings, now bool) (CleanupResult, error) {
	if err := ctx.Err(); err != nil {
		return CleanupResult{}, err
	}
	mine, err := takeTurn()
	if err != nil {
		return CleanupResult{}, fmt.Errorf("clean up: %w", err)
	}
	defer mine.end()
	var l link
	defer l.close()
	if _, err := l.applyWhole(l.commit, mirrors(nil)...); err != nil {
		return CleanupResult{}, fmt.Errorf("clean up mirrors: %w", err)
	}
	sent, err := l.cleanupSplits(settings, now)
	if err != nil {
		return CleanupResult{}, fmt.Errorf("clean up splits: %w", err)
	}
	result := CleanupResult{LiveFlows: sent, KeeperLeft: sent > 0 && !now}
	relayed, legsLeft, err := l.cleanupLegs(settings, now)
	if err != nil {
		return result, fmt.Errorf("clean up what transparent relays need: %w", err)
	}
	result.LiveFlows += relayed
	result.RelayFlows, result.RelayLeft = relayed, legsLeft != nil
	received, err := l.liveReturns(settings)
	if err != nil {
		return result, fmt.Errorf("clean up return paths: %w", err)
	}
	result.LiveFlows += received
	result.ReturnFlows = received
	if result.ReturnsLeft = received > 0 && !now; result.ReturnsLeft {
		return result, nil
	}
	if err := cleanupReturns(ctx, settings, legsLeft); err != nil {
		return result, fmt.Errorf("clean up return paths: %w", err)
	}
	return result, nil
}

// sentClasses are the classes of flows that were sent to another host, or may
// have been: those for a relay went on to the primary where none listened.
func sentClasses() []markClass {
	return []markClass{classRemote, classMasquerade, classSampled, classSampledOut}
}

// cleanupSplits returns the number of flows that live, or that did when now is
// set.
func (l *link) cleanupSplits(settings Settings, now bool) (int, error) {
	tables, err := l.splitTables()
	if err != nil {
		return 0, err
	}
	kept, err := l.hasTable(TableKeeper)
	if err != nil || len(tables) == 0 && !kept {
		return 0, err
	}
	var removal []step
	for _, t := range tables {
		removal = append(removal, on(t.Name, removeTable{})...)
	}
	if now {
		return l.endSplits(settings, removal, kept)
	}
	// The keeper comes with the same transaction that removes the tables, and
	// flows are counted after it: one that began a moment before is not missed.
	if len(removal) > 0 {
		if !kept {
			removal = append(keeper(), removal...)
		}
		if err := l.commit(removal); err != nil {
			return 0, fmt.Errorf("remove table %q: %w", TableSplits, err)
		}
	}
	live, err := countMarked(settings, sentClasses()...)
	if err != nil || live > 0 {
		return live, err
	}
	if err := l.commit(on(TableKeeper, removeTable{})); err != nil {
		return 0, fmt.Errorf("remove table %q: %w", TableKeeper, err)
	}
	return 0, nil
}

func (l *link) endSplits(settings Settings, removal []step, kept bool) (int, error) {
	live, err := countMarked(settings, sentClasses()...)
	if err != nil {
		return 0, err
	}
	if kept {
		removal = append(removal, on(TableKeeper, removeTable{})...)
	}
	if err := l.commit(removal); err != nil {
		return 0, fmt.Errorf("remove our tables: %w", err)
	}
	return live, deleteMarked(settings, sentClasses()...)
}
