package daemon

import (
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/splitd/splitd/configs"
	"github.com/splitd/splitd/control"
	"github.com/splitd/splitd/control/api"
	"github.com/splitd/splitd/netfilter"
	"github.com/splitd/splitd/state"
	"github.com/splitd/splitd/traffic"
)

// sampled is mx in mode proxy, with the file's weight and sample.
func sampled(weight, sample traffic.Weight) traffic.Split {
	s := proxied(weight)
	s.Sample = sample
	return s
}

// shadow asks for a sample of the split mx.
func (w *world) shadow(d *Daemon, sample traffic.Weight) (api.Change, error) {
	return d.Shadow(w.t.Context(), control.Actor{User: "ann"}, "mx", api.ShadowRequest{SamplePPM: new(int(sample))})
}

func (w *world) mustShadow(d *Daemon, sample traffic.Weight) api.Change {
	w.t.Helper()
	change, err := w.shadow(d, sample)
	if err != nil {
		w.t.Fatalf("shadow %s = %v", sample, err)
	}
	return change
}

// hasSample says that the relay samples so much of mx.
func (w *world) hasSample(when string, want traffic.Weight) {
	w.t.Helper()
	if got := w.relay.mx().Sample; got != want {
		w.t.Errorf("%s the relay samples %s, want %s", when, got, want)
	}
}

func TestASampleIsAGenerationOfItsOwnAndNoWeight(t *testing.T) {
	w := newWorld(t, proxied(percent(5)))
	d := w.mustBoot()
	applies := w.relay.applies
	change, err := d.Shadow(t.Context(), control.Actor{User: "ann"}, "", api.ShadowRequest{
		Request: api.Request{Reason: "CHG-2"}, SamplePPM: new(1_000_000),
	})
	want := api.Change{
		Envelope: api.Of(api.KindChange), Split: "mx", Changed: true, Generation: 2,
		PreviousPPM: 50_000, WeightPPM: 50_000, SamplePPM: 1_000_000,
	}
	if diff := cmp.Diff(want, change); err != nil || diff != "" {
		t.Errorf("shadow: %v (-want +got):\n%s", err, diff)
	}
	w.hasSample("after shadow 100%", traffic.Whole)
	if got := w.relay.mx(); got.CandidateWeight() != percent(5) || got.Generation != 2 {
		t.Errorf("the relay draws %s at generation %d, want the 5%% as before at 2", got.CandidateWeight(), got.Generation)
	}
	if w.relay.applies != applies {
		t.Error("all was applied again, want the short way of weights")
	}
	if again := w.mustShadow(d, traffic.Whole); again.Changed || again.Generation != 2 {
		t.Errorf("the same sample again = %+v, want no change", again)
	}
	item := mustShow(t, d)
	since := noon
	shadow := api.Shadow{SamplePPM: 1_000_000, State: "on", To: "new", Origin: &api.Origin{Layer: "operator", Actor: "ann", Reason: "CHG-2", Since: &since}}
	if diff := cmp.Diff(shadow, item.Shadow); diff != "" {
		t.Errorf("status (-want +got):\n%s", diff)
	}
	if item.Origin.Layer != "file" || item.WeightPPM != 50_000 {
		t.Errorf("the weight is %d ppm by the %s, want the file's 50000", item.WeightPPM, item.Origin.Layer)
	}
	history, err := d.History(t.Context(), "mx", 1)
	if err != nil {
		t.Fatal(err)
	}
	entry := api.Entry{
		Sequence: 2, Time: noon, Split: "mx", Generation: 2, Action: "shadow", PreviousPPM: 50_000, WeightPPM: 50_000,
		Weights: map[string]int{"new": 50_000}, SamplePPM: 1_000_000, User: "ann", Reason: "CHG-2",
	}
	if diff := cmp.Diff([]api.Entry{entry}, history.Items); diff != "" {
		t.Errorf("history (-want +got):\n%s", diff)
	}
}

func mustShow(t *testing.T, d *Daemon) api.Split {
	t.Helper()
	list, err := d.Splits(t.Context(), "mx")
	if err != nil {
		t.Fatal(err)
	}
	return list.Items[0]
}

