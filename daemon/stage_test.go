package daemon

import (
	"context"
	"encoding/json"
	"log/slog"
	"net"
	"net/netip"
	"time"

	"github.com/splitd/splitd/shadow/play"
	"github.com/splitd/splitd/shadow/runner"
)

// here is a Stage in this process.
type here struct {
	budget *runner.Budget
	now    func() time.Time
	log    *slog.Logger
}

func (h here) Play(o PlayOptions) (Play, error) {
	before, _ := o.After.(herePlay)
	made, err := play.New(play.Options{
		Split: o.Split, Budget: h.budget, After: before.Play, Kept: o.Kept, Observe: o.Observe, Now: h.now, Log: h.log,
		Dial: func(ctx context.Context, at netip.AddrPort) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "tcp", at.String())
		},
	})
	if err != nil {
		return nil, err
	}
	return herePlay{made}, nil
}

func (h here) Used() int64 { return h.budget.Used() }
func (h here) Run() error  { return nil }
func (h here) Close()      {}

func (h here) Hurry(time.Duration) {}

type herePlay struct{ *play.Play }

func (p herePlay) Open(of runner.Flow, _ int) Tap {
	if tap := p.Play.Open(of); tap != nil {
		return tap
	}
	return nil
}

func (p herePlay) Declines() bool {
	if p.Counts().Running {
		return false
	}
	p.Decline(runner.Declined{Stopped: 1})
	return true
}

func (p herePlay) End() { p.Close() }

func (p herePlay) Report() (json.RawMessage, error) { return json.Marshal(p.Play.Report()) }

func (p herePlay) Reset() (play.Forgotten, error) { return p.Play.Reset(), nil }
