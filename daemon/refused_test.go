package daemon

import (
	"errors"
	"strings"
	"testing"

	"github.com/splitd/splitd/configs"
	"github.com/splitd/splitd/control"
	"github.com/splitd/splitd/control/api"
	"github.com/splitd/splitd/traffic"
)

// serving is a configuration with one split.
const serving = `splits:
  - name: web
    mode: proxy
    service: {addresses: [192.0.2.80], ports: [80/tcp]}
    primary: {name: old, addresses: ["10.0.0.21:80"]}
    candidates: [{name: new, addresses: ["10.0.0.22:80"], weight: 0%}]
    shadow: {to: new}
`

func (w *world) sends(d *Daemon, name, text string) error {
	_, err := d.Apply(w.t.Context(), control.Actor{}, api.ApplyRequest{Name: name, Text: text})
	return err
}

func TestARefusedReloadNamesTheCommandThatSaysWhyAndTakesNothingDown(t *testing.T) {
	for name, tt := range map[string]struct {
		running, refused string // what `apply -f` sent; "": the files
		want             string
	}{
		"the files":             {"", "", "the newest reload was refused and what ran before runs on: `splitctl apply` tries again, or says why"},
		"a file":                {"", "/x/three.yaml", "the newest reload, of /x/three.yaml, was refused and what ran before runs on: `splitctl apply -f /x/three.yaml` tries again, or says why"},
		"a file over another":   {"/x/two.yaml", "/x/three.yaml", "the newest reload, of /x/three.yaml, was refused and what ran before runs on: `splitctl apply -f /x/three.yaml` tries again, or says why"},
		"a file with blanks":    {"", "/x/a b's.yaml", `the newest reload, of /x/a b's.yaml, was refused and what ran before runs on: ` + "`splitctl apply -f '/x/a b'\\''s.yaml'` tries again, or says why"},
		"standard input":        {"", stdinName, "the newest reload, of standard input, was refused and what ran before runs on: `splitctl apply -f -` with that text tries again, or says why"},
		"the files over a file": {"/x/two.yaml", "", "the newest reload, of the files, was refused and /x/two.yaml runs on: `splitctl apply -f /x/two.yaml` keeps it; `splitctl apply` says why, and runs the files in its place as soon as they are good"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, mx(0))
			d := w.mustBoot()
			if tt.running != "" {
				if err := w.sends(d, tt.running, serving); err != nil {
					t.Fatal(err)
				}
			}
			text := ""
			if tt.refused != "" {
				text = "splits: 5\n"
			}
			w.badFile = errors.New("mx.yaml:1:1: nonsense")
			if err := w.sends(d, tt.refused, text); err == nil {
				t.Fatal("it was taken")
			}
			if warned, _ := w.warned(d); warned != tt.want {
				t.Errorf("status warns %q,\nwant %q", warned, tt.want)
			}
			w.badFile = nil
			if err := w.sends(d, "", ""); err != nil {
				t.Fatal(err)
			}
			if warned, _ := w.warned(d); warned != "" {
				t.Errorf("after it was mended and applied status warns %q", warned)
			}
		})
	}
}

func TestAnApplyThatLeavesNoSplitSaysSo(t *testing.T) {
	w := newPair(t)
	d := w.mustBoot()
	w.files.Splits = w.files.Splits[:1]
	for _, want := range []bool{false, true, false} { // one goes; the last goes; there is none
		answer, err := d.Apply(t.Context(), control.Actor{}, api.ApplyRequest{})
		if err != nil {
			t.Fatal(err)
		}
		said := strings.Contains(strings.Join(answer.Warnings, "\n"), "no split is left by the files: nobody listens any more for those that the relay served: put them back there and apply again")
		if said != want {
			t.Errorf("warnings %q, want that no split is left: %v", answer.Warnings, want)
		}
		w.files.Splits = nil
	}
}

func TestWhereToChangeAKeyIsWhereTheRunningDefinitionIs(t *testing.T) {
	w := newWorld(t, mx(0))
	d := w.mustBoot()
	twoCandidates := strings.NewReplacer("    shadow: {to: new}\n", "", "weight: 0%}", `weight: 0%}, {name: b, addresses: ["10.0.0.23:80"], weight: 0%}`).Replace(serving)
	if err := w.sends(d, "/x/two.yaml", twoCandidates); err != nil {
		t.Fatal(err)
	}
	err := w.asksSample(d, "web")
	if want := "change it there (/x/two.yaml:2) and run `splitctl apply -f /x/two.yaml`"; err == nil || !strings.HasSuffix(err.Error(), want) {
		t.Errorf("shadow of a split that `apply -f` sent: %v, want %q", err, want)
	}

	w = newWorld(t, proxied(0))
	w.fileless = true
	w.files.Splits[0].Candidates = nil
	w.files.Places = map[string]configs.Place{"mx": {File: "--listen"}}
	d = w.mustBoot()
	err = w.asksSample(d, "mx")
	if want := "--listen has no flag for that: write the split into a file and start with `splitd run --config FILE`"; err == nil || !strings.HasSuffix(err.Error(), want) {
		t.Errorf("shadow of a split of the command line: %v, want %q", err, want)
	}
}

func (w *world) asksSample(d *Daemon, split string) error {
	half := int(traffic.Whole / 2)
	_, err := d.Shadow(w.t.Context(), control.Actor{}, split, api.ShadowRequest{SamplePPM: &half})
	return err
}
