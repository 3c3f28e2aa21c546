package daemon

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/splitd/splitd/configs"
	"github.com/splitd/splitd/control"
	"github.com/splitd/splitd/control/api"
	"github.com/splitd/splitd/netfilter"
	"github.com/splitd/splitd/state"
	"github.com/splitd/splitd/traffic"
)

// threeText is a configuration of a split whose layout is state.
func threeText(weights [3]traffic.Weight, slots string) string {
	var text strings.Builder
	text.WriteString(`splits:
  - name: mx
    service: {addresses: [192.0.2.25], ports: [25/tcp]}
    affinity: source
    primary: {name: old, addresses: [local]}
    candidates:
`)
	for i, w := range weights {
		fmt.Fprintf(&text, "      - {name: %c, addresses: [10.0.0.%d], weight: %s}\n", 'a'+i, 11+i, w)
	}
	if slots != "" {
		text.WriteString("    slots:\n" + slots)
	}
	return text.String()
}

func three(t *testing.T, weights [3]traffic.Weight) traffic.Split {
	t.Helper()
	definition, err := configs.ParseDefinition("mx.yaml", []byte(threeText(weights, "")))
	if err != nil {
		t.Fatal(err)
	}
	return definition.Splits[0]
}

// steps asks for weights one after another, as in "a=5".
func (w *world) steps(d *Daemon, steps ...string) {
	w.t.Helper()
	for _, step := range steps {
		var name string
		var p int
		if _, err := fmt.Sscanf(strings.Replace(step, "=", " ", 1), "%s %d", &name, &p); err != nil {
			w.t.Fatal(err)
		}
		request := api.SetRequest{Weights: map[string]int{name: int(percent(p))}}
		if _, err := d.Set(w.t.Context(), control.Actor{User: "ann"}, "mx", request); err != nil {
			w.t.Fatal(err)
		}
	}
}

// drawn is who draws what in the kernel.
func (w *world) drawn() traffic.Slots { return w.kernel.splits["mx"].Layout() }

// mixed are steps after which weights alone no longer say who draws what.
func mixed() []string { return []string{"a=5", "b=5", "c=5", "a=1", "c=7", "b=2", "a=6"} }

func equal(t *testing.T, what string, want, got traffic.Slots) {
	t.Helper()
	if diff := cmp.Diff(want, got, cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("%s (-want +got):\n%s", what, diff)
	}
}

func TestAChangedWeightMovesOnlyItsOwnCandidatesClients(t *testing.T) {
	w := newWorld(t, three(t, [3]traffic.Weight{}))
	d := w.mustBoot()
	for _, step := range mixed() {
		before := w.drawn()
		w.steps(d, step)
		after := w.drawn()
		for n := traffic.Weight(0); n < traffic.Whole; n += 1_000 {
			from, to := before.Of(n), after.Of(n)
			if from != to && (from != "" && from != step[:1] || to != "" && to != step[:1]) {
				t.Fatalf("%s moves %d from %q to %q", step, n, from, to)
			}
		}
	}
	if slotted := w.kernel.splits["mx"]; cmp.Equal(w.drawn(), traffic.Slots(nil).Reweighed(slotted.Candidates)) {
		t.Error("the weights alone give this layout: the test shows nothing")
	}
}

func TestClientsKeepTheirSidesOverRestartReloadAndALostStore(t *testing.T) {
	w := newWorld(t, three(t, [3]traffic.Weight{}))
	d := w.mustBoot()
	w.steps(d, mixed()...)
	want := w.drawn()
	if _, err := d.Apply(t.Context(), control.Actor{}, api.ApplyRequest{}); err != nil {
		t.Fatal(err)
	}
	equal(t, "after a reload", want, w.drawn())
	stop(t, d)
	d = w.mustBoot()
	equal(t, "after a restart", want, w.drawn())
	stop(t, d)
	snapshot, err := state.ReadSnapshot(d.snapshotPath())
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "in the snapshot", want, snapshot.Splits[0].Layout())
	w.dir = t.TempDir()
	d = w.mustBoot()
	equal(t, "with the store gone", want, w.drawn())
	w.steps(d, "a=7")
	for n := traffic.Weight(0); n < traffic.Whole; n += 1_000 {
		if from := want.Of(n); from != "" && w.drawn().Of(n) != from {
			t.Fatalf("after that a raise moves %d away from %q", n, from)
		}
	}
}

