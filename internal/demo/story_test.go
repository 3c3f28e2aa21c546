package demo

import (
	"strings"
	"testing"

	"github.com/splitd/splitd/control/api"
	"github.com/splitd/splitd/traffic"
)

// act is a step in which so many mails arrived, of them some at the new MX,
// and what splitd observed.
func act(weight traffic.Weight, mails, atNew, observed int) played {
	return played{row: row{
		Set: weight, Observed: &observed,
		Mails: tally{Sent: mails, Answered: mails, Arrived: map[string]int{oldMX: mails - atNew, newMX: atNew}},
	}}
}

func TestSharesAreJudgedByTheirInterval(t *testing.T) {
	tests := []struct {
		name  string
		rows  []played
		holds bool
		why   string
	}{
		{"as set", []played{act(0, 200, 0, 0), act(5*percent, 400, 20, 50_000), act(traffic.Whole, 200, 200, 1_000_000)}, true, ""},
		{"some luck", []played{act(5*percent, 400, 34, 85_000)}, true, ""},
		{"too many", []played{act(5*percent, 400, 60, 150_000)}, false, "at 5%: 60 of 400 mails"},
		{"too few", []played{act(50*percent, 400, 150, 375_000)}, false, "at 50%: 150 of 400 mails"},
		{"one at 0 %", []played{act(0, 200, 1, 5_000)}, false, "at 0%: 1 of 200 mails, not 0 to 0"},
		{"one short of 100 %", []played{act(traffic.Whole, 200, 199, 995_000)}, false, "at 100%: 199 of 200 mails, not 200 to 200"},
		{"no step", nil, false, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := (&story{rows: tt.rows}).shareClaim()
			if got.holds != tt.holds || !strings.Contains(strings.Join(got.why, "\n"), tt.why) {
				t.Errorf("claim = %+v, want holds %t and %q", got, tt.holds, tt.why)
			}
		})
	}
}

func TestSplitdsCountsMustBeThoseOfTheMailServers(t *testing.T) {
	arrived := verdict{Arrived: map[string]int{oldMX: 380, newMX: 20}}
	exact := api.Split{Backends: []api.Backend{{Name: oldMX, FlowsTotal: new(uint64(380))}, {Name: newMX, FlowsTotal: new(uint64(20))}}}
	unsure := act(5*percent, 400, 20, 52_000) // one flow more, of a mail sent during the change
	unsure.unsure = 1
	silent := act(5*percent, 400, 20, 0)
	silent.Observed = nil
	tests := []struct {
		name  string
		row   played
		final api.Split
		holds bool
		why   string
	}{
		{"exact", act(5*percent, 400, 20, 50_000), exact, true, ""},
		{"one mail was under way during the change", unsure, exact, true, ""},
		{"the share is another", act(5*percent, 400, 20, 60_000), exact, false, "splitd observed 6%, the mails say 5.0000%"},
		{"the share is not known", silent, exact, false, "splitd observed nothing in 400 mails"},
		{"a flow more than mails", act(5*percent, 400, 20, 50_000), api.Split{Backends: []api.Backend{{Name: newMX, FlowsTotal: new(uint64(21))}}}, false, `flows_total of "new" is 21, but 20 mails arrived there`},
		{"a count that is unknown", act(5*percent, 400, 20, 50_000), api.Split{Backends: []api.Backend{{Name: newMX}}}, false, `flows_total of "new" is unknown, but 20 mails arrived there`},
		{"no status", act(5*percent, 400, 20, 50_000), api.Split{}, false, "there was no status"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := (&story{rows: []played{tt.row}}).countClaim(arrived, tt.final)
			if got.holds != tt.holds || !strings.Contains(strings.Join(got.why, "\n"), tt.why) {
				t.Errorf("claim = %+v, want holds %t and %q", got, tt.holds, tt.why)
			}
		})
	}
}

func TestLossesAndFailuresAreNamed(t *testing.T) {
	lost := lossClaim(verdict{Lost: []string{"<a@test>"}, Twice: []string{"<b@test>"}, Strays: []string{"<c@test>"}})
	if lost.holds || strings.Join(lost.why, ", ") != "lost: <a@test>, twice: <b@test>, not ours: <c@test>" {
		t.Errorf("claim = %+v", lost)
	}
	failed := failureClaim(verdict{Sent: 9, Failures: map[string]int{"refused": 2, "reset": 1}})
	if failed.holds || failed.text != "3 of 9 mails failed" || strings.Join(failed.why, ", ") != "1 times: reset, 2 times: refused" {
		t.Errorf("claim = %+v", failed)
	}
}

func TestTheStoryIsTheOneOfTheDesign(t *testing.T) {
	var story []string
	for _, step := range migration() {
		story = append(story, step.weight.String())
		if step.command != nil && step.command[0] == "set" && step.command[2] != step.weight.String() {
			t.Errorf("%v is typed, but %s is expected", step.command, step.weight)
		}
	}
	if got, want := strings.Join(story, " "), "0% 5% 25% 5% 50% 100% 0%"; got != want {
		t.Errorf("story = %s, want %s", got, want)
	}
	kept := keptSteps(migration())
	if len(kept) != 5 || kept[4].weight != 50*percent {
		t.Errorf("--keep plays %d steps to %s, want 5 to 50%%", len(kept), kept[len(kept)-1].weight)
	}
}

func TestStatusOfAnotherShapeIsAnError(t *testing.T) {
	for _, output := range []string{"", "mx 5%", `{"items":[]}`, `{"items":[{"name":"other"}]}`} {
		if split, err := parseStatus(output); err == nil {
			t.Errorf("parseStatus(%q) = %+v, want an error", output, split)
		}
	}
}
