package daemon

import (
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os/exec"
	"runtime"
	"time"

	"github.com/splitd/splitd/configs"
	"github.com/splitd/splitd/shadow"
	"github.com/splitd/splitd/shadow/play"
	"github.com/splitd/splitd/shadow/runner"
	"github.com/splitd/splitd/shadow/shadower"
	"github.com/splitd/splitd/traffic"
)

// A Stage is where shadows are played.
type Stage interface {
	// Play makes the play of a split, in the place of another. It waits for nobody.
	Play(o PlayOptions) (Play, error)
	// Used is how many bytes all shadows hold together.
	Used() int64
	// Run runs what there is to run, until Close.
	Run() error
	// Hurry has nobody wait for an answer when so much time is over.
	Hurry(patience time.Duration)
	Close()
}

// PlayOptions are what a Play is made of, see package play.
type PlayOptions struct {
	Split   traffic.Split
	After   Play // of the same Stage; nil is none
	Kept    []byte
	Mark    uint32 // of packets to servers; 0 is none
	Observe func(play.Timed)
}

// A Play is the shadow of one split. Relays' threads call Open, and the methods of
// what it returns, so that these wait for nobody.
type Play interface {
	Split() traffic.Split
	Follows(s traffic.Split) bool
	Begin()
	Halt()
	End()                                // waits until the last shadow has ended
	Close()                              // ends it, and it answers no more
	Open(of runner.Flow, worker int) Tap // nil: it is not played
	Declines() bool                      // it would not be played, which is counted then
	Numbers() play.Numbers
	// Edition changes whenever what was counted does.
	Edition() uint64
	Report() (json.RawMessage, error)
	Reset() (play.Forgotten, error)
	Bytes() (text []byte, edition uint64, err error)
}

// A Tap takes what is said in one flow.
type Tap interface {
	Take(from shadow.Party, bytes []byte, fin bool, at time.Time) bool
	Secure(h shadow.Handshake, at time.Time) bool
	Opaque(reason string, at time.Time) bool
	End(how shadow.End, at time.Time)
	EndByPrimary(how shadow.End, at time.Time)
}

// apart is the Stage that is a process of its own.
type apart struct{ *shadower.Process }

// newApart makes one whose process is this program again.
func newApart(cfg configs.Config, stderr io.Writer, log *slog.Logger) apart {
	workers := cfg.Relay.Workers
	if workers <= 0 {
		workers = runtime.GOMAXPROCS(0)
	}
	return apart{shadower.New(shadower.ProcessOptions{
		Command: func(o shadower.ServeOptions) *exec.Cmd {
			cmd := exec.Command("/proc/self/exe", ShadowerArgs(o, cfg.Log)...) // proc_pid_exe(5): also where another has taken its place
			cmd.Args[0] = "splitd"
			return cmd
		},
		Budget: budgetOf(cfg), Workers: workers, Priority: shadower.Priority(cfg.Shadow.Priority), Stderr: stderr, Log: log,
	})}
}

// ShadowerCommand is the command of splitd, for itself alone, that plays shadows.
const ShadowerCommand = "shadower"

// ShadowerArgs is its command line.
func ShadowerArgs(o shadower.ServeOptions, log configs.Log) []string {
	return []string{
		ShadowerCommand, fmt.Sprintf("--rings=%d", o.Rings), fmt.Sprintf("--records=%d", o.Records), fmt.Sprintf("--budget=%d", o.Budget),
		"--priority=" + string(o.Priority), "--log-format=" + log.Format, "--log-level=" + log.Level.String(),
	}
}

// Play implements Stage.
func (a apart) Play(o PlayOptions) (Play, error) {
	before, _ := o.After.(apartPlay)
	made, err := a.Process.Play(shadower.Options{Split: o.Split, After: before.Play, Kept: o.Kept, Mark: o.Mark, Observe: o.Observe})
	if err != nil {
		return nil, err
	}
	return apartPlay{made}, nil
}

type apartPlay struct{ *shadower.Play }

// Open implements Play.
func (p apartPlay) Open(of runner.Flow, worker int) Tap {
	if tap := p.Play.Open(of, worker); tap != nil {
		return tap
	}
	return nil
}
