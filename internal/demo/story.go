package demo

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/splitd/splitd/control/api"
	"github.com/splitd/splitd/traffic"
)

// The names in the story.
const (
	splitName = "mx"
	oldMX     = "old" // the primary
	newMX     = "new" // the candidate
)

// step is one scene: perhaps a command, and the share that must hold for the
// mails after it.
type step struct {
	command []string // of splitctl; nil: nothing is typed
	weight  traffic.Weight
	mails   int // at least that many are sent in it
}

const percent = traffic.Whole / 100

// migration is the story: how an operator moves a mail service, with one
// second thought.
func migration() []step {
	return []step{
		{nil, 0, 200},
		{[]string{"set", splitName, "5%", "--reason", "first real mails"}, 5 * percent, 500},
		{[]string{"set", splitName, "25%", "--reason", "looks good"}, 25 * percent, 400},
		{[]string{"undo", splitName, "--reason", "not so fast"}, 5 * percent, 500},
		{[]string{"set", splitName, "50%", "--reason", "now it is fine"}, 50 * percent, 400},
		{[]string{"set", splitName, "100%", "--reason", "all of it"}, traffic.Whole, 200},
		{[]string{"off", splitName, "--reason", "the way back works"}, 0, 200},
	}
}

// keptSteps are the steps that --keep plays: to the first that sends half.
func keptSteps(steps []step) []step {
	i := slices.IndexFunc(steps, func(s step) bool { return s.weight == traffic.Whole/2 })
	return steps[:i+1]
}

// mailRate is the pace of all clients together, in mails per second.
const mailRate = 220

// story is the story while it is played.
type story struct {
	show    *show
	cast    *cast
	rows    []played
	reports []shadowed // of the rehearsal: before and after the new MX was mended
}

// played is a step that was played to its end.
type played struct {
	row
	// unsure is the number of mails under way while the share changed, before
	// this step and after it until splitd was asked: splitd may have counted
	// them to this generation.
	unsure int
}

// play plays the rehearsal and then the steps one after another. Mails keep coming
// all the time.
func (s *story) play(ctx context.Context, steps []step) error {
	if err := s.rehearse(ctx); err != nil {
		return err
	}
	s.show.columns()
	for i, step := range steps {
		if err := s.scene(ctx, i, step); err != nil {
			return err
		}
	}
	return nil
}

func (s *story) scene(ctx context.Context, number int, step step) error {
	book := s.cast.book
	earlier := book.Tally(between).Sent
	if step.command != nil {
		if err := s.command(ctx, step.command...); err != nil {
			return err
		}
	}
	book.Turn(number)
	enough := func() bool { return book.Tally(number).Sent >= step.mails }
	if err := s.wait(ctx, "the clients to send their mails", enough, number, step.weight); err != nil {
		return err
	}
	// From here on mails are booked apart, until the next share holds.
	book.Turn(between)
	answered := func() bool { t := book.Tally(number); return t.Answered == t.Sent }
	if err := s.wait(ctx, "the clients to hear of their mails", answered, number, step.weight); err != nil {
		return err
	}
	book.settle(ctx, number)
	split, err := s.cast.status(ctx)
	if err != nil {
		return err
	}
	p := played{row: row{Set: step.weight, Mails: book.Tally(number), Observed: split.ObservedPPM}}
	p.unsure = book.Tally(between).Sent - earlier
	s.rows = append(s.rows, p)
	s.show.step(p.row)
	if split.WeightPPM != int(step.weight) {
		return fmt.Errorf("splitd says that the share is %s, not %s", traffic.Weight(split.WeightPPM), step.weight)
	}
	return nil
}

// command runs a command of splitctl before the spectator's eyes.
func (s *story) command(ctx context.Context, args ...string) error {
	output, err := s.cast.splitctl(ctx, args...)
	s.show.command(append([]string{"splitctl"}, args...), output)
	if err != nil {
		return fmt.Errorf("run splitctl %s: %w", args[0], err)
	}
	return nil
}

// wait waits until done, with a live line, unless somebody of the cast dies.
func (s *story) wait(ctx context.Context, what string, done func() bool, number int, weight traffic.Weight) error {
	const patience = 30 * time.Second
	deadline := time.After(patience)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for n := 0; !done(); n++ {
		if n%5 == 0 {
			s.show.progress(row{Set: weight, Mails: s.cast.book.Tally(number)})
		}
		select {
		case <-tick.C:
		case <-deadline:
			return fmt.Errorf("waited %s for %s in vain", patience, what)
		case <-ctx.Done():
			return ctx.Err()
		}
		if err := s.cast.missing(); err != nil {
			return err
		}
	}
	return nil
}