func stop(t *testing.T, d *Daemon) {
	t.Helper()
	if err := d.stop(); err != nil {
		t.Fatal(err)
	}
}

// TestAnEditedListOfCandidatesMovesNobodyWhoStays edits the file under two or
// three candidates, whose clients are where their order once put them.
func TestAnEditedListOfCandidatesMovesNobodyWhoStays(t *testing.T) {
	file := three(t, [3]traffic.Weight{})
	a, b, c := file.Candidates[0], file.Candidates[1], file.Candidates[2]
	for name, edit := range map[string]struct{ before, after []traffic.Backend }{
		"the first of two goes":   {[]traffic.Backend{a, b}, []traffic.Backend{b}},
		"the second of two goes":  {[]traffic.Backend{a, b}, []traffic.Backend{a}},
		"another one comes first": {[]traffic.Backend{b}, []traffic.Backend{a, b}},
		"two change places":       {[]traffic.Backend{a, b}, []traffic.Backend{b, a}},
		"the first of three goes": {[]traffic.Backend{a, b, c}, []traffic.Backend{b, c}},
		"the last of three goes":  {[]traffic.Backend{a, b, c}, []traffic.Backend{a, b}},
		"only the last stays":     {[]traffic.Backend{a, b, c}, []traffic.Backend{c}},
	} {
		t.Run(name, func(t *testing.T) {
			file := file
			file.Candidates = edit.before
			w := newWorld(t, file)
			d := w.mustBoot()
			for i, candidate := range edit.before {
				w.steps(d, fmt.Sprintf("%s=%d", candidate.Name, 3+2*i))
			}
			was := w.drawn()
			file.Candidates = edit.after
			w.files.Splits = []traffic.Split{file}
			if _, err := d.Apply(t.Context(), control.Actor{}, api.ApplyRequest{}); err != nil {
				t.Fatal(err)
			}
			is := w.drawn()
			movesNobody(t, file, was, is)
			stop(t, d)
			d = w.mustBoot()
			equal(t, "after a restart", is, w.drawn())
			stop(t, d)
			w.dir = t.TempDir()
			d = w.mustBoot()
			equal(t, "with the store gone", is, w.drawn())
			name := edit.after[len(edit.after)-1].Name
			w.steps(d, name+"=20")
			for n := traffic.Weight(0); n < traffic.Whole; n += 1_000 {
				if from, to := is.Of(n), w.drawn().Of(n); from != to && (from != "" || to != name) {
					t.Fatalf("after that a raise of %q moves %d from %q to %q", name, n, from, to)
				}
			}
		})
	}
}

// movesNobody fails when a client of a candidate that stays, or of the primary,
// goes elsewhere.
func movesNobody(t *testing.T, split traffic.Split, was, is traffic.Slots) {
	t.Helper()
	for n := traffic.Weight(0); n < traffic.Whole; n += 1_000 {
		from, to := was.Of(n), is.Of(n)
		if _, stays := split.Candidate(from); from != to && (stays || from == "") {
			t.Fatalf("%d goes from %q to %q", n, from, to)
		}
	}
}

func TestAThirdCandidateMovesNobody(t *testing.T) {
	file := three(t, [3]traffic.Weight{})
	two := file
	two.Candidates = file.Candidates[:2]
	w := newWorld(t, two)
	d := w.mustBoot()
	w.steps(d, "a=5", "b=3")
	want := w.drawn()
	w.files.Splits = []traffic.Split{file}
	if _, err := d.Apply(t.Context(), control.Actor{}, api.ApplyRequest{}); err != nil {
		t.Fatal(err)
	}
	equal(t, "with a third candidate at 0%", want, w.drawn())
}

