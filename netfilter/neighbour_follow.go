package netfilter

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"
	"time"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// How a follower paces itself.
const (
	followRetry   = time.Second            // after a mend that did not succeed
	followAnyway  = 30 * time.Second       // without any news
	followBackoff = 5 * time.Second        // at most, between subscriptions
	followIdle    = time.Second            // while there is nothing to follow
	followBuffer  = 1 << 20                // bytes; more than the default of a busy host's swarms
	followSettle  = 10 * time.Millisecond  // changes come in swarms: link, addresses, routes
	followMost    = 500 * time.Millisecond // between two mends at most, when a rival undoes each
)

// mendLines is how many differences one line of the log names.
const mendLines = 3

// run keeps the receiving side as it is wanted until ctx ends:
// the routers' link-layer addresses current, what a device took with it when it
// went down put back when it comes again, and so what other programs remove of
// our rules and routes, as systemd-networkd does. It asks for what is wanted at
// each step, works in the network namespace of the calling thread and returns
// nil when ctx ends. mended is counted up for each time that rules or routes
// were put back.
func (f *follower) run(ctx context.Context) error {
	delay := followSettle
	for ctx.Err() == nil {
		began := time.Now()
		err := f.follow(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if err == nil {
			wait(ctx, followIdle)
			continue
		}
		if time.Since(began) > followBackoff {
			delay = followSettle
		}
		f.log.Warn("follow neighbours again", "error", err, "delay", delay)
		wait(ctx, delay)
		delay = min(2*delay, followBackoff)
	}
	return nil
}

func wait(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}

type follower struct {
	want    func() Returns
	log     *slog.Logger
	mended  *atomic.Uint64
	moved   chan<- struct{}          // told of followed routers, if there is room
	buffer  int                      // bytes of news that it may be behind
	trouble string                   // what the last mend could not do, as it was logged
	aim     atomic.Pointer[Returns]  // what the last mend brought the kernel to
	suspect atomic.Pointer[Stranger] // who removed a rule or route of ours since then
	pace    pace
}

// follow subscribes and mends until the subscription breaks or ctx ends; it
// returns nil at once when there is nothing to follow. A router without return
// paths should not be woken by every change of its routes.
func (f *follower) follow(ctx context.Context) error {
	want := f.want()
	if len(want.rules) == 0 {
		return nil
	}
	socket, err := nl.Subscribe(unix.NETLINK_ROUTE,
		unix.RTNLGRP_LINK, unix.RTNLGRP_NEIGH, unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV6_IFADDR,
		unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV6_ROUTE, unix.RTNLGRP_IPV4_RULE, unix.RTNLGRP_IPV6_RULE)
	if err != nil {
		return fmt.Errorf("subscribe to neighbours: %w", err)
	}
	_ = socket.SetReceiveBufferSize(f.buffer, false) // best effort: net.core.rmem_max is the limit
	f.aim.Store(&want)
	news, broken := make(chan struct{}, 1), make(chan error, 1)
	go func() { broken <- f.receive(socket, news) }()
	err = f.mendOnNews(ctx, news, broken)
	socket.Close()
	if err == nil {
		<-broken
	}
	return err
}

// mendOnNews returns nil when ctx ends or nothing is wanted any more, and the
// error when the subscription breaks. It mends first: changes may have gone
// unseen before.
func (f *follower) mendOnNews(ctx context.Context, news <-chan struct{}, broken <-chan error) error {
	for {
		next := time.NewTimer(f.mendOnce(ctx))
		if len(f.aim.Load().rules) == 0 {
			next.Stop()
			return nil
		}
		select {
		case <-ctx.Done():
			next.Stop()
			return nil
		case err := <-broken:
			next.Stop()
			return err
		case <-next.C:
		case <-news:
			next.Stop()
			wait(ctx, f.pace.settle())
		}
		select { // what came meanwhile is mended as well
		case <-news:
		default:
		}
	}
}

// mend brings the kernel to what is wanted, also when that changes meanwhile:
// whoever wants something else has applied it and must not be undone. What it
// did then is no mend.
func (f *follower) mend(ctx context.Context) (brought, error) {
	for meanwhile := false; ; meanwhile = true {
		want := f.want()
		f.aim.Store(&want)
		b, err := bringReturns(ctx, want)
		if ctx.Err() == nil && !want.equal(f.want()) {
			continue
		}
		if meanwhile {
			b.did = nil
		}
		return b, errors.Join(err, b.pending)
	}
}

// mendOnce returns when to mend again without news. Trouble is logged once.
func (f *follower) mendOnce(ctx context.Context) time.Duration {
	b, err := f.mend(ctx)
	if ctx.Err() != nil {
		return followAnyway
	}
	if len(b.followed) > 0 {
		f.log.Info("followed routers of return paths to other link-layer addresses", "differences", strings.Join(b.followed, "; "))
		poke(f.moved)
	}
	if len(b.did) > 0 {
		f.tell(b.did)
	}
	switch {
	case err != nil && err.Error() != f.trouble:
		f.trouble = err.Error()
		f.log.Warn("mend return paths", "error", err)
	case err == nil && f.trouble != "":
		f.trouble = ""
		f.log.Info("return paths are whole again")
	}
	if err != nil {
		return followRetry
	}
	return followAnyway
}

// tell logs what was put back, and who is thought to have removed it. Of a
// rival who undoes each mend the log names the first deeds; then it says from
// time to time how many there were.
func (f *follower) tell(did []string) {
	f.mended.Add(1)
	times, say := f.pace.mended(time.Now())
	by := f.suspect.Swap(nil)
	if !say {
		return
	}
	if by == nil {
		by = &Stranger{}
	}
	log := f.log.With("comm", cmp.Or(by.Comm, "unknown"), "pid", by.PID,
		"differences", strings.Join(did[:min(len(did), mendLines)], "; "), "count", len(did))
	if times > 1 {
		log.Warn("return paths are changed by another program again and again; mended each time", "times", times)
		return
	}
	log.Warn("return paths lacked something; mended")
}
