package netfilter

import (
	"context"
	"time"

	"golang.org/x/sys/unix"

	"github.com/splitd/splitd/traffic"
)

// FlowNews is the beginning or the end of a flow of a split.
type FlowNews struct {
	OpenFlow
	At   time.Time
	Ends bool
	// The following are of ends alone. End is closed, reset, refused or
	// unanswered.
	End string
	// Lived is how long the entry was there, timeout included; 0: not known.
	Lived time.Duration
	// Packets are nil where the kernel does not count them.
	PacketsIn, PacketsOut *uint64
}

func (e ending) String() string {
	return [...]string{endClosed: "closed", endUnanswered: "unanswered", endRefused: "refused", endReset: "reset"}[e]
}

// FlowNews tells of each flow of the splits that begins and ends, until ctx
// ends; then it returns nil. Current tells the splits of now. Told should
// return soon, missed says that the kernel had to drop news. Flows that no
// version of a split has seen (no candidate gets anything) are not told of.
func (k *Kernel) FlowNews(ctx context.Context, current func() []traffic.Split, told func(FlowNews), missed func()) error {
	n := newsDesk{k: k, current: current, begun: map[uint64]time.Time{}}
	return k.news(ctx, []uint32{unix.NFNLGRP_CONNTRACK_NEW, unix.NFNLGRP_CONNTRACK_DESTROY}, listener{
		entry: func(kind, _ uint16, e *entry) {
			if news, ok := n.read(kind, e); ok {
				told(news)
			}
		},
		missed: func() {
			clear(n.begun) // ends may be among what is lost
			missed()
		},
	})
}

// A newsDesk remembers when flows began. It has one user.
type newsDesk struct {
	k       *Kernel
	current func() []traffic.Split
	lookup  *lookup
	made    time.Time
	begun   map[uint64]time.Time
}

// lookupLasts is how long flows of splits that are new may be missed.
const lookupLasts = time.Second

func (n *newsDesk) read(kind uint16, e *entry) (FlowNews, bool) {
	now := n.k.options.Now()
	if n.lookup == nil || now.Sub(n.made) >= lookupLasts {
		splits := n.current()
		switch {
		case n.lookup == nil:
			n.lookup = newLookup(splits, n.k.options.Settings)
		case !n.lookup.covers(splits):
			n.lookup = n.lookup.renewed(splits)
		}
		n.made = now
	}
	id, ends := e.identity(), kind == ctDelete
	began, known := n.begun[id]
	if ends {
		delete(n.begun, id) // also of a split that is gone
	}
	at, ok := n.lookup.find(e)
	if !ok {
		return FlowNews{}, false
	}
	news := FlowNews{OpenFlow: n.lookup.openFlow(at, e), At: now, Ends: ends}
	news.Generation = n.lookup.generation(at, e.mark, generationsAhead)
	if !ends {
		if len(n.begun) < knownMost {
			n.begun[id] = now
		}
		return news, true
	}
	news.End = e.ending().String()
	if known {
		news.Lived = now.Sub(began)
	}
	if e.counted {
		news.PacketsIn, news.PacketsOut = new(e.in.packets), new(e.out.packets)
	}
	return news, true
}