func TestTheKernelGetsTheSampleByTheShortWayToo(t *testing.T) {
	w := newWorld(t, mx(percent(5)))
	d := w.mustBoot()
	w.mustShadow(d, percent(30))
	if got := w.kernel.splits["mx"]; got.Sample != percent(30) || got.CandidateWeight() != percent(5) {
		t.Errorf("the kernel samples %s beside %s, want 30%% beside 5%%", got.Sample, got.CandidateWeight())
	}
	w.agrees(d)
}

func TestRaisingTheSampleIsRecordedFirstAndLoweringItNeedsNoDisk(t *testing.T) {
	w := newWorld(t, proxied(0))
	d := w.mustBoot()
	w.mustShadow(d, percent(10))
	w.diskFull = true
	if _, err := w.shadow(d, percent(50)); err == nil || !strings.Contains(err.Error(), "raise refused, it cannot be recorded") {
		t.Errorf("shadow 50%% on a full disk = %v, want it refused", err)
	}
	w.hasSample("after a refused raise", percent(10))
	change, err := w.shadow(d, percent(5))
	if err != nil || len(change.Warnings) == 0 {
		t.Errorf("shadow 5%% on a full disk = %+v, %v, want it done, with a warning", change, err)
	}
	w.hasSample("after lowering on a full disk", percent(5))
	answer := w.hang()
	w.diskFull = false
	if _, err := w.shadow(d, 0); err != nil {
		t.Errorf("shadow 0%% on a hung disk = %v", err)
	}
	w.hasSample("with a hung disk, after shadow 0%", 0)
	answer()
}

func TestTheKillSwitchBeatsASampleThatWaitsToBeRaised(t *testing.T) {
	for name, kill := range map[string]func(*world, *Daemon){
		"shadow 0%": func(w *world, d *Daemon) { w.mustShadow(d, 0) },
		"off":       (*world).off,
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, proxied(0))
			d := w.mustBoot()
			answer := w.hang()
			raise := asks(func() error { _, err := w.shadow(d, percent(50)); return err })
			<-w.hanging
			kill(w, d)
			answer()
			if err := <-raise; !isConflict(err) {
				t.Errorf("the raise = %v, want a conflict", err)
			}
			w.hasSample("in the end", 0)
			w.agrees(d)
		})
	}
}

func TestOffEndsShadowsToo(t *testing.T) {
	pinned := sampled(percent(5), percent(10))
	pinned.Pinned = true
	for name, split := range map[string]traffic.Split{"by the file": sampled(percent(5), percent(10)), "by a pinned file": pinned, "by the file, without a weight": sampled(0, percent(10))} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, split)
			d := w.mustBoot()
			w.hasSample("at first", percent(10))
			change, err := d.Off(t.Context(), control.Actor{User: "bob"}, "mx", api.Request{})
			if err != nil || change.PreviousSamplePPM != 100_000 || change.SamplePPM != 0 || !change.Changed {
				t.Errorf("off = %+v, %v", change, err)
			}
			w.hasSample("after off", 0)
			if again, err := d.Off(t.Context(), control.Actor{User: "bob"}, "mx", api.Request{}); err != nil || again.Changed {
				t.Errorf("off again = %+v, %v, want no change", again, err)
			}
			_ = d.stop()
			d = w.mustBoot()
			w.hasSample("after a restart", 0)
			// The file's weight is not the file's sample: each has its own word.
			if _, err := d.Set(t.Context(), control.Actor{}, "mx", api.SetRequest{Default: true}); err != nil {
				t.Fatal(err)
			}
			w.hasSample("after set default", 0)
			if _, err := d.Shadow(t.Context(), control.Actor{}, "mx", api.ShadowRequest{Default: true}); err != nil {
				t.Fatal(err)
			}
			w.hasSample("after shadow default", percent(10))
			w.agrees(d)
		})
	}
}

func TestOffOfAllEndsTheShadowOfASplitThatHasNoWeight(t *testing.T) {
	web := sampled(0, percent(20))
	web.Name = "web"
	w := newWorld(t, proxied(percent(5)), web)
	d := w.mustBoot()
	w.mustShadow(d, percent(50))
	list, err := d.OffAll(t.Context(), control.Actor{}, api.Request{})
	if err != nil || !list.Items[0].Changed || !list.Items[1].Changed {
		t.Errorf("off --all = %+v, %v", list, err)
	}
	for _, s := range w.relay.splits {
		if s.Sample != 0 || s.CandidateWeight() != 0 {
			t.Errorf("%s is sampled %s beside %s, want nothing", s.Name, s.Sample, s.CandidateWeight())
		}
	}
}

