package netfilter

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// How followNeighbours paces itself.
const (
	followSettle  = 10 * time.Millisecond // changes come in swarms: link, addresses, routes
	followRetry   = time.Second           // after a mend that did not succeed
	followAnyway  = 30 * time.Second      // without any news
	followBackoff = 5 * time.Second       // at most, between subscriptions
	followIdle    = time.Second           // while there is nothing to follow
	followBuffer  = 1 << 20               // bytes; more than the default of a busy host's swarms
)

// followNeighbours keeps the receiving side as it is wanted until ctx ends:
// the routers' link-layer addresses current, and what a device took with it
// when it went down put back when it comes again. It asks for what is wanted
// at each step, works in the network namespace of the calling thread and
// returns nil when ctx ends.
func followNeighbours(ctx context.Context, want func() Returns, log *slog.Logger) error {
	f := &follower{want: want, log: log}
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
		log.Warn("follow neighbours again", "error", err, "delay", delay)
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
	trouble string                  // what the last mend could not do, as it was logged
	mended  atomic.Pointer[Returns] // what it brought the kernel to
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
	_ = socket.SetReceiveBufferSize(followBuffer, false) // best effort: net.core.rmem_max is the limit
	f.mended.Store(&want)
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
		if len(f.mended.Load().rules) == 0 {
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
			wait(ctx, followSettle)
		}
		select { // what came meanwhile is mended as well
		case <-news:
		default:
		}
	}
}

// mend brings the kernel to what is wanted, also when that changes meanwhile:
// whoever wants something else has applied it and must not be undone.
func (f *follower) mend(ctx context.Context) (changed bool, err error) {
	for {
		want := f.want()
		f.mended.Store(&want)
		did, pending, err := bringReturns(ctx, want)
		changed = changed || did
		if ctx.Err() != nil || want.equal(f.want()) {
			return changed, errors.Join(err, pending)
		}
	}
}

// mendOnce returns when to mend again without news. Trouble is logged once.
func (f *follower) mendOnce(ctx context.Context) time.Duration {
	changed, err := f.mend(ctx)
	switch {
	case ctx.Err() != nil:
		return followAnyway
	case err != nil && err.Error() != f.trouble:
		f.trouble = err.Error()
		f.log.Warn("mend return paths", "error", err)
	case err == nil && f.trouble != "":
		f.trouble = ""
		f.log.Info("return paths are whole again")
	case changed:
		f.log.Info("mended return paths")
	}
	if err != nil {
		return followRetry
	}
	return followAnyway
}

// receive tells of news that concern us until the socket is closed or breaks.
// A receive buffer that ran over (ENOBUFS) breaks it: who subscribes again
// reads everything anew.
func (f *follower) receive(socket *nl.NetlinkSocket, news chan<- struct{}) error {
	for {
		messages, from, err := socket.Receive()
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return fmt.Errorf("receive changes of neighbours: %w", err)
		}
		if from.Pid != nl.PidKernel || !f.concerns(messages) {
			continue
		}
		select {
		case news <- struct{}{}:
		default:
		}
	}
}

// concerns says whether one of the messages may be about what we keep. A
// router's route table may change a thousand times a second.
func (f *follower) concerns(messages []syscall.NetlinkMessage) bool {
	return slices.ContainsFunc(messages, func(m syscall.NetlinkMessage) bool {
		want := f.mended.Load()
		switch m.Header.Type {
		case unix.RTM_NEWRULE, unix.RTM_DELRULE:
			return true
		case unix.RTM_NEWROUTE, unix.RTM_DELROUTE:
			return len(m.Data) >= unix.SizeofRtMsg && nl.DeserializeRtMsg(m.Data).Protocol == Protocol
		case unix.RTM_NEWNEIGH, unix.RTM_DELNEIGH:
			entry, err := netlink.NeighDeserialize(m.Data)
			return err != nil || want.hasRouter(entry)
		}
		return len(want.rules) > 0
	})
}

func (r Returns) hasRouter(entry *netlink.Neigh) bool {
	address, ok := netip.AddrFromSlice(entry.IP)
	return ok && slices.ContainsFunc(r.marks, func(p markPath) bool { return p.via == address.Unmap() })
}
