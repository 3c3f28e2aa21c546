package daemon

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"

	"github.com/coreos/go-systemd/v22/journal"

	"github.com/splitd/splitd/configs"
	"github.com/splitd/splitd/flowlog"
	"github.com/splitd/splitd/netfilter"
	"github.com/splitd/splitd/splitter"
	"github.com/splitd/splitd/traffic"
)

// openFlowLog opens the flow log that a configuration wants; nil is none.
func openFlowLog(c configs.FlowLog, log *slog.Logger) (*flowlog.Log, error) {
	switch c.To {
	case "":
		return nil, nil //nolint:nilnil // no flow log is no error
	case "journal":
		if !journal.Enabled() {
			return nil, fmt.Errorf("open flow log: this host has no journal: give flow_log.to a path, or \"\" for none")
		}
		return flowlog.New(toJournal{}, c.Sample, log), nil
	}
	file, err := flowlog.OpenFile(c.To)
	if err != nil {
		return nil, err
	}
	return flowlog.New(file, c.Sample, log), nil
}

// toJournal sends each line to systemd's journal, with a field of its own by
// which it is found: `journalctl SPLITD_LOG=flow`.
type toJournal struct{}

func (toJournal) Write(line []byte) error {
	return journal.Send(string(bytes.TrimSuffix(line, []byte("\n"))), journal.PriInfo, map[string]string{"SPLITD_LOG": "flow"})
}
func (toJournal) Reopen() error { return nil }
func (toJournal) Close() error  { return nil }

// logFlows writes what the kernel tells of flows until ctx ends.
func (d *Daemon) logFlows(ctx context.Context, kernel Kernel, l *flowlog.Log) error {
	times := 0
	return kernel.FlowNews(ctx, d.kernelSplits, func(n netfilter.FlowNews) { l.Tell(flowRecord(n)) }, func() {
		times++
		d.log.Warn("flow log lacks flows: the kernel had to drop news of them", "times", times)
	})
}

// toFlowLog gives the log what the relay tells of flows; nil is no log.
func toFlowLog(l *flowlog.Log) splitter.FlowLog {
	if l == nil {
		return nil
	}
	return relayLog{l}
}

type relayLog struct{ *flowlog.Log }

// Tell implements splitter.FlowLog.
func (r relayLog) Tell(n splitter.FlowNews) { r.Log.Tell(relayRecord(n)) }

func relayRecord(n splitter.FlowNews) flowlog.Record {
	r := flowlog.Record{
		Time: n.At.UTC(), Event: flowlog.EventNew, Split: n.Split, Generation: n.Generation, Backend: n.Backend,
		Transport: n.Transport, Client: n.Client, Service: n.Service, Via: n.Via, Server: n.Server, Why: n.Why, But: n.But, Meant: n.Meant,
	}
	if n.Connect > 0 {
		r.ConnectSeconds = new(n.Connect.Seconds())
	}
	if n.Ends {
		r.Event, r.End, r.By, r.Code = flowlog.EventEnd, n.End, n.By, n.Code
		r.Seconds, r.BytesIn, r.BytesOut = new(n.Lived.Seconds()), new(n.BytesIn), new(n.BytesOut)
		if n.Transport == traffic.UDP {
			r.PacketsIn, r.PacketsOut = new(n.DatagramsIn), new(n.DatagramsOut)
		}
	}
	return r
}

func flowRecord(n netfilter.FlowNews) flowlog.Record {
	r := flowlog.Record{
		Time: n.At.UTC(), Event: flowlog.EventNew, Split: n.Split, Generation: n.Generation, Backend: n.Backend,
		Transport: n.Transport, Client: n.Client, Service: n.Service, Server: n.Server,
	}
	if !n.Ends {
		return r
	}
	r.Event, r.End = flowlog.EventEnd, n.End
	r.BytesIn, r.BytesOut, r.PacketsIn, r.PacketsOut = n.BytesIn, n.BytesOut, n.PacketsIn, n.PacketsOut
	if n.Lived > 0 {
		r.Seconds = new(n.Lived.Seconds())
	}
	return r
}