func TestUndoRestoresTheSample(t *testing.T) {
	w := newWorld(t, sampled(percent(5), percent(10)))
	d := w.mustBoot()
	undo := func(want traffic.Weight) {
		t.Helper()
		if _, err := d.Undo(t.Context(), control.Actor{}, "mx", api.Request{}); err != nil {
			t.Fatal(err)
		}
		w.hasSample("after undo", want)
	}
	w.mustShadow(d, percent(50))
	if _, err := w.set(d, percent(20)); err != nil {
		t.Fatal(err)
	}
	w.off(d)
	undo(percent(50))
	if got := w.relay.mx().CandidateWeight(); got != percent(20) {
		t.Errorf("undo of off brings %s back, want the 20%%", got)
	}
	undo(percent(50)) // of the set
	undo(percent(10)) // of the shadow
	if item := mustShow(t, d); item.Shadow.Origin == nil || item.Shadow.Origin.Layer != "file" {
		t.Errorf("the sample is of %+v, want the file's", item.Shadow.Origin)
	}
	w.agrees(d)
}

func TestASampleWithAnEndGoesBackToTheFilesByItself(t *testing.T) {
	w := newWorld(t, sampled(0, percent(1)))
	d := w.mustBoot()
	_, err := d.Shadow(t.Context(), control.Actor{}, "mx", api.ShadowRequest{SamplePPM: new(500_000), TTLSeconds: 60})
	if err != nil {
		t.Fatal(err)
	}
	if until := mustShow(t, d).Shadow.Origin.Until; until == nil || !until.Equal(noon.Add(time.Minute)) {
		t.Errorf("status says it ends at %v", until)
	}
	if next := d.expireDue(t.Context()); !next.Equal(noon.Add(time.Minute)) {
		t.Errorf("the daemon looks again at %v", next)
	}
	w.hasSample("before its end", percent(50))
	w.now = noon.Add(time.Minute)
	d.expireDue(t.Context())
	w.hasSample("after its end", percent(1))
	history, err := d.History(t.Context(), "mx", 1)
	if e := history.Items[0]; err != nil || e.Action != "expire" || e.PreviousSamplePPM != 500_000 || e.SamplePPM != 10_000 || e.Generation != 3 {
		t.Errorf("history = %+v, %v", e, err)
	}
	if _, err := d.Shadow(t.Context(), control.Actor{}, "mx", api.ShadowRequest{SamplePPM: new(700_000), TTLSeconds: 60}); err != nil {
		t.Fatal(err)
	}
	_ = d.stop()
	w.now = noon.Add(time.Hour)
	d = w.mustBoot() // nobody was there when it ended
	w.hasSample("after a restart behind its end", percent(1))
	w.agrees(d)
}

func TestAPinnedFileDecidesTheSample(t *testing.T) {
	pinned := sampled(0, percent(10))
	pinned.Pinned = true
	w := newWorld(t, pinned)
	d := w.mustBoot()
	if _, err := w.shadow(d, percent(50)); !isConflict(err) || !strings.Contains(err.Error(), "change shadow.sample there and run `splitctl apply`") {
		t.Errorf("shadow of a pinned split = %v", err)
	}
	for what, end := range map[string]func(){
		"off":       func() { w.off(d) },
		"shadow 0%": func() { w.mustShadow(d, 0) },
	} {
		end()
		w.hasSample("pinned, after "+what, 0)
		if _, err := w.shadow(d, percent(50)); !isConflict(err) || !strings.Contains(err.Error(), "`splitctl shadow mx default` drops it") {
			t.Errorf("shadow of a pinned split after %s = %v", what, err)
		}
		if _, err := d.Shadow(t.Context(), control.Actor{}, "mx", api.ShadowRequest{Default: true}); err != nil {
			t.Fatal(err)
		}
		w.hasSample("pinned, after "+what+" and default", percent(10))
	}
	// Who had a word before it was pinned has none now.
	free := sampled(0, percent(10))
	w = newWorld(t, free)
	d = w.mustBoot()
	w.mustShadow(d, percent(50))
	w.files.Splits = []traffic.Split{pinned}
	if _, err := d.Apply(t.Context(), control.Actor{}, api.ApplyRequest{}); err != nil {
		t.Fatal(err)
	}
	w.hasSample("once the file is pinned", percent(10))
}

