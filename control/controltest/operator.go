// Package controltest provides an Operator in memory, for tests of whatever
// speaks the control API: it keeps the rules of real changes (idempotence,
// generations, overrides, undo, conflicts) and moves no packet.
package controltest

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/splitd/splitd/control"
	"github.com/splitd/splitd/control/api"
	"github.com/splitd/splitd/control/items"
	"github.com/splitd/splitd/traffic"
)

var _ control.Operator = (*Operator)(nil)

// Operator is a daemon's state in memory. Make it with New. Its methods may
// be called from many goroutines; the fields are to be set before that.
type Operator struct {
	// Now is the clock.
	Now func() time.Time
	// Decorate may complete the state of a split before it is answered: what
	// a data plane would have counted, warnings. It is not called in parallel.
	Decorate func(*api.Split)
	// PlanAnswer, DoctorAnswer and VersionAnswer are what Plan, Doctor and
	// Version answer.
	PlanAnswer    api.Plan
	DoctorAnswer  api.Doctor
	VersionAnswer api.VersionInfo
	// ApplyText judges the text of an apply; nil takes every text as one that
	// changes nothing.
	ApplyText func(name, text string) (api.Apply, error)
	// ClientFlows may complete an answer to Where: what conntrack would know.
	ClientFlows func(*api.WhereList)
	// ReportOf makes the report of a split; nil is one of nothing.
	ReportOf func(split string) (json.RawMessage, error)
	// Broken, when set, is what every changing method fails with.
	Broken error

	mu      sync.Mutex
	splits  []*split
	history []api.Entry // oldest first
	before  map[uint64]traffic.Overrides
	undone  map[uint64]bool
	blank   map[string]bool // splits whose report was reset
}

type split struct {
	definition traffic.Split
	overrides  traffic.Overrides
	generation uint64
}

// New makes an Operator of these definitions, each at generation 1.
func New(now func() time.Time, definitions ...traffic.Split) *Operator {
	o := &Operator{
		Now:           now,
		VersionAnswer: api.VersionInfo{Version: "devel", Go: "go1.26.8", PID: os.Getpid(), StartedAt: now().UTC()},
		blank:         map[string]bool{},
		before:        map[uint64]traffic.Overrides{},
		undone:        map[uint64]bool{},
	}
	for _, definition := range traffic.SortSplits(definitions) {
		o.splits = append(o.splits, &split{definition: definition, overrides: traffic.Overrides{}, generation: 1})
	}
	return o
}

// Splits implements control.Operator.
func (o *Operator) Splits(_ context.Context, name string) (api.SplitList, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	list := api.SplitList{Envelope: api.Of(api.KindSplitList), Items: []api.Split{}}
	for _, s := range o.splits {
		if name == "" || name == s.definition.Name {
			list.Items = append(list.Items, o.show(s))
		}
	}
	if name != "" && len(list.Items) == 0 {
		return api.SplitList{}, o.unknown(name)
	}
	return list, nil
}

// History implements control.Operator.
func (o *Operator) History(_ context.Context, name string, limit int) (api.History, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	history := api.History{Envelope: api.Of(api.KindHistory), Items: []api.Entry{}}
	for _, entry := range slices.Backward(o.history) {
		if (name == "" || entry.Split == name) && (limit == 0 || len(history.Items) < limit) {
			history.Items = append(history.Items, entry)
		}
	}
	return history, nil
}

// Plan implements control.Operator.
func (o *Operator) Plan(context.Context) (api.Plan, error) { return o.PlanAnswer, nil }

// Doctor implements control.Operator.
func (o *Operator) Doctor(context.Context) (api.Doctor, error) { return o.DoctorAnswer, nil }

// Version implements control.Operator.
func (o *Operator) Version(context.Context) (api.VersionInfo, error) { return o.VersionAnswer, nil }

// Set implements control.Operator.
func (o *Operator) Set(_ context.Context, who control.Actor, name string, request api.SetRequest) (api.Change, error) {
	return o.changed(name, request.Request, func(s *split) (api.Change, error) {
		if request.Default {
			left := traffic.Overrides{}
			if sample, ok := s.overrides[traffic.SampleKey]; ok {
				left[traffic.SampleKey] = sample
			}
			return o.move(s, who, "default", request.Reason, left, 0), nil
		}
		weights := map[string]traffic.Weight{}
		for candidate, ppm := range request.Weights {
			weights[candidate] = traffic.Weight(ppm)
		}
		if request.WeightPPM != nil {
			if len(s.definition.Candidates) != 1 {
				return api.Change{}, refuse(api.CodeInvalid, "split %q has several candidates: name them, as in %s=5%%", s.definition.Name, s.definition.Candidates[0].Name)
			}
			weights[s.definition.Candidates[0].Name] = traffic.Weight(*request.WeightPPM)
		}
		if _, err := traffic.Effective(s.definition, s.overrides).WithWeights(weights); err != nil {
			return api.Change{}, refuse(api.CodeInvalid, "%v", err)
		}
		now := o.Now().UTC()
		override := traffic.Override{Actor: who.User, Reason: request.Reason, Since: now}
		if request.TTLSeconds > 0 {
			override.Until = now.Add(time.Duration(request.TTLSeconds * float64(time.Second)))
		}
		return o.move(s, who, "set", request.Reason, with(s.overrides, weights, override), 0), nil
	})
}

