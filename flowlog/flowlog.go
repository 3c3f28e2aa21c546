// Package flowlog writes which backend served which client when: a line of
// JSON for the beginning and one for the end of each flow that is sampled. A
// writer that is slow never holds up who tells it: what does not fit into its
// queue is dropped and counted.
package flowlog

import (
	"context"
	"encoding/json"
	"hash/fnv"
	"log/slog"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/splitd/splitd/traffic"
)

// The events of a flow.
const (
	EventNew = "new"
	EventEnd = "end"
)

// Record is one line. What is not known is left out, or null.
type Record struct {
	Time       time.Time          `json:"time"`
	Event      string             `json:"event"` // new | end
	Split      string             `json:"split"`
	Generation traffic.Generation `json:"generation"` // 0: not known
	Backend    string             `json:"backend"`
	Transport  traffic.Transport  `json:"transport"`
	Client     netip.AddrPort     `json:"client"`
	Service    netip.AddrPort     `json:"service"`
	Via        netip.AddrPort     `json:"via,omitzero"` // who told the relay of the client by a PROXY header
	Server     netip.AddrPort     `json:"server"`       // who answers
	// The relay alone knows why, what kept the flow from the candidate that it was
	// meant for, and how long it took until the backend was connected.
	Why            traffic.Why `json:"why,omitempty"`   // backend | always | affinity | draw | only
	But            traffic.But `json:"but,omitempty"`   // closed | down | never | avoided | fallback
	Meant          string      `json:"meant,omitempty"` // a candidate
	ConnectSeconds *float64    `json:"connect_seconds,omitempty"`
	// The following are of ends alone, By and Code of the relay's. Seconds is how
	// long the kernel's entry lived, timeout included, or the relay's flow.
	End        string   `json:"end,omitempty"`  // closed | reset | refused | unanswered, relay: | gone | short | idle | silent | failed | killed | stopped | fault | bad_header | late_header | no_header
	By         string   `json:"by,omitempty"`   // client | backend | splitd
	Code       string   `json:"code,omitempty"` // two letters
	Seconds    *float64 `json:"seconds,omitempty"`
	BytesIn    *uint64  `json:"bytes_in,omitempty"`
	BytesOut   *uint64  `json:"bytes_out,omitempty"`
	PacketsIn  *uint64  `json:"packets_in,omitempty"`
	PacketsOut *uint64  `json:"packets_out,omitempty"`
}

// Sampled says whether the flows of a client are among a share of all: by the
// client's address and port, so that both lines of a flow are there or none.
func Sampled(client netip.AddrPort, share traffic.Weight) bool {
	h := fnv.New64a()
	text, _ := client.MarshalBinary()
	_, _ = h.Write(text)
	// FNV's last bytes stir its high bits too little: mix once more.
	mixed := h.Sum64()
	mixed = (mixed ^ mixed>>31) * 0x9e3779b97f4a7c15
	return traffic.Weight((mixed>>32)*uint64(traffic.Whole)>>32) < share
}

// A Sink takes lines, each with its line end, from one goroutine.
type Sink interface {
	Write(line []byte) error
	// Reopen begins anew with whatever stands where the log is to go.
	Reopen() error
	Close() error
}

// Log is a flow log. Make one with New. Tell and Reopen may be called from many
// goroutines.
type Log struct {
	sink    Sink
	sample  traffic.Weight
	log     *slog.Logger
	queue   chan Record
	reopen  chan struct{}
	dropped atomic.Uint64
}

// queueMost is how many lines may wait for the disk.
const queueMost = 8192

// New makes a log of that share of all flows.
func New(sink Sink, sample traffic.Weight, log *slog.Logger) *Log {
	return &Log{sink: sink, sample: sample, log: log, queue: make(chan Record, queueMost), reopen: make(chan struct{}, 1)}
}

// Wants says whether records of that client's flow are written.
func (l *Log) Wants(client netip.AddrPort) bool { return Sampled(client, l.sample) }

// Tell writes the record if its client is sampled. It waits for nobody.
func (l *Log) Tell(r Record) {
	if !l.Wants(r.Client) {
		return
	}
	select {
	case l.queue <- r:
	default:
		l.dropped.Add(1)
	}
}

// Dropped is how many records did not fit into the queue, or could not be
// written.
func (l *Log) Dropped() uint64 { return l.dropped.Load() }

// Reopen makes the writer begin anew, as after a rotation.
func (l *Log) Reopen() {
	select {
	case l.reopen <- struct{}{}:
	default:
	}
}

// stopPatience is how long the end waits for the disk. What is written cannot
// be called back from a disk that hangs.
const stopPatience = time.Second

// Run writes until ctx ends, and then for a moment what still waits. It returns
// nil, or why the log could not be closed. Should the disk hang, its goroutine
// stays in the write.
func (l *Log) Run(ctx context.Context) error {
	done := make(chan error, 1)
	go func() { done <- l.writeAll(ctx) }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
	}
	select {
	case err := <-done:
		return err
	case <-time.After(stopPatience):
		l.log.Warn("end the flow log: the disk does not answer", "lines", len(l.queue))
		return nil
	}
}

func (l *Log) writeAll(ctx context.Context) error {
	t := trouble{log: l.log, before: l.Dropped()}
	for {
		select {
		case r := <-l.queue:
			l.write(&t, r)
		case <-l.reopen:
			if err := l.sink.Reopen(); err != nil {
				l.log.Error("open the flow log again", "error", err)
			}
		case <-ctx.Done():
			for {
				select {
				case r := <-l.queue:
					l.write(&t, r)
				default:
					return l.sink.Close()
				}
			}
		}
	}
}

func (l *Log) write(t *trouble, r Record) {
	line, err := json.Marshal(r)
	if err == nil {
		err = l.sink.Write(append(line, '\n'))
	}
	if err != nil {
		l.dropped.Add(1)
	}
	t.tell(err, l.Dropped(), r.Time)
}

// trouble says that lines are missing, once a while.
type trouble struct {
	log    *slog.Logger
	before uint64
	told   time.Time
}

// tellEvery is how often the log complains.
const tellEvery = 10 * time.Second

func (t *trouble) tell(err error, dropped uint64, now time.Time) {
	if dropped == t.before || now.Sub(t.told) < tellEvery {
		return
	}
	reason := "they came faster than they could be written"
	if err != nil {
		reason = err.Error()
	}
	t.log.Warn("flow log lacks lines", "lines", dropped-t.before, "reason", reason)
	t.before, t.told = dropped, now
}
