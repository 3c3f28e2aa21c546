package daemon

import (
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/splitd/splitd/netfilter"
	"github.com/splitd/splitd/state"
	"github.com/splitd/splitd/traffic"
)

var noon = time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)

func percent(p int) traffic.Weight { return traffic.Weight(p) * traffic.Whole / 100 }

// mx is a definition with one candidate "new" whose file weight is given.
func mx(weight traffic.Weight) traffic.Split {
	return traffic.Split{
		Name:    "mx",
		Service: traffic.Service{Addresses: []netip.Addr{netip.MustParseAddr("192.0.2.25")}, Ports: []traffic.Port{{Number: 25, Transport: traffic.TCP}}},
		Mode:    traffic.ModeKernel,
		Primary: traffic.Backend{Name: "old", Local: true},
		Candidates: []traffic.Backend{{
			Name: "new", Addresses: []traffic.Address{{IP: netip.MustParseAddr("10.0.0.12")}}, Weight: weight,
		}},
		Shadow: traffic.Shadow{To: "new"},
	}
}

func operators(weight traffic.Weight) traffic.Overrides {
	return traffic.Overrides{"new": {Weight: weight, Actor: "root", Since: noon}}
}

func TestSettleTakesWhoeverIsAhead(t *testing.T) {
	record := func(generation traffic.Generation, file traffic.Weight, overrides traffic.Overrides) *state.Record {
		return &state.Record{Name: "mx", Generation: generation, Definition: mx(file), Overrides: overrides}
	}
	kernel := func(generation traffic.Generation, weight traffic.Weight) *netfilter.SplitState {
		return &netfilter.SplitState{Generation: generation, Weights: map[string]traffic.Weight{"new": weight}}
	}
	pinned := mx(percent(5))
	pinned.Pinned = true
	tests := []struct {
		name           string
		definition     traffic.Split
		record         *state.Record
		kernel         *netfilter.SplitState
		wantWeight     traffic.Weight
		wantGeneration traffic.Generation
		wantAction     state.Action
	}{
		{"a first start takes the file", mx(percent(5)), nil, nil, percent(5), 1, state.ActionApply},
		{"a restart that changes nothing keeps the generation", mx(0), record(7, 0, operators(percent(5))), kernel(7, percent(5)), percent(5), 7, ""},
		{"a recorded raise that did not reach the kernel is completed", mx(0), record(8, 0, operators(percent(25))), kernel(7, percent(5)), percent(25), 8, ""},
		{"a lowering that was not recorded is adopted", mx(0), record(7, 0, operators(percent(25))), kernel(8, percent(5)), percent(5), 8, state.ActionAdopt},
		{"a forced off is adopted against a pinned file", pinned, &state.Record{Name: "mx", Generation: 7, Definition: pinned}, kernel(8, 0), 0, 8, state.ActionAdopt},
		{"with the store gone the kernel's state is adopted", mx(0), nil, kernel(15, percent(5)), percent(5), 15, state.ActionAdopt},
		{"an edited file is a new generation", mx(percent(10)), record(7, percent(5), nil), kernel(7, percent(5)), percent(10), 8, state.ActionApply},
		{"an edited file does not beat the operator", mx(percent(10)), record(7, percent(5), operators(percent(1))), nil, percent(1), 8, state.ActionApply},
		{"an emptied kernel is filled again", mx(0), record(7, 0, operators(percent(5))), nil, percent(5), 7, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var outside *standing
			if tt.kernel != nil {
				outside = &standing{*tt.kernel, reasonAdopted}
			}
			got := settle(tt.definition, tt.record, outside, noon)
			if w := inForce(got.record).CandidateWeight(); w != tt.wantWeight {
				t.Errorf("weight = %s, want %s", w, tt.wantWeight)
			}
			if got.record.Generation != tt.wantGeneration || got.action != tt.wantAction {
				t.Errorf("generation %d, action %q, want %d, %q", got.record.Generation, got.action, tt.wantGeneration, tt.wantAction)
			}
		})
	}
}

func TestARemovedSplitComesBackWithALaterGeneration(t *testing.T) {
	gone := state.Record{Name: "mx", Generation: 9, Definition: mx(0), Removed: true}
	got := settle(mx(0), &gone, nil, noon)
	if got.record.Generation != 10 || got.record.Removed || got.action != state.ActionApply {
		t.Errorf("settle = %+v, want generation 10, not removed, action apply", got)
	}
}

func TestHoldDownKeepsWhatWasAndRaisesNothing(t *testing.T) {
	record := state.Record{Name: "mx", Generation: 3, Definition: mx(percent(50))}
	for before, want := range map[traffic.Weight]traffic.Weight{0: 0, percent(5): percent(5), percent(80): percent(50)} {
		held := holdDown(record, holdings{"new": {weight: before}}, noon)
		if got := inForce(held).CandidateWeight(); got != want {
			t.Errorf("held from %s at %s, want %s", before, got, want)
		}
	}
}

func TestOffHoldsAgainstAPinnedFile(t *testing.T) {
	definition := mx(percent(5))
	definition.Pinned = true
	record := state.Record{Name: "mx", Definition: definition, Overrides: operators(percent(50))}
	if got := inForce(record).CandidateWeight(); got != percent(5) {
		t.Errorf("pinned weight = %s, want the file's 5%%", got)
	}
	record.Overrides = switchOff(definition, "root", "", noon)
	if got := inForce(record).CandidateWeight(); got != 0 {
		t.Errorf("weight after off = %s, want 0%%", got)
	}
}

func TestGoingBackRestoresWeightsUnderTheDefinitionOfNow(t *testing.T) {
	weights := func(w traffic.Weight) map[string]traffic.Weight { return map[string]traffic.Weight{"new": w} }
	tests := []struct {
		name       string
		definition traffic.Split
		to         state.Side
		want       traffic.Overrides
	}{
		{"to the file's own weight without an override", mx(percent(5)), state.Side{Weights: weights(percent(5))}, traffic.Overrides{}},
		{"to an operator's weight", mx(0), state.Side{Overrides: operators(percent(5)), Weights: weights(percent(5))}, operators(percent(5))},
		{
			"to a weight that the file no longer has", mx(percent(50)),
			state.Side{Weights: weights(percent(5))},
			traffic.Overrides{"new": {Weight: percent(5), Actor: "ann", Reason: "oops", Since: noon}},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := goBack(tt.definition, tt.to, "ann", "oops", noon)
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("overrides (-want +got):\n%s", diff)
			}
		})
	}
}

func TestTheFirstSightOfASplitIsNotUndoable(t *testing.T) {
	got := goBack(mx(percent(5)), state.Side{}, "ann", "", noon)
	if len(got) != 0 {
		t.Errorf("overrides = %v, want none: there is no earlier weight", got)
	}
}