func TestWhoShadowsBytesOfWhichNothingIsKnownIsWarnedThatWritesAreSentToo(t *testing.T) {
	for protocol, warned := range map[string]bool{"raw": true, "http": false, "smtp": false} {
		split := proxied(0)
		split.Protocol = protocol
		if protocol == "raw" {
			split.Service.Ports = []traffic.Port{{Number: 5432, Transport: traffic.TCP}}
		}
		w := newWorld(t, split)
		d := w.mustBoot()
		text := strings.Join(w.mustShadow(d, percent(5)).Warnings, "\n")
		if got := strings.Contains(text, "all that clients say is sent to"); got != warned {
			t.Errorf("protocol %s: warned %t, want %t: %q", protocol, got, warned, text)
		}
		if text := strings.Join(w.mustShadow(d, 0).Warnings, "\n"); text != "" {
			t.Errorf("protocol %s: a sample of 0 warns: %q", protocol, text)
		}
	}
}

func TestWhatCannotBeShadowedIsToldWhy(t *testing.T) {
	udp := proxied(0)
	udp.Service.Ports = []traffic.Port{{Number: 53, Transport: traffic.UDP}}
	alone := proxied(0)
	alone.Candidates, alone.Shadow.To = nil, ""
	named, several := twoCandidates(0, 0), twoCandidates(0, 0)
	named.Shadow.To, several.Shadow.To = "b", ""
	for name, tt := range map[string]struct {
		split traffic.Split
		want  string
	}{
		"no candidate":       {alone, "write one under candidates: change it there (mx.yaml:3) and run `splitctl apply`"},
		"several candidates": {several, "shadow.to does not say which candidate: name one of \"new\", \"b\": change it there (mx.yaml:3) and run `splitctl apply`"},
		"UDP alone":          {udp, "the service has no tcp port, and shadows copy nothing else (for udp there is mirror, which compares nothing)"},
		"one that is named":  {named, ""},
	} {
		t.Run(name, func(t *testing.T) {
			tt.split.Mode = traffic.ModeProxy
			w := newWorld(t, tt.split)
			w.files.Places = map[string]configs.Place{"mx": {File: "mx.yaml", Line: 3}}
			d := w.mustBoot()
			_, err := w.shadow(d, percent(5))
			refused, ok := errors.AsType[*api.Error](err)
			switch {
			case tt.want == "" && err != nil, tt.want != "" && (!ok || refused.Code != api.CodeInvalid || !strings.Contains(refused.Message, tt.want)):
				t.Errorf("shadow = %v, want %q", err, tt.want)
			}
			if _, err := w.shadow(d, 0); err != nil {
				t.Errorf("shadow 0%% = %v, want it to work always", err)
			}
		})
	}
}

func TestADrainLeavesTheSampleAlone(t *testing.T) {
	w := newWorld(t, sampled(percent(5), percent(10)))
	d := w.mustBoot()
	w.mustShadow(d, percent(50))
	if _, err := d.Drain(t.Context(), control.Actor{}, "mx", api.DrainRequest{Backend: "new"}); err != nil {
		t.Fatal(err)
	}
	w.hasSample("while its candidate drains", percent(50))
	if _, err := w.set(d, percent(5)); err != nil {
		t.Fatal(err)
	}
	w.hasSample("after a set", percent(50))
}