// Shadow implements control.Operator.
func (o *Operator) Shadow(_ context.Context, who control.Actor, name string, request api.ShadowRequest) (api.Change, error) {
	return o.changed(name, request.Request, func(s *split) (api.Change, error) {
		if request.Default {
			left := maps.Clone(s.overrides)
			delete(left, traffic.SampleKey)
			return o.move(s, who, "shadow", request.Reason, left, 0), nil
		}
		if err := s.definition.CheckSample(); err != nil && *request.SamplePPM > 0 {
			return api.Change{}, refuse(api.CodeInvalid, "shadow %q: %v", s.definition.Name, err)
		}
		now := o.Now().UTC()
		override := traffic.Override{Actor: who.User, Reason: request.Reason, Since: now}
		if request.TTLSeconds > 0 {
			override.Until = now.Add(time.Duration(request.TTLSeconds * float64(time.Second)))
		}
		sample := map[string]traffic.Weight{traffic.SampleKey: traffic.Weight(*request.SamplePPM)}
		return o.move(s, who, "shadow", request.Reason, with(s.overrides, sample, override), 0), nil
	})
}

// Undo implements control.Operator.
func (o *Operator) Undo(_ context.Context, who control.Actor, name string, request api.Request) (api.Change, error) {
	return o.changed(name, request, func(s *split) (api.Change, error) {
		for _, entry := range slices.Backward(o.history) {
			if entry.Split != s.definition.Name || entry.Undoes != 0 || o.undone[entry.Sequence] {
				continue
			}
			o.undone[entry.Sequence] = true
			change := o.move(s, who, "undo", request.Reason, o.before[entry.Sequence], entry.Sequence)
			change.Undone = &entry
			return change, nil
		}
		return api.Change{}, refuse(api.CodeFailed, "nothing is left to undo for split %q", s.definition.Name)
	})
}

// Drain implements control.Operator.
func (o *Operator) Drain(_ context.Context, who control.Actor, name string, request api.DrainRequest) (api.Change, error) {
	return o.changed(name, request.Request, func(s *split) (api.Change, error) {
		if _, ok := s.definition.Candidate(request.Backend); !ok {
			return api.Change{}, refuse(api.CodeInvalid, "drain %q: it has no candidate %q", s.definition.Name, request.Backend)
		}
		override := traffic.Override{
			Actor: who.User, Reason: request.Reason, Since: o.Now().UTC(), Closed: true, Drain: true, Rate: request.RatePerSecond,
		}
		if after := request.KillAfterSeconds; after > 0 {
			override.KillAt = override.Since.Add(time.Duration(after * float64(time.Second)))
		}
		change := o.move(s, who, "drain", request.Reason, with(s.overrides, map[string]traffic.Weight{request.Backend: 0}, override), 0)
		if request.Kill {
			change.Ended = new(3)
		}
		return change, nil
	})
}

// Where implements control.Operator.
func (o *Operator) Where(_ context.Context, name string, client netip.Addr) (api.WhereList, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	list := api.WhereList{Client: client.String(), Items: []api.Where{}}
	for _, s := range o.splits {
		if name == "" || name == s.definition.Name {
			state := traffic.Effective(s.definition, s.overrides)
			list.Items = append(list.Items, items.Where(state, state.Where(client)))
		}
	}
	if name != "" && len(list.Items) == 0 {
		return api.WhereList{}, o.unknown(name)
	}
	if o.ClientFlows != nil {
		o.ClientFlows(&list)
	}
	return list, nil
}

// Off implements control.Operator.
func (o *Operator) Off(_ context.Context, who control.Actor, name string, request api.Request) (api.Change, error) {
	return o.changed(name, request, func(s *split) (api.Change, error) { return o.off(s, who, request), nil })
}

// OffAll implements control.Operator.
func (o *Operator) OffAll(_ context.Context, who control.Actor, request api.Request) (api.ChangeList, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.Broken != nil {
		return api.ChangeList{}, o.Broken
	}
	list := api.ChangeList{Envelope: api.Of(api.KindChangeList), Items: []api.Change{}}
	for _, s := range o.splits {
		list.Items = append(list.Items, o.off(s, who, request))
	}
	return list, nil
}