// claims judges what every plane proves: the mails, the shares, the counts.
func (s *story) claims(v verdict, final api.Split) []claim {
	return []claim{s.rehearsalClaim(), failureClaim(v), lossClaim(v), s.shareClaim(), s.countClaim(v, final)}
}

func failureClaim(v verdict) claim {
	if v.failed() == 0 {
		return claimf(true, "no mail failed: %d sent while the share changed under them, every one accepted at once", v.Sent)
	}
	c := claimf(false, "%d of %d mails failed", v.failed(), v.Sent)
	for failure, n := range v.Failures {
		c.why = append(c.why, fmt.Sprintf("%d times: %s", n, failure))
	}
	slices.Sort(c.why)
	return c
}

func lossClaim(v verdict) claim {
	if len(v.Lost)+len(v.Twice)+len(v.Strays) == 0 {
		return claimf(true, "no mail lost, none twice: %d accepted = %d at the old MX + %d at the new MX, each once",
			v.Accepted, v.Arrived[oldMX], v.Arrived[newMX])
	}
	c := claimf(false, "%d mails lost, %d delivered twice, %d that nobody sent", len(v.Lost), len(v.Twice), len(v.Strays))
	for _, part := range []struct {
		what string
		ids  []string
	}{{"lost", v.Lost}, {"twice", v.Twice}, {"not ours", v.Strays}} {
		for _, id := range part.ids {
			c.why = append(c.why, part.what+": "+id)
		}
	}
	return c
}

// doubt is the chance that an honest run is called dishonest. It is shared
// out among the steps, so that the whole story has it, not each of them.
const doubt = 0.001

func (s *story) shareClaim() claim {
	c := claimf(true, "every share lies within the 99.9 %% binomial interval of the weight set")
	if len(s.rows) == 0 {
		return claimf(false, "no share was seen at all")
	}
	for _, p := range s.rows {
		n := p.Mails.total()
		low, high := interval(n, p.Set, doubt/float64(len(s.rows)))
		if got := p.Mails.Arrived[newMX]; got < low || got > high {
			c.holds = false
			c.why = append(c.why, fmt.Sprintf("at %s: %d of %d mails, not %d to %d", p.Set, got, n, low, high))
		}
	}
	if !c.holds {
		c.text = "a share lies outside the 99.9 % binomial interval of the weight set"
	}
	return c
}

// countClaim compares what splitd counted with what the MXs received: at the
// end every flow, and in every step the share.
func (s *story) countClaim(v verdict, final api.Split) claim {
	var why []string
	for _, p := range s.rows {
		n := p.Mails.total()
		if p.Observed == nil {
			why = append(why, fmt.Sprintf("at %s: splitd observed nothing in %d mails", p.Set, n))
			continue
		}
		difference := math.Abs(float64(*p.Observed)/float64(traffic.Whole) - p.Mails.share(newMX))
		if allowed := float64(p.unsure+1) / float64(max(n, 1)); difference > allowed {
			why = append(why, fmt.Sprintf("at %s: splitd observed %s, the mails say %.4f%%", p.Set, traffic.Weight(*p.Observed), p.Mails.share(newMX)*100))
		}
	}
	for _, backend := range final.Backends {
		switch arrived := v.Arrived[backend.Name]; {
		case backend.FlowsTotal == nil:
			why = append(why, fmt.Sprintf("flows_total of %q is unknown, but %d mails arrived there", backend.Name, arrived))
		case *backend.FlowsTotal != uint64(arrived):
			why = append(why, fmt.Sprintf("flows_total of %q is %d, but %d mails arrived there", backend.Name, *backend.FlowsTotal, arrived))
		}
	}
	if len(final.Backends) == 0 {
		why = append(why, "there was no status at the end")
	}
	if why != nil {
		return claim{text: "splitd's own counts differ from what arrived", why: why}
	}
	return claimf(true, "splitd's own counts are exact: %d flows to old, %d to new", v.Arrived[oldMX], v.Arrived[newMX])
}

// parseStatus reads the split from the output of `splitctl status -o json`.
func parseStatus(output string) (api.Split, error) {
	var list api.SplitList
	if err := json.Unmarshal([]byte(output), &list); err != nil {
		return api.Split{}, fmt.Errorf("parse status %q: %w", output, err)
	}
	for _, split := range list.Items {
		if split.Name == splitName {
			return split, nil
		}
	}
	return api.Split{}, fmt.Errorf("find split %q in status: there is none", splitName)
}