// A second router takes over what `splitctl show -o json` says of the first.
func TestTwoRoutersDrawAlikeOnceOneHasTheOthersSlots(t *testing.T) {
	first := newWorld(t, three(t, [3]traffic.Weight{}))
	a := first.mustBoot()
	first.steps(a, mixed()...)
	list, err := a.Splits(t.Context(), "mx")
	if err != nil {
		t.Fatal(err)
	}
	var weights [3]traffic.Weight
	for i, b := range list.Items[0].Backends[1:] {
		weights[i] = traffic.Weight(b.WeightPPM)
	}
	var slots strings.Builder
	for _, s := range list.Items[0].Slots {
		fmt.Fprintf(&slots, "      - {first: %d, last: %d, candidate: %s}\n", s.First, s.Last, s.Candidate)
	}
	text := threeText(weights, slots.String())

	second := newWorld(t, three(t, [3]traffic.Weight{percent(1), percent(1), percent(1)}))
	b := second.mustBoot()
	send := func() {
		t.Helper()
		if _, err := b.Apply(t.Context(), control.Actor{}, api.ApplyRequest{Name: "mx.yaml", Text: text}); err != nil {
			t.Fatal(err)
		}
	}
	send()
	equal(t, "the second router", first.drawn(), second.drawn())

	more := []string{"b=9", "a=2", "c=1", "b=4"}
	first.steps(a, more...)
	second.steps(b, more...)
	equal(t, "after the same steps", first.drawn(), second.drawn())
	send()
	equal(t, "after the same file again", first.drawn(), second.drawn())
	text = strings.Replace(text, "[25/tcp]", "[25/tcp, 587/tcp]", 1)
	send()
	equal(t, "after the file was edited elsewhere", first.drawn(), second.drawn())
}

func TestASplitThatNeedsNoSlotsHasNone(t *testing.T) {
	file := three(t, [3]traffic.Weight{percent(5), percent(5), percent(5)})
	without, two := file, file
	without.Affinity = traffic.AffinityNone
	two.Candidates = file.Candidates[:2]
	for name, definition := range map[string]traffic.Split{"no affinity": without, "two candidates": two} {
		if got := settle(definition, nil, nil, noon); got.record.Slots != nil || inForce(got.record).Slots != nil {
			t.Errorf("%s: record %v, in force %v", name, got.record.Slots, inForce(got.record).Slots)
		}
	}
}

func TestTheKernelsLayoutIsAdopted(t *testing.T) {
	file := three(t, [3]traffic.Weight{percent(5), 0, 0})
	slots := traffic.Slots{{First: 300_000, Last: 309_999, Candidate: "b"}, {First: 500_000, Last: 549_999, Candidate: "a"}}
	kernel := netfilter.SplitState{Generation: 9, Weights: map[string]traffic.Weight{"a": percent(5), "b": percent(1), "c": 0}, Slots: slots}
	stale := settle(file, nil, nil, noon).record
	for name, record := range map[string]*state.Record{"without a record": nil, "over an older one": &stale} {
		got := settle(file, record, &standing{kernel, reasonAdopted}, noon)
		equal(t, name, slots, inForce(got.record).Layout())
	}
}

// What an older version stored lacks the words of this one.
func TestAnUnchangedFileIsNoNewGenerationAfterAnUpgrade(t *testing.T) {
	for name, text := range map[string]string{"kernel": threeText([3]traffic.Weight{}, ""), "web": `splits:
  - name: mx
    protocol: http
    service: {addresses: [192.0.2.25], ports: [80/tcp]}
    primary: {name: old, addresses: [local]}
    candidates: [{name: new, addresses: [10.0.0.12], weight: 5%}]
`} {
		definition, err := configs.ParseDefinition("mx.yaml", []byte(text))
		if err != nil {
			t.Fatal(err)
		}
		file := definition.Splits[0]
		old := file
		old.AffinityPrefix, old.Health, old.WhenDown, old.Shadow = traffic.AffinityPrefix{}, traffic.Health{}, "", traffic.Shadow{}
		record := state.Record{Name: "mx", Generation: 7, Definition: old}
		got := settle(file, &record, nil, noon)
		if got.action != "" || got.record.Generation != 7 {
			t.Errorf("%s: action %q, generation %d, want none and 7", name, got.action, got.record.Generation)
		}
		if diff := cmp.Diff(file, got.record.Definition, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
			t.Errorf("%s: what is in force lacks words of this version (-file +record):\n%s", name, diff)
		}
		edited := file
		edited.Candidates = append([]traffic.Backend(nil), file.Candidates...)
		edited.Candidates[0].Clients.Never = []netip.Prefix{netip.MustParsePrefix("203.0.113.7/32")}
		if got := settle(edited, &record, nil, noon); got.action != state.ActionApply || got.record.Generation != 8 {
			t.Errorf("%s: an edited file gives action %q, generation %d, want apply and 8", name, got.action, got.record.Generation)
		}
	}
}
