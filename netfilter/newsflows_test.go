package netfilter

import (
	"context"
	"net"
	"testing"
	"time"

	"github.com/splitd/splitd/traffic"
)

func TestFlowNewsTellOfTheBeginningAndTheEndOfEachFlow(t *testing.T) {
	lab := newSplitLab(t)
	lab.serveAll()
	lab.router.Sysctl("net/netfilter/nf_conntrack_acct", "1")
	lab.router.Sysctl("net/netfilter/nf_conntrack_tcp_timeout_close", "1")
	s := remoteSplit(5, traffic.Whole)
	lab.apply(s)
	ctx, cancel := context.WithCancel(t.Context())
	told, done := make(chan FlowNews, 1000), make(chan error, 1)
	go func() {
		done <- lab.router.NS.Do(func() error {
			return lab.kernel.FlowNews(ctx, func() []traffic.Split { return []traffic.Split{s} }, func(n FlowNews) { told <- n }, func() {})
		})
	}()
	// A dump evicts entries whose time is over (ctnetlink_dump_table); else they
	// wait for a worker that looks once a minute where little happens. Follow
	// dumps every few seconds.
	evict := time.NewTicker(200 * time.Millisecond)
	defer evict.Stop()
	next := func(what, client string, ends bool) FlowNews {
		t.Helper()
		tooLate := time.After(20 * time.Second)
		for {
			select {
			case <-evict.C:
				lab.counts(s)
			case n := <-told:
				if n.Client.String() == client && n.Ends == ends {
					return n
				}
			case <-tooLate:
				t.Fatalf("no news of %s", what)
			}
		}
	}
	var c net.Conn
	lab.eventually("news are heard", func() bool { // the first connection may come before
		c, _ = lab.dial(service25v4)
		select {
		case n := <-told:
			told <- n
			return true
		case <-time.After(100 * time.Millisecond):
			return false
		}
	})
	client := c.LocalAddr().String()
	if n := next("the beginning", client, false); n.Split != "mx" || n.Backend != "new" || n.Generation != 5 || n.Server.String() != "10.0.2.12:25" {
		t.Errorf("the beginning is %+v", n)
	}
	_ = c.(*net.TCPConn).SetLinger(0)
	_ = c.Close()
	if n := next("the end", client, true); n.End != "reset" || n.Backend != "new" || n.BytesIn == nil || *n.PacketsIn < 3 {
		t.Errorf("the end is %+v, want a reset and its bytes", n)
	}
	cancel()
	if err := <-done; err != nil {
		t.Errorf("FlowNews ends with %v", err)
	}
}
