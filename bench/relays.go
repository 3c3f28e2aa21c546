package main

import (
	"context"
	"fmt"
	"net/netip"
	"strconv"
	"time"
)

// quantity is what is measured of a way through a program.
type quantity int

const (
	requests     quantity = iota // a second, on kept connections
	requestCPU                   // seconds of the program's processes
	flows                        // a second: connections of one request each
	flowCPU                      // seconds of the program's processes
	changedFlows                 // a second, while weights change
	changesMade                  // a second
	bulk                         // bits a second in one stream
	bulkCPU                      // seconds of the program's processes for a byte
	manyBulk                     // bits a second in many streams
	manyBulkCPU                  // seconds of the program's processes for a byte
	p50                          // seconds, at half of the rate of the slowest way
	p99
	p999
	idleResident // bytes of the program's processes for a silent flow
	idleKernel   // bytes of the kernel for it, client's and server's ends with it

	// Of ways over TLS. "Beside" are seconds, or bytes, of processes that the program has started.
	fullRate // handshakes a second, each with a request
	fullCPU  // seconds of the program's own process for one
	fullBeside
	resumedRate
	resumedCPU
	resumedBeside
	secureRequests
	secureRequestCPU
	secureRequestBeside
	secureBulk // bits a second in one stream
	secureBulkCPU
	secureBulkBeside
	secureIdle // bytes for a silent flow
	secureIdleBeside
	clientCPU       // seconds of the clients for a handshake
	seenInto        // share of new flows that met another certificate than the backend's
	sessionsResumed // share of those that could be
)

// account is what one way did, a value for each turn. What cannot be measured of
// it has none.
type account struct {
	name   string
	values map[quantity][]float64
}

func (a *account) add(q quantity, value float64) { a.values[q] = append(a.values[q], value) }

// relayed is a setting that has been measured.
type relayed struct {
	setting
	all   []account
	left  []string
	rate  float64 // of requests, at which latency was measured
	tools string
}

// measureSetting builds the ways, measures silent flows, then all in turns.
// After an error it returns what it has.
func measureSetting(ctx context.Context, s setting, o relayOptions, say func(string, ...any)) (relayed, error) {
	r := relayed{setting: s, tools: toolsOf()}
	l, err := s.lab()
	if err != nil {
		return r, err
	}
	defer l.close()
	starts := map[*way]starter{}
	for _, made := range s.ways {
		if lack := made.needs(); lack != nil {
			r.left = append(r.left, fmt.Sprintf("%q, because %v", made.name, lack))
			continue
		}
		w, err := l.add(made.name)
		if err == nil {
			err = made.prepare(ctx, w)
		}
		if err != nil {
			return r, fmt.Errorf("build %q: %w", made.name, err)
		}
		starts[w] = made.start
		r.all = append(r.all, account{made.name, map[quantity][]float64{}})
	}
	serving, stop := context.WithCancel(ctx)
	defer stop()
	if err := l.serve(serving); err != nil {
		return r, err
	}
	if err := l.serveIperf(serving); err != nil {
		return r, err
	}
	m := &measuring{lab: l, options: o, user: s.user, starts: starts, say: say, all: r.all}
	if err := m.idle(ctx); err != nil {
		return r, err
	}
	for _, w := range l.ways {
		if err := m.open(ctx, w); err != nil {
			return r, err
		}
	}
	err = m.turns(ctx)
	r.rate = m.rate
	return r, err
}

// toolsOf says what the requests and the bulk are made by.
func toolsOf() string {
	made, sent := "this program (wrk is not installed)", "this program (iperf3 is not installed)"
	if installed("wrk") {
		made = version("wrk", "-v")
	}
	if installed("iperf3") {
		sent = version("iperf3", "--version")
	}
	return fmt.Sprintf("requests by %s; bulk by %s", made, sent)
}

// serveIperf runs iperf3 at the old backend of each way.
func (l *lab) serveIperf(ctx context.Context) error {
	if !installed("iperf3") {
		return nil
	}
	for _, w := range l.ways {
		server := &way{router: l.server}
		p, err := server.start(ctx, user{}, "iperf3", "-s", "-B", w.v4(2, hostOld).String(), "-p", strconv.Itoa(portIperf))
		if err != nil {
			return err
		}
		w.servers = append(w.servers, p)
	}
	return nil
}

// measuring is a measurement of a setting under way.
type measuring struct {
	lab     *lab
	options relayOptions
	user    user
	starts  map[*way]starter
	say     func(string, ...any)
	all     []account // by the place of the way
	rate    float64
}

// open starts the program of a way.
func (m *measuring) open(ctx context.Context, w *way) error {
	start := m.starts[w]
	if start == nil {
		return nil
	}
	p, err := start(ctx, w, m.user)
	if p != nil {
		w.program, w.close = p, p.close
	}
	if err != nil {
		return fmt.Errorf("start %q: %w", w.name, err)
	}
	return nil
}