func TestASampleOutlivesReloadsAndAnOffOfItARemoval(t *testing.T) {
	for name, tt := range map[string]struct {
		word func(*world, *Daemon)
		want traffic.Weight // when the split is back
		says string
	}{
		"off":    {func(w *world, d *Daemon) { w.off(d) }, 0, `split "mx": its sample stays at 0% by bob`},
		"a word": {func(w *world, d *Daemon) { w.mustShadow(d, percent(50)) }, percent(10), `split "mx": its sample of 50% that ann set is forgotten`},
		"nobody": {func(*world, *Daemon) {}, percent(10), ""},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, sampled(0, percent(10)))
			d := w.mustBoot()
			tt.word(w, d)
			was := w.relay.mx().Sample
			apply := func(splits ...traffic.Split) api.Apply {
				t.Helper()
				w.files.Splits = splits
				answer, err := d.Apply(t.Context(), control.Actor{}, api.ApplyRequest{})
				if err != nil {
					t.Fatal(err)
				}
				return answer
			}
			apply(sampled(percent(3), percent(10)))
			w.hasSample("after a reload", was)
			answer := apply()
			if !strings.Contains(strings.Join(answer.Warnings, "\n"), tt.says) || answer.Items[0].PreviousSamplePPM != int(was) || answer.Items[0].SamplePPM != 0 {
				t.Errorf("the removal = %+v, want %q", answer, tt.says)
			}
			apply(sampled(percent(3), percent(10)))
			w.hasSample("when it is back", tt.want)
			w.agrees(d)
		})
	}
}

func TestAnApplySaysThatTheFilesSampleIsNotInForce(t *testing.T) {
	w := newWorld(t, proxied(0))
	d := w.mustBoot()
	w.mustShadow(d, percent(50))
	w.files.Splits = []traffic.Split{sampled(0, percent(10))}
	answer, err := d.Apply(t.Context(), control.Actor{}, api.ApplyRequest{})
	want := "split \"mx\": the file's sample of 10% is not in force: ann set 50%; `splitctl shadow mx default` takes the file's"
	if err != nil || !strings.Contains(strings.Join(answer.Warnings, "\n"), want) {
		t.Errorf("apply = %q, %v, want %q", answer.Warnings, err, want)
	}
}

// A word about the sample is for whoever may be played to, so it goes when nobody
// may any more.
func TestASampleEndsWithTheLastWhoCouldBePlayed(t *testing.T) {
	w := newWorld(t, proxied(0))
	d := w.mustBoot()
	w.mustShadow(d, percent(50))
	two := twoCandidates(0, 0)
	two.Mode, two.Shadow.To = traffic.ModeProxy, ""
	w.files.Splits = []traffic.Split{two}
	if _, err := d.Apply(t.Context(), control.Actor{}, api.ApplyRequest{}); err != nil {
		t.Fatal(err)
	}
	w.hasSample("with two candidates and none named", 0)
	if _, err := d.Undo(t.Context(), control.Actor{}, "mx", api.Request{}); err == nil {
		w.hasSample("after an undo", 0)
	}
	w.agrees(d)
}

// spoken is sampled at a port that is not of mail, with a protocol.
func spoken(protocol string, sample traffic.Weight) traffic.Split {
	s := sampled(0, sample)
	s.Protocol = protocol
	s.Service.Ports = []traffic.Port{{Number: 8080, Transport: traffic.TCP}}
	return s
}

// What may be sent to a candidate is the protocol's: who said 100% of http has not said
// it of raw, which sends writes too.
func TestASampleEndsWithTheProtocolOfWhichItWasSaid(t *testing.T) {
	for _, tt := range []struct {
		name, was, is string
		word          traffic.Weight
		want          traffic.Weight
		warns         string
	}{
		{"http to raw", "http", "raw", traffic.Whole, percent(5), `split "mx": protocol http became raw, by which another rule says what is sent to a candidate: the sample of 100% that ann set ends, and the file's 5% is in force`},
		{"raw to http", "raw", "http", traffic.Whole, percent(5), "protocol raw became http"},
		{"the same", "http", "http", traffic.Whole, traffic.Whole, ""},
		{"a sample of 0% stays", "http", "raw", 0, 0, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t, spoken(tt.was, percent(10)))
			d := w.mustBoot()
			w.mustShadow(d, tt.word)
			w.files.Splits = []traffic.Split{spoken(tt.is, percent(5))}
			answer, err := d.Apply(t.Context(), control.Actor{}, api.ApplyRequest{})
			if told := strings.Join(answer.Warnings, "\n"); err != nil || !strings.Contains(told, tt.warns) || tt.warns == "" && strings.Contains(told, "became") {
				t.Errorf("apply warns %q, %v, want %q", told, err, tt.warns)
			}
			w.hasSample("after the edit", tt.want)
			w.agrees(d)
		})
	}
}