// Apply implements control.Operator.
func (o *Operator) Apply(_ context.Context, _ control.Actor, request api.ApplyRequest) (api.Apply, error) {
	if o.Broken != nil {
		return api.Apply{}, o.Broken
	}
	if o.ApplyText == nil {
		return api.Apply{Items: []api.Change{}}, nil
	}
	return o.ApplyText(request.Name, request.Text)
}

func (o *Operator) off(s *split, who control.Actor, request api.Request) api.Change {
	weights := map[string]traffic.Weight{}
	for _, c := range s.definition.Candidates {
		weights[c.Name] = 0
	}
	if traffic.Effective(s.definition, s.overrides).Sample > 0 {
		weights[traffic.SampleKey] = 0
	}
	override := traffic.Override{Actor: who.User, Reason: request.Reason, Since: o.Now().UTC(), Off: true, Closed: true}
	return o.move(s, who, "off", request.Reason, with(s.overrides, weights, override), 0)
}

// changed finds the split and runs the change on it.
func (o *Operator) changed(name string, request api.Request, change func(*split) (api.Change, error)) (api.Change, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.Broken != nil {
		return api.Change{}, o.Broken
	}
	s, err := o.find(name)
	if err != nil {
		return api.Change{}, err
	}
	if expected := request.ExpectGeneration; expected != nil && *expected != s.generation {
		return api.Change{}, refuse(api.CodeConflict, "split %q is at generation %d, not %d: look with `splitctl history %s`", s.definition.Name, s.generation, *expected, s.definition.Name)
	}
	return change(s)
}

// move gives the split other overrides. What changes no weight and no sample is no
// change.
func (o *Operator) move(s *split, who control.Actor, action, reason string, overrides traffic.Overrides, undoes uint64) api.Change {
	before := traffic.Effective(s.definition, s.overrides)
	after := traffic.Effective(s.definition, overrides)
	change := o.unchanged(s)
	change.WeightPPM, change.SamplePPM, change.Changed = int(after.CandidateWeight()), int(after.Sample), before.Sample != after.Sample
	weights := map[string]int{}
	for _, c := range after.Candidates {
		weights[c.Name] = int(c.Weight)
		old, _ := before.Candidate(c.Name)
		change.Changed = change.Changed || old.Weight != c.Weight || old.Closed != c.Closed && overrides[c.Name].Drain ||
			!overrides[c.Name].KillAt.Equal(s.overrides[c.Name].KillAt)
	}
	if !change.Changed {
		return change
	}
	s.generation++
	change.Generation = s.generation
	sequence := uint64(len(o.history) + 1)
	o.before[sequence] = s.overrides
	s.overrides = overrides
	o.history = append(o.history, api.Entry{
		Sequence: sequence, Time: o.Now().UTC(), Split: s.definition.Name, Generation: s.generation, Action: action,
		PreviousPPM: change.PreviousPPM, WeightPPM: change.WeightPPM, Weights: weights, Undoes: undoes,
		PreviousSamplePPM: change.PreviousSamplePPM, SamplePPM: change.SamplePPM,
		UID: who.UID, User: who.User, SudoUser: who.SudoUser, PID: who.PID, Command: who.Command, Reason: reason,
	})
	return change
}

// unchanged is a change that changes nothing.
func (o *Operator) unchanged(s *split) api.Change {
	split := traffic.Effective(s.definition, s.overrides)
	weight, sample := int(split.CandidateWeight()), int(split.Sample)
	return api.Change{
		Envelope: api.Of(api.KindChange), Split: s.definition.Name, Generation: s.generation,
		PreviousPPM: weight, WeightPPM: weight, PreviousSamplePPM: sample, SamplePPM: sample,
	}
}

func (o *Operator) find(name string) (*split, error) {
	if name == "" && len(o.splits) == 1 {
		return o.splits[0], nil
	}
	names := make([]string, 0, len(o.splits))
	for _, s := range o.splits {
		if s.definition.Name == name {
			return s, nil
		}
		names = append(names, s.definition.Name)
	}
	if name == "" {
		return nil, refuse(api.CodeInvalid, "there are %d splits: name one of %s", len(names), strings.Join(names, ", "))
	}
	return nil, o.unknown(name)
}

func (o *Operator) unknown(name string) error {
	return refuse(api.CodeNotFound, "there is no split %s: look with `splitctl status`", strconv.Quote(name))
}

func with(overrides traffic.Overrides, weights map[string]traffic.Weight, override traffic.Override) traffic.Overrides {
	next := maps.Clone(overrides)
	for candidate, weight := range weights {
		override.Weight = weight
		next[candidate] = override
	}
	return next
}

func refuse(code api.Code, format string, args ...any) error {
	return &api.Error{Envelope: api.Of(api.KindError), Code: code, Message: fmt.Sprintf(format, args...)}
}
