// Package demo plays the whole migration of a mail service in miniature and
// proves what splitd promises: `splitd demo`.
//
// Where namespaces are allowed it makes a network of its own on this machine's
// kernel: clients, an old MX that is also the router, a new MX. The mail
// servers and clients are real, the daemons are `splitd run`, and every change
// is a `splitctl` command that is shown as it is made. Elsewhere it plays the
// same story in proxy mode on loopback and says what it left out.
//
// Everything lives in namespaces, child processes and one temporary directory,
// which end with the demo, however it ends.
package demo

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"github.com/splitd/splitd/control/api"
	"github.com/splitd/splitd/internal/netns"
)

// Options say how the demo runs.
type Options struct {
	// Splitd and Splitctl are the programs; "" means this program and its
	// neighbour of that name.
	Splitd, Splitctl string
	// Keep stops the story at 50 % and keeps everything running until Ctrl-C.
	Keep bool
	// Out is what the spectator sees; Err what went wrong before the show.
	Out, Err io.Writer
}

// The exit codes.
const (
	exitOK          = 0
	exitFailed      = 1
	exitInterrupted = 130 // 128 + SIGINT, as shells say it
)

// stage is where the story is played.
type stage interface {
	plane() string
	drawing() string
	// build makes the place; an error that wraps netns.ErrForbidden asks for
	// another stage.
	build() error
	// open starts everybody and returns when splitd is in force.
	open(ctx context.Context, c *cast) error
	// prove judges what only this plane shows, before the daemons end.
	prove(v verdict) []claim
	// leave cleans up and proves that nothing is left, after everybody ended.
	leave(ctx context.Context, c *cast, s *show) claim
	// hints say how to look around while everything runs.
	hints(c *cast) []string
	// close gives up what build made. It may be called at any time.
	close()
}

// Run plays the demo and returns its exit code: 0 when everything held, 1 when
// not, 130 after Ctrl-C or SIGTERM, which clean up at any moment. Where it is
// allowed, Run starts this program once more in namespaces of its own.
func Run(ctx context.Context, o Options) int {
	var reason error
	if !netns.Inside() {
		code, err := netns.Enter()
		if err == nil {
			return code
		}
		if reason = err; !errors.Is(err, netns.ErrForbidden) {
			_, _ = fmt.Fprintf(o.Err, "splitd demo: %v\n", err)
			return exitFailed
		}
	}
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	// A reader that has gone (`splitd demo | head`) must not kill us before we
	// have cleaned up: with SIGPIPE caught, writing returns an error instead.
	pipe := make(chan os.Signal, 1)
	signal.Notify(pipe, syscall.SIGPIPE)
	defer signal.Stop(pipe)
	code, err := perform(ctx, o, reason)
	if err != nil {
		_, _ = fmt.Fprintf(o.Err, "splitd demo: %v\n", err)
	}
	return code
}

// perform finds a stage and plays the story there.
func perform(ctx context.Context, o Options, reason error) (int, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	show := newShow(o.Out, os.LookupEnv, cancel)
	c, err := gather(o, show)
	if err != nil {
		return exitFailed, err
	}
	show.title("splitd demo: a mail service moves to a new host, in miniature, with real mail")
	here, err := choose(show, reason)
	code := exitFailed
	if err == nil {
		p := performance{show: show, cast: c, stage: here}
		code = p.run(ctx, o.Keep)
		c.dismiss()
		here.close()
	}
	err = errors.Join(err, os.RemoveAll(c.dir))
	if ctx.Err() != nil {
		show.line("\ndemo: interrupted; everything is ended and removed")
		code = exitInterrupted
	}
	return code, err
}

// choose builds the network, or the small stage where that is forbidden.
func choose(show *show, reason error) (stage, error) {
	if reason == nil {
		n := &network{}
		if reason = n.build(); reason == nil {
			return n, nil
		}
		if !errors.Is(reason, netns.ErrForbidden) {
			return nil, reason
		}
	}
	explain(show, reason)
	l := &loopback{}
	return l, l.build()
}

// explain says what is left out where namespaces are forbidden, and the cure.
func explain(show *show, reason error) {
	cause := reason.Error()
	if errno, ok := errors.AsType[syscall.Errno](reason); ok {
		cause = errno.Error()
		if errno == syscall.ENOSPC {
			cause = "no more of them are allowed" // what namespaces(7) means by it
		}
	}
	show.line("This is the small version, on loopback in proxy mode, because %v: %s.", netns.ErrForbidden, cause)
	show.line("Left out: the kernel plane, real client addresses at the new MX, return paths, cleanup of the kernel.")
	show.line("For the whole: %s.\n", netns.Hint())
}