func TestAStartWithAnotherProtocolLogsThatASampleEnds(t *testing.T) {
	w := newWorld(t, spoken("http", 0))
	d := w.mustBoot()
	w.mustShadow(d, traffic.Whole)
	_ = d.stop()
	w.files.Splits = []traffic.Split{spoken("raw", 0)}
	var log strings.Builder
	d, err := w.bootWith(func(d *Daemon) { d.log = slog.New(slog.NewTextHandler(&log, nil)) })
	if err != nil {
		t.Fatal(err)
	}
	w.hasSample("after a start", 0)
	_ = d.stop()
	if want := "the sample of 100% that ann set ends"; !strings.Contains(log.String(), want) {
		t.Errorf("the log says\n%s\nwant %q in it", log.String(), want)
	}
}

func TestAnUndoThatShadowsRawAgainSaysWhatItSends(t *testing.T) {
	w := newWorld(t, spoken("raw", 0))
	d := w.mustBoot()
	w.mustShadow(d, percent(30))
	w.mustShadow(d, 0)
	change, err := d.Undo(t.Context(), control.Actor{}, "mx", api.Request{})
	if told := strings.Join(change.Warnings, "\n"); err != nil || !strings.Contains(told, "all that clients say is sent") {
		t.Errorf("undo warns %q, %v", told, err)
	}
	w.hasSample("after the undo", percent(30))
}

func TestSettleTakesTheSampleOfWhoeverIsAhead(t *testing.T) {
	file := func(sample traffic.Weight) traffic.Split { return sampled(0, sample) }
	record := func(generation traffic.Generation, definition traffic.Split, sample traffic.Weight) *state.Record {
		return &state.Record{Name: "mx", Generation: generation, Definition: definition, Overrides: traffic.Overrides{
			traffic.SampleKey: {Weight: sample, Actor: "root", Since: noon},
		}}
	}
	kernel := func(generation traffic.Generation, sample traffic.Weight) *netfilter.SplitState {
		return &netfilter.SplitState{Generation: generation, Weights: map[string]traffic.Weight{"new": 0}, Sample: sample}
	}
	pinned := file(percent(5))
	pinned.Pinned = true
	for _, tt := range []struct {
		name           string
		definition     traffic.Split
		record         *state.Record
		kernel         *netfilter.SplitState
		want           traffic.Weight
		wantGeneration traffic.Generation
		wantAction     state.Action
	}{
		{"a first start takes the file's", file(percent(5)), nil, nil, percent(5), 1, state.ActionApply},
		{"a restart that changes nothing keeps the generation", file(0), record(7, file(0), percent(5)), kernel(7, percent(5)), percent(5), 7, ""},
		{"what an older version stored keeps its generation", file(0), &state.Record{Name: "mx", Generation: 7, Definition: file(0)}, kernel(7, 0), 0, 7, ""},
		{"a recorded raise that did not reach the kernel is completed", file(0), record(8, file(0), percent(25)), kernel(7, percent(5)), percent(25), 8, ""},
		{"a lowering that was not recorded is adopted", file(0), record(7, file(0), percent(25)), kernel(8, percent(5)), percent(5), 8, state.ActionAdopt},
		{"a forced off is adopted against a pinned file", pinned, &state.Record{Name: "mx", Generation: 7, Definition: pinned}, kernel(8, 0), 0, 8, state.ActionAdopt},
		{"with the store gone the kernel's is adopted", file(0), nil, kernel(15, percent(5)), percent(5), 15, state.ActionAdopt},
		{"an edited file is a new generation", file(percent(10)), &state.Record{Name: "mx", Generation: 7, Definition: file(percent(5))}, kernel(7, percent(5)), percent(10), 8, state.ActionApply},
		{"what the kernel samples by a word ends with the word's protocol", spoken("raw", 0), record(7, spoken("http", 0), percent(25)), kernel(9, percent(25)), 0, 10, state.ActionAdopt},
		{"a sample that was taken away stays so at another protocol", spoken("raw", percent(5)), record(7, spoken("http", percent(5)), percent(25)), kernel(9, 0), 0, 10, state.ActionAdopt},
		{"an edited file does not beat the operator", file(percent(10)), record(7, file(percent(5)), percent(1)), nil, percent(1), 8, state.ActionApply},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var outside *standing
			if tt.kernel != nil {
				outside = &standing{*tt.kernel, reasonAdopted}
			}
			got := settle(tt.definition, tt.record, outside, noon)
			if s := inForce(got.record).Sample; s != tt.want || got.record.Generation != tt.wantGeneration || got.action != tt.wantAction {
				t.Errorf("sample %s, generation %d, action %q, want %s, %d, %q", s, got.record.Generation, got.action, tt.want, tt.wantGeneration, tt.wantAction)
			}
		})
	}
}

