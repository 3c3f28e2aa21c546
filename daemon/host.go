package daemon

import (
	"context"
	"fmt"

	"github.com/splitd/splitd/control/api"
	"github.com/splitd/splitd/netfilter"
	"github.com/splitd/splitd/netfilter/doctor"
	"github.com/splitd/splitd/traffic"
)

// Host is this host, asked what stands in the way of splits in the kernel, of
// transparent relays and of return paths. It changes nothing. Its methods may be called concurrently.
type Host interface {
	// Preflight is the look before a start or a new definition: what would break
	// the splits is the error, all else worth saying are the warnings (see sorted).
	Preflight(splits []traffic.Split, paths []traffic.ReturnPath) (warnings []string, err error)
	// Glance is the same for each raise and each status, and quicker. Others tells
	// whether other programs may have changed their rules since the last one,
	// replies are what backends have answered, as far as it is known.
	Glance(splits []traffic.Split, paths []traffic.ReturnPath, others doctor.Others, replies replies) (warnings []string, err error)
	// PicksUp says whether connection tracking picks up flows in their middle.
	PicksUp() bool
	// Examine looks at everything and may take some seconds.
	Examine(ctx context.Context, splits []traffic.Split, paths []traffic.ReturnPath, replies replies, shadows []doctor.Shadow) ([]doctor.Finding, error)
}

type replies = map[traffic.BackendKey]doctor.Replies

// thisHost is the network namespace of the process.
type thisHost struct {
	settings   netfilter.Settings
	includeDir string
	recall     *doctor.Recall // for Glance
}

var _ Host = thisHost{}

func (h thisHost) Preflight(splits []traffic.Split, paths []traffic.ReturnPath) ([]string, error) {
	return doctor.Preflight(h.question(splits, paths, nil))
}

func (h thisHost) Glance(splits []traffic.Split, paths []traffic.ReturnPath, others doctor.Others, replies replies) ([]string, error) {
	return doctor.Glance(h.question(splits, paths, replies), h.recall, others)
}

func (h thisHost) question(splits []traffic.Split, paths []traffic.ReturnPath, replies replies) doctor.Question {
	inKernel, relayed := byMode(splits)
	return doctor.Question{
		Splits: inKernel, Relayed: relayed, Paths: paths, Settings: h.settings, Replies: replies, IncludeDir: h.includeDir,
	}
}

func (thisHost) PicksUp() bool { return doctor.PicksUp() }

func (h thisHost) Examine(ctx context.Context, splits []traffic.Split, paths []traffic.ReturnPath, replies replies, shadows []doctor.Shadow) ([]doctor.Finding, error) {
	question := h.question(splits, paths, replies)
	question.Shadows = shadows
	return doctor.Examiner{}.Examine(ctx, question)
}

// repliesOf sums evidence up, given by split.
func repliesOf(evidence map[string][]traffic.Evidence) replies {
	var all []traffic.Evidence
	for _, some := range evidence {
		all = append(all, some...)
	}
	return doctor.RepliesOf(all)
}

// toldMost bounds what is remembered of the host's warnings.
const toldMost = 1000

// tellOfHost returns the warnings among what the host check found, and logs
// those that the log does not have yet: each raise looks again.
func (d *Daemon) tellOfHost(findings []string) []string {
	warnings, _ := sorted(findings)
	d.telling.Lock()
	defer d.telling.Unlock()
	if len(d.told) > toldMost { // they may have numbers in them
		clear(d.told)
	}
	for _, w := range warnings {
		if !d.told[w] {
			d.log.Warn("host", "warning", w)
			d.told[w] = true
		}
	}
	return warnings
}

// aboutHost sums up what the host check found, of which there is something.
func aboutHost(warnings []string, notes int) string {
	count := func(n int, what string) string {
		if n == 1 {
			return "1 " + what
		}
		return fmt.Sprintf("%d %ss", n, what)
	}
	switch {
	case len(warnings) == 0:
		return "about this host `splitctl plan` has " + count(notes, "note")
	case len(warnings) == 1 && notes == 0:
		return "about this host: " + warnings[0]
	case notes == 0:
		return fmt.Sprintf("about this host `splitctl plan` has %s, the first: %s", count(len(warnings), "warning"), warnings[0])
	}
	return fmt.Sprintf("about this host `splitctl plan` has %s and %s, the first: %s", count(len(warnings), "warning"), count(notes, "note"), warnings[0])
}

// Doctor says what will go wrong on this host.
func (d *Daemon) Doctor(ctx context.Context) (api.Doctor, error) {
	v := d.view.Load()
	inKernel, inProxy := byMode(v.splits())
	findings, err := d.options.Host.Examine(ctx, ofKernel(inKernel, inProxy), v.paths, repliesOf(d.planes.evidence(ctx, inKernel)), d.shadowsSeen(v.splits()))
	if err != nil {
		return api.Doctor{}, err
	}
	answer := api.Doctor{Envelope: api.Of(api.KindDoctor), Items: make([]api.Finding, 0, len(findings))}
	for _, f := range findings {
		answer.Items = append(answer.Items, api.Finding{
			ID: f.ID, Level: string(f.Level), Where: string(f.Where), Seen: f.Seen, Why: f.Why, Cure: f.Cure, Advice: f.Advice(),
		})
	}
	return answer, nil
}
