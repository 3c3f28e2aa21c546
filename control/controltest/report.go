package controltest

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/splitd/splitd/control"
	"github.com/splitd/splitd/control/api"
)

// Report implements control.Operator.
func (o *Operator) Report(_ context.Context, name string) (json.RawMessage, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	s, err := o.find(name)
	if err != nil {
		return nil, err
	}
	return o.reportOf(s.definition.Name)
}

// ResetReport implements control.Operator: from then on the report is one of
// nothing.
func (o *Operator) ResetReport(_ context.Context, _ control.Actor, name string, request api.Request) (api.Change, error) {
	return o.changed(name, request, func(s *split) (api.Change, error) {
		text, err := o.reportOf(s.definition.Name)
		if err != nil {
			return api.Change{}, err
		}
		var held struct {
			Window   struct{ From, To *time.Time }
			Coverage struct{ Eligible, Compared int64 }
		}
		if err := json.Unmarshal(text, &held); err != nil {
			return api.Change{}, err
		}
		o.blank[s.definition.Name] = true
		change := o.unchanged(s)
		change.Changed = held.Coverage.Eligible > 0
		change.Forgotten = &api.Forgotten{Exchanges: held.Coverage.Eligible, Compared: held.Coverage.Compared, From: held.Window.From, To: held.Window.To}
		return change, nil
	})
}

func (o *Operator) reportOf(split string) (json.RawMessage, error) {
	if o.ReportOf == nil || o.blank[split] {
		return json.RawMessage(fmt.Sprintf(`{"apiVersion":%q,"kind":%q,"split":%q,"verdict":"undecided","summary":"nothing has been compared yet."}`,
			api.Version, api.KindShadowReport, split)), nil
	}
	return o.ReportOf(split)
}