func TestASampleIsKeptThoughTheStoreIsLost(t *testing.T) {
	for name, tt := range map[string]struct {
		lose func(*world)
		want traffic.Weight
	}{
		"the store":          {func(w *world) { w.lose(storeFile) }, percent(30)},
		"store and snapshot": {func(w *world) { w.lose(storeFile, snapshotFile); w.spoil(journalFile) }, 0},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, sampled(0, percent(80)))
			d := w.mustBoot()
			w.mustShadow(d, percent(30))
			_ = d.stop()
			tt.lose(w)
			d = w.mustBoot()
			w.hasSample("after a start without "+name, tt.want)
			w.agrees(d)
		})
	}
}

func TestAStartThatCannotRecordRaisesNoSample(t *testing.T) {
	w := newWorld(t, sampled(0, percent(10)))
	_ = w.mustBoot().stop()
	w.files.Splits = []traffic.Split{sampled(0, percent(80))}
	w.diskFull = true
	d := w.mustBoot()
	w.hasSample("while the disk is full", percent(10))
	if origin := mustShow(t, d).Shadow.Origin; origin == nil || origin.Reason != reasonHeld {
		t.Errorf("the sample is of %+v, want why it is held", origin)
	}
}

func TestAForcedOffEndsShadowsAtTheNextStart(t *testing.T) {
	w := newWorld(t, sampled(0, percent(10)))
	d := w.mustBoot()
	w.mustShadow(d, percent(50))
	_ = d.stop()
	if err := state.WriteForced(w.dir, state.Forced{Time: noon.Add(time.Minute), User: "bob", Reason: "INC-1"}); err != nil {
		t.Fatal(err)
	}
	w.now = noon.Add(time.Hour)
	d = w.mustBoot()
	w.hasSample("after off --force", 0)
	history, err := d.History(t.Context(), "mx", 1)
	if e := history.Items[0]; err != nil || e.Action != "off" || e.PreviousSamplePPM != 500_000 || e.SamplePPM != 0 {
		t.Errorf("history = %+v, %v", e, err)
	}
	w.agrees(d)
}

func TestRestoreShadowsNothingThatWasSwitchedOffSinceTheSnapshot(t *testing.T) {
	split := mx(percent(5))
	split.Sample, split.SamplePort, split.Generation = percent(50), 4000, 4
	snapshot := state.Snapshot{SavedAt: noon, Splits: []traffic.Split{split}}
	standing := func(sample traffic.Weight) map[string]netfilter.SplitState {
		return map[string]netfilter.SplitState{"mx": {Generation: 5, Sample: sample, Weights: split.Weights()}}
	}
	for name, tt := range map[string]struct {
		standing map[string]netfilter.SplitState
		forced   []state.Forced
		want     traffic.Weight
	}{
		"an empty kernel":           {nil, nil, percent(50)},
		"a kernel that is ahead":    {standing(percent(1)), nil, percent(1)},
		"a forced off":              {nil, []state.Forced{{Time: noon.Add(time.Minute)}}, 0},
		"a forced off in the store": {nil, []state.Forced{{Time: noon.Add(-time.Minute)}}, percent(50)},
	} {
		got, err := restorable(snapshot, tt.standing, tt.forced)
		if err != nil || got[0].Sample != tt.want {
			t.Errorf("%s: sample %s, %v, want %s", name, got[0].Sample, err, tt.want)
		}
	}
}