// shut ends it.
func (w *way) shut() {
	if w.program != nil {
		w.program.close()
	}
	w.program, w.close = nil, nil
}

// turns takes all ways in turns, as measure does: one slice of each, then the
// next measure, then the next turn, which begins with another way.
func (m *measuring) turns(ctx context.Context) error {
	if err := m.keep(); err != nil {
		return err
	}
	for turn := range m.options.turns {
		m.say("turn %d of %d", turn+1, m.options.turns)
		for _, one := range []func(context.Context, *way, *account) error{
			m.requests, m.flows, m.flowsUnderChanges, m.bulk, m.manyBulk, m.latency,
		} {
			for i := range m.lab.ways {
				at := (i + turn) % len(m.lab.ways)
				if err := ctx.Err(); err != nil {
					return err
				}
				if err := one(ctx, m.lab.ways[at], &m.all[at]); err != nil {
					return fmt.Errorf("measure %q: %w", m.lab.ways[at].name, err)
				}
			}
		}
	}
	return nil
}

// keep opens the connections that latency is measured on, and finds the rate
// for that: half of what the slowest way answers to this program.
func (m *measuring) keep() error {
	for _, w := range m.lab.ways {
		err := m.lab.client.Do(func() (err error) {
			if w.client, err = newClient(w.ends(portEcho, false)); err != nil {
				return err
			}
			rate, err := w.client.request(m.options.slice)
			if m.rate == 0 || rate/2 < m.rate {
				m.rate = rate / 2
			}
			return err
		})
		if err != nil {
			return fmt.Errorf("open connections of %q: %w", w.name, err)
		}
	}
	return nil
}

// target is where programs of others send what they send: to one address.
func (w *way) target(port uint16) netip.AddrPort {
	if w.direct {
		return netip.AddrPortFrom(w.v4(2, hostOld), port)
	}
	return netip.AddrPortFrom(w.v4(1, hostService), port)
}

// cost notes what one of many costs the way's program.
func (m *measuring) cost(w *way, a *account, q quantity, do func() (many float64, err error)) error {
	if w.program == nil {
		_, err := do()
		return err
	}
	before, err := w.program.cpu()
	if err != nil {
		return err
	}
	many, err := do()
	if err != nil {
		return err
	}
	after, err := w.program.cpu()
	if err == nil && many > 0 {
		a.add(q, (after-before).Seconds()/many)
	}
	return err
}

func (m *measuring) requests(ctx context.Context, w *way, a *account) error {
	return m.cost(w, a, requestCPU, func() (many float64, err error) {
		var rate float64
		if installed("wrk") {
			many, rate, err = m.lab.wrk(ctx, w.target(portWeb), m.options.slice)
		} else {
			began := time.Now()
			err = m.lab.client.Do(func() (err error) { rate, err = w.client.request(m.options.slice); return err })
			many = rate * time.Since(began).Seconds()
		}
		if err == nil {
			a.add(requests, rate)
		}
		return many, err
	})
}

func (m *measuring) flows(_ context.Context, w *way, a *account) error {
	return m.cost(w, a, flowCPU, func() (float64, error) {
		many, rate, err := m.connect(w)
		if err == nil {
			a.add(flows, rate)
		}
		return many, err
	})
}

func (m *measuring) connect(w *way) (many, rate float64, err error) {
	began := time.Now()
	err = m.lab.client.Do(func() error {
		n, err := exchanges(w.ends(portOnce, false), began.Add(m.options.slice))
		many = float64(n)
		return err
	})
	return many, many / time.Since(began).Seconds(), err
}

func (m *measuring) bulk(ctx context.Context, w *way, a *account) error {
	return m.stream(ctx, w, a, bulk, bulkCPU, 1)
}

func (m *measuring) manyBulk(ctx context.Context, w *way, a *account) error {
	return m.stream(ctx, w, a, manyBulk, manyBulkCPU, m.options.streams)
}

func (m *measuring) stream(ctx context.Context, w *way, a *account, speed, cpu quantity, streams int) error {
	return m.cost(w, a, cpu, func() (many float64, err error) {
		var bits float64
		if installed("iperf3") {
			many, bits, err = m.lab.iperf(ctx, w.target(portIperf), streams, m.options.slice)
		} else {
			began := time.Now()
			err = m.lab.client.Do(func() (err error) {
				bits, err = flood(w.ends(portFlood, false), streams, m.options.slice)
				return err
			})
			many = bits / 8 * time.Since(began).Seconds()
		}
		if err == nil {
			a.add(speed, bits)
		}
		return many, err
	})
}

func (m *measuring) latency(_ context.Context, w *way, a *account) error {
	return m.lab.client.Do(func() error {
		took, err := w.client.latency(m.options.slice, m.rate)
		for q, share := range map[quantity]float64{p50: 0.5, p99: 0.99, p999: 0.999} {
			a.add(q, quantile(took, share).Seconds())
		}
		return err
	})
}
