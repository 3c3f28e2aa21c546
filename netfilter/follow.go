package netfilter

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"github.com/splitd/splitd/traffic"
)

// How often conntrack is looked at when nobody asks: a closed entry stays in it
// for 10 s (nf_conntrack_tcp_timeout_close), so that looks alone miss few. A
// look that took long is followed by a longer rest, so that looks take a
// fiftieth of a processor at most.
const (
	lookEvery = 5 * time.Second
	lookRest  = 50
)

// Follow keeps account of what becomes of the flows of the splits, by a look
// now and then, until ctx ends; then it returns nil. Current tells the splits
// of now, all of them. Without Follow, Counts and Evidence know what was there
// when they were asked.
func (k *Kernel) Follow(ctx context.Context, current func() []traffic.Split) error {
	var told bool
	for {
		began := time.Now()
		err := k.takeLook(current())
		if err != nil && !told {
			k.options.Log.Warn("look at open flows; tried again", "error", err)
		}
		told = err != nil
		rest := time.NewTimer(max(lookEvery, lookRest*time.Since(began)))
		select {
		case <-ctx.Done():
			rest.Stop()
			return nil
		case <-rest.C:
		case <-k.lookAgain:
		}
		rest.Stop()
	}
}

// Listen makes what Follow knows more exact by the kernel's news of flows that
// have ended, until ctx ends; then it returns nil.
func (k *Kernel) Listen(ctx context.Context) error {
	return k.news(ctx, []uint32{unix.NFNLGRP_CONNTRACK_DESTROY}, listener{
		entry: func(_, _ uint16, e *entry) { k.tracker.destroyed(e, k.options.Now()) },
		missed: func() {
			k.tracker.missed()
			poke(k.lookAgain)
		},
	})
}

func poke(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// takeLook looks at all entries of conntrack.
func (k *Kernel) takeLook(splits []traffic.Split) error {
	return k.withConntrack(func(s *conntrackSocket) error {
		t := k.tracker
		t.mu.Lock()
		defer t.mu.Unlock()
		began := k.options.Now()
		if t.lookup.covers(splits) && t.fresh(began) {
			return nil
		}
		t.begin(k.lookupOf(splits))
		t.bytes = conntrackCounts()
		err := s.list(conntrackFilter{}, func(e *entry) { t.see(e, began) })
		if err != nil {
			return fmt.Errorf("list conntrack entries: %w", err)
		}
		t.end(began, k.options.Now().Sub(began))
		return nil
	})
}

// lookupOf is made anew when the splits have changed.
func (k *Kernel) lookupOf(splits []traffic.Split) *lookup {
	l := k.lookup.Load()
	switch {
	case l.covers(splits):
		return l
	case l == nil:
		l = newLookup(splits, k.options.Settings)
	default:
		l = l.renewed(splits)
	}
	k.lookup.Store(l)
	return l
}

// conntrackCounts says whether the kernel counts the bytes of flows.
func conntrackCounts() bool {
	text, err := os.ReadFile("/proc/sys/net/netfilter/nf_conntrack_acct")
	return err == nil && strings.TrimSpace(string(text)) == "1"
}

// A listener hears of entries. Both functions are called by one goroutine,
// which hears nothing meanwhile.
type listener struct {
	// entry is told of a message about an entry, which is gone when it returns:
	// its kind (ctNew, ctDelete) and its netlink flags.
	entry func(kind, flags uint16, e *entry)
	// missed says that the kernel had to drop news.
	missed func()
}

// newsBuffer is how many bytes of news may wait: some 10,000 flows.
const conntrackNewsBuffer = 8 << 20

// news listens to conntrack's news of entries with a mark of ours until ctx
// ends, and subscribes again when that breaks.
func (k *Kernel) news(ctx context.Context, groups []uint32, l listener) error {
	for delay := watchRetry; ctx.Err() == nil; delay = min(2*delay, watchBackoff) {
		err := k.hear(ctx, groups, l)
		if ctx.Err() != nil {
			return nil
		}
		k.options.Log.Warn("listen to conntrack again", "error", err, "delay", delay)
		wait(ctx, delay)
	}
	return nil
}

func (k *Kernel) hear(ctx context.Context, groups []uint32, l listener) error {
	socket, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		return fmt.Errorf("open netlink: %w", err)
	}
	defer func() { _ = socket.Close() }()
	_ = socket.SetReadBuffer(conntrackNewsBuffer) // best effort: net.core.rmem_max is the limit of some
	program, err := bpf.Assemble(oursOnly(k.options.Settings.MarkMask))
	if err == nil {
		err = socket.SetBPF(program)
	}
	if err != nil {
		return fmt.Errorf("filter conntrack's news by mark: %w", err)
	}
	for _, g := range groups {
		if err := socket.JoinGroup(g); err != nil {
			return fmt.Errorf("subscribe to conntrack: %w", err)
		}
	}
	stop := context.AfterFunc(ctx, func() { _ = socket.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	raw, err := socket.SyscallConn()
	if err != nil {
		return fmt.Errorf("listen to conntrack: %w", err)
	}
	var e entry
	buffer := make([]byte, conntrackBuffer)
	for {
		n, err := readNews(raw, buffer)
		switch {
		case errors.Is(err, unix.ENOBUFS):
			l.missed()
			continue
		case err != nil:
			return fmt.Errorf("listen to conntrack: %w", err)
		}
		_, err = messages(buffer[:n], func(m message) error {
			if m.attributes == nil || e.parse(m.attributes) != nil {
				return nil // not ours to understand
			}
			l.entry(m.kind, m.flags, &e)
			return nil
		})
		if err != nil {
			l.missed()
		}
	}
}

// readNews reads without garbage, which netlink.Conn.Receive makes.
func readNews(raw interface {
	Read(f func(fd uintptr) (done bool)) error
}, buffer []byte,
) (n int, err error) {
	waited := raw.Read(func(fd uintptr) bool {
		n, err = unix.Read(int(fd), buffer)
		return !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EINTR)
	})
	if waited != nil {
		return 0, waited
	}
	return n, err
}

// oursOnly is a filter for a socket of news (classic BPF, the kernel's
// networking/filter.rst): those of entries without a mark of ours never leave
// the kernel. The extension finds an attribute behind the two headers, as
// libnetfilter_conntrack does.
func oursOnly(mask uint32) []bpf.Instruction {
	const everything = 1 << 18
	return []bpf.Instruction{
		bpf.LoadConstant{Dst: bpf.RegA, Val: unix.SizeofNlMsghdr + nfgenmsgSize},
		bpf.LoadConstant{Dst: bpf.RegX, Val: ctaMark},
		bpf.LoadExtension{Num: bpf.ExtNetlinkAttr},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: 0, SkipTrue: 4},
		bpf.TAX{},
		bpf.LoadIndirect{Off: unix.SizeofNlAttr, Size: 4},
		bpf.JumpIf{Cond: bpf.JumpBitsNotSet, Val: mask, SkipTrue: 1},
		bpf.RetConstant{Val: everything},
		bpf.RetConstant{Val: 0},
	}
}