// gather finds the programs and makes the temporary directory.
func gather(o Options, show *show) (*cast, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find this program: %w", err)
	}
	c := &cast{show: show, book: newLedger(), mended: make(chan struct{})}
	c.splitd = cmp.Or(o.Splitd, self)
	c.splitctlPath = cmp.Or(o.Splitctl, filepath.Join(filepath.Dir(self), "splitctl"))
	for _, program := range []string{c.splitd, c.splitctlPath} {
		if _, err := os.Stat(program); err != nil {
			return nil, fmt.Errorf("find program: %w: run `make build`", err)
		}
	}
	if c.dir, err = makeDir(os.TempDir()); err != nil {
		return nil, fmt.Errorf("make temporary directory: %w", err)
	}
	if err := c.certify(time.Now()); err != nil {
		return nil, errors.Join(err, os.RemoveAll(c.dir))
	}
	return c, nil
}

// makeDir makes a directory below parent, or below /tmp where the paths of
// sockets would grow too long there (sun_path, unix(7)).
func makeDir(parent string) (string, error) {
	const socketMax, ours = 107, len("/splitd-demo-4294967295/splitd.sock")
	if len(parent)+ours > socketMax {
		parent = "/tmp"
	}
	return os.MkdirTemp(parent, "splitd-demo-")
}

// performance is one run of the demo on a stage.
type performance struct {
	show  *show
	cast  *cast
	stage stage
	story story
}

// run plays the story, judges it, and leaves the stage as it was.
func (p *performance) run(ctx context.Context, keep bool) int {
	began := time.Now()
	bounded, cancel := context.WithTimeout(ctx, 3*time.Minute)
	defer cancel()
	p.show.line("%s", p.stage.drawing())
	p.story = story{show: p.show, cast: p.cast}
	failure := p.stage.open(bounded, p.cast)
	var final api.Split
	if failure == nil {
		p.show.heading(fmt.Sprintf("The story: clients send about %d mails a second all the time, also while shares change", mailRate))
		steps := migration()
		if keep {
			steps = keptSteps(steps)
		}
		final, failure = p.play(bounded, steps, keep)
	}
	if ctx.Err() != nil {
		return exitInterrupted
	}
	return p.judge(context.WithoutCancel(ctx), final, failure, began)
}

// play sends mail all the time while the steps are played, and returns what
// splitd has counted at the end.
func (p *performance) play(ctx context.Context, steps []step, keep bool) (api.Split, error) {
	pump := newPump(p.cast.book, p.cast.ways, mailRate, p.cast.clients.order)
	pumping, stop := context.WithCancel(ctx)
	stopped := make(chan error, 1)
	go func() { stopped <- pump.Run(pumping) }()
	err := p.story.play(ctx, steps)
	if err == nil && keep {
		pump.setRate(keptRate)
		p.keep(ctx)
	}
	stop()
	err = errors.Join(err, <-stopped)
	if ctx.Err() != nil {
		return api.Split{}, ctx.Err()
	}
	// The mails that are under way end by themselves, at the latest by their
	// timeout.
	err = errors.Join(err, p.cast.finishMail())
	final, statusErr := p.cast.finalStatus(ctx, p.cast.book.Judge().Accepted)
	return final, errors.Join(err, statusErr)
}

// judge shows every claim and the last line.
func (p *performance) judge(ctx context.Context, final api.Split, failure error, began time.Time) int {
	_ = p.cast.finishMail() // when the story broke off; its error is known then
	v := p.cast.book.Judge()
	p.show.heading("What this proves")
	var claims []claim
	if failure != nil {
		claims = append(claims, claim{text: "the story was not played to its end: " + failure.Error()})
	}
	if v.Sent > 0 {
		claims = slices.Concat(claims, p.story.claims(v, final), p.stage.prove(v))
	}
	for _, c := range claims {
		p.show.claim(c)
	}
	ended := p.cast.endDaemons()
	p.show.claim(ended)
	left := p.stage.leave(ctx, p.cast, p.show)
	p.show.claim(left)
	last := end{Plane: p.stage.plane(), Lost: len(v.Lost), Twice: len(v.Twice), Clean: ended.holds && left.holds}
	for _, c := range append(claims, ended, left) {
		if !c.holds {
			last.Failing++
		}
	}
	p.show.line("\n%d mails in %.0f s. To look around with splitctl status, plan and history: splitd demo --keep", v.Sent, time.Since(began).Seconds())
	p.show.line("%s", last)
	if last.Failing > 0 {
		return exitFailed
	}
	return exitOK
}
