package daemon

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/splitd/splitd/control/api"
	"github.com/splitd/splitd/control/items"
	"github.com/splitd/splitd/health"
	"github.com/splitd/splitd/metrics"
	"github.com/splitd/splitd/netfilter"
	"github.com/splitd/splitd/netfilter/doctor"
	"github.com/splitd/splitd/splitter"
	"github.com/splitd/splitd/state"
	"github.com/splitd/splitd/traffic"
)

// reading is one look at everything that can be counted.
type reading struct {
	view     *view
	at       time.Time
	counts   map[traffic.BackendKey]traffic.Counts
	countErr error
	tend     *tender                                   // knows what drains have ended
	leftOut  map[traffic.BackendKey][]splitter.LeftOut // by the relay
	shutOut  map[string]map[traffic.Refusal]time.Time  // by the relay, of each split
	evidence map[string][]traffic.Evidence             // by split
	drift    []string                                  // what differs between the wanted and the real kernel state
	driftErr error
	ofPaths  map[string]int // which of drift is about one return path alone, by line
	health   map[string][]health.Status
	found    *findings // what the kernel leaves out
	sampled  *sampling
	shadows  *shadows
	host     []string // what the host check found, see sorted
	hostErr  error    // why this host cannot carry the splits any more
}

// read looks at counters and kernel. A look during which a change was made
// compares one state's wish with another's kernel, so it is taken again.
func (d *Daemon) read(ctx context.Context) reading {
	const tries = 3
	for try := 1; ; try++ {
		before := d.steps.Load()
		r := d.looks.share(func() reading { return d.look(context.WithoutCancel(ctx)) })
		if try == tries || before%2 == 0 && d.steps.Load() == before {
			return r
		}
	}
}

func (d *Daemon) look(ctx context.Context) reading {
	r := reading{view: d.view.Load(), at: d.now(), found: d.planes.found.Load(), sampled: d.planes.sampled(), tend: d.tend, shadows: d.shadows}
	splits := r.view.splits()
	r.counts, r.countErr = d.planes.counts(ctx, splits)
	r.leftOut, r.shutOut = d.planes.relay.LeftOut(), d.planes.relay.ShutOut()
	r.evidence = d.planes.evidence(ctx, splits)
	r.drift, r.driftErr = d.planes.differences(ctx, splits, r.view.paths)
	r.ofPaths = netfilter.LinesOfPaths(r.view.paths, netfilter.Settings(d.options.Config.Netfilter))
	r.health = map[string][]health.Status{}
	for _, s := range splits {
		r.health[s.Name] = d.health.Of(s.Name)
	}
	r.host, r.hostErr = d.planes.glance(splits, r.view.paths, repliesOf(r.evidence))
	return r
}

// inSync says whether the kernel does what is wanted; nil in proxy mode, unless
// the relay is transparent, and when it cannot be read.
func (r reading) inSync(split traffic.Split) *bool {
	if split.Mode != traffic.ModeKernel && !split.Transparent() || r.driftErr != nil {
		return nil
	}
	return new(!slices.ContainsFunc(r.drift, func(line string) bool { _, ofPath := r.ofPaths[line]; return !ofPath }))
}

// pathInSync says the same of a return path, by its place in the list.
func (r reading) pathInSync(i int) *bool {
	if r.driftErr != nil {
		return nil
	}
	return new(!slices.ContainsFunc(r.drift, func(line string) bool { of, known := r.ofPaths[line]; return !known || of == i }))
}

// observed is the candidates' share of the flows since the generation began,
// in parts per million; nil at no flow and where a counter is unknown.
func (r reading) observed(record state.Record) *int {
	var candidates, all uint64
	for i, b := range record.Definition.Backends() {
		counts, known := r.counts[traffic.BackendKey{Split: record.Name, Backend: b.Name}]
		if !known {
			return nil
		}
		flows := counts.Flows
		if began := record.Baseline[b.Name]; began <= flows { // else the counters began again
			flows -= began
		}
		all += flows
		if i > 0 {
			candidates += flows
		}
	}
	if all == 0 {
		return nil
	}
	return new(int(candidates * uint64(traffic.Whole) / all))
}

// Splits returns the state of one split, or of all.
func (d *Daemon) Splits(ctx context.Context, name string) (api.SplitList, error) {
	r := d.read(ctx)
	names := r.view.names()
	if name != "" {
		record, err := r.view.find(name)
		if err != nil {
			return api.SplitList{}, err
		}
		names = []string{record.Name}
	}
	list := api.SplitList{Envelope: api.Of(api.KindSplitList), Items: []api.Split{}, Warnings: d.warnings(r)}
	for _, n := range names {
		list.Items = append(list.Items, r.item(n))
	}
	if name == "" {
		list.ReturnPaths = r.returnPaths()
	}
	return list, nil
}

// returnPaths are what the new host's side of splitd does.
func (r reading) returnPaths() []api.ReturnPath {
	paths := make([]api.ReturnPath, 0, len(r.view.paths))
	for i, p := range r.view.paths {
		path := api.ReturnPath{Name: p.Name, Device: p.Device, Match: string(p.Match)}
		if p.Via.IsValid() {
			path.Via = p.Via.String()
		}
		if p.Address.IsValid() {
			path.Address = p.Address.String()
		}
		path.InSync = r.pathInSync(i)
		paths = append(paths, path)
	}
	return paths
}

// warnings are what an operator should know about the daemon as a whole.
func (d *Daemon) warnings(r reading) []string {
	var warnings []string
	if r.hostErr != nil {
		warnings = append(warnings, r.hostErr.Error())
	}
	if host, notes := sorted(r.host); len(host)+len(r.view.auto) > 0 { // notes alone are the plan's
		warnings = append(warnings, aboutHost(host, len(notes)+len(r.view.auto)))
	}
	if last := d.reloads.Load(); !last.OK {
		warnings = append(warnings, last.refused(r.view.running, d.options.Sources))
	}
	if err := d.storeTrouble(); errors.Is(err, state.ErrGone) {
		warnings = append(warnings, "changes are not recorded: "+err.Error())
	} else if err != nil {
		warnings = append(warnings, "weights can only be lowered until the store can be written: "+err.Error())
	}
	if r.countErr != nil {
		warnings = append(warnings, "counters are incomplete: "+r.countErr.Error())
	}
	if r.driftErr != nil {
		warnings = append(warnings, "the kernel's state is unknown: "+r.driftErr.Error())
	}
	if len(r.drift) > 0 {
		warnings = append(warnings, "the kernel differs from what is wanted: `splitctl plan` shows how; splitd goes on mending it, `splitctl doctor` says what of this host stands in the way")
	}
	return warnings
}

// item is one split as the API shows it.
func (r reading) item(name string) api.Split {
	record := r.view.records.get(name)
	split, shadow := r.view.split(name), r.shadows.faring(name)
	item := api.Split{
		Name: name, Mode: string(split.Mode), ModeConfigured: string(record.Definition.Mode), Protocol: split.Protocol,
		Service: serviceItem(split.Service), Draw: items.Draw(split), Generation: uint64(record.Generation), WeightPPM: int(split.CandidateWeight()),
		ObservedPPM: r.observed(record), Origin: originItem(record), Pinned: split.Pinned,
		Flows:  api.Flows{AsOf: r.at},
		Health: healthItem(split),
		Shadow: shadowItem(record, split, shadow), Definition: r.view.places[name].String(), DiffersFrom: r.view.differsFrom,
	}
	if split.Mode == traffic.ModeKernel || split.Transparent() {
		item.Kernel = &api.Kernel{InSync: r.inSync(split)}
	}
	if trouble := r.sampled.trouble(split); trouble != "" {
		item.Warnings = append(item.Warnings, trouble)
	}
	statuses, replies := statusesBy(r.health[name]), doctor.RepliesOf(r.evidence[name])
	split = health.Withdraw(split, r.found.down)
	for i, b := range split.Backends() {
		one := r.backendItem(record, b, i > 0)
		describeHealth(&one, statuses[b.Name])
		out := r.leftOut[traffic.BackendKey{Split: name, Backend: b.Name}]
		one.LeftOut = leftOutItems(leftOutOf(b, out))
		item.Backends = append(item.Backends, one)
		if warning := leftOutWarning(b, out, r.at); warning != "" {
			item.Warnings = append(item.Warnings, warning)
		}
		if one.State == string(health.Down) {
			item.Warnings = append(item.Warnings, downWarning(split, one))
		} else if !b.Local && doctor.Silent(replies, split, b.Name) {
			item.Warnings = append(item.Warnings, fmt.Sprintf("nothing came back through this host for any of the flows that %q was given: it lacks a return path, or does not answer clients: see `splitctl doctor`", b.Name))
		}
	}
	item.Warnings = append(item.Warnings, shutOutWarnings(r.shutOut[name], r.at)...)
	switch why := item.Shadow.Reason; {
	case why != "" && shadow.fault:
		item.Warnings = append(item.Warnings, fmt.Sprintf("flows are not played to %q: %s", item.Shadow.To, why))
	case why != "":
		item.Warnings = append(item.Warnings, fmt.Sprintf("flows are not played to %q, but one now and then to see whether it answers again: %s", item.Shadow.To, why))
	}
	if why := shadow.away; why != "" {
		item.Warnings = append(item.Warnings, fmt.Sprintf("what is known of the shadow at %q, and its report, is of some time ago: %s", split.Shadow.To, why))
	}
	item.Warnings = append(item.Warnings, certificateWarnings(item.Shadow.TLS, r.at)...)
	item.Warnings = append(item.Warnings, blindness(item.Shadow.TLS, split)...)
	for _, e := range r.evidence[name] {
		item.Evidence = append(item.Evidence, items.Evidence(e))
	}
	if split.Mode != traffic.ModeProxy && r.countErr == nil && slices.ContainsFunc(item.Backends, func(b api.Backend) bool { return b.FlowsActive != nil && b.BytesIn == nil }) {
		item.Flows.Note = noteBytes
	}
	item.Flows.Total = sumOf(item.Backends, func(b api.Backend) *uint64 { return b.FlowsTotal })
	item.Flows.Active = sumOf(item.Backends, func(b api.Backend) *uint64 { return b.FlowsActive })
	return item
}

// noteBytes says why a kernel's flows have no bytes.
const noteBytes = "bytes are not counted: `sysctl -w net.netfilter.nf_conntrack_acct=1` counts them for flows that begin afterwards"

func (r reading) backendItem(record state.Record, b traffic.Backend, candidate bool) api.Backend {
	counts, known := r.counts[traffic.BackendKey{Split: record.Name, Backend: b.Name}]
	item := api.Backend{
		Name: b.Name, Role: string(traffic.RolePrimary), Addresses: b.AddressTexts(), WeightPPM: int(b.Weight),
		FlowsActive: counts.Active, BytesIn: counts.BytesIn, BytesOut: counts.BytesOut,
		ConnectFailed: counts.ConnectFailed, HalfOpen: counts.HalfOpen,
		Unanswered: counts.Unanswered, Refused: counts.Refused, Resets: counts.Resets, Closed: b.Closed,
	}
	if known {
		item.FlowsTotal = &counts.Flows
	}
	for _, ip := range b.Down {
		item.Withdrawn = append(item.Withdrawn, ip.String())
	}
	if candidate {
		item.Role = string(traffic.RoleCandidate)
		item.Origin = new(overrideItem(record, record.Overrides[b.Name]))
		item.Clients = items.Clients(b.Clients)
	}
	if o := record.Overrides[b.Name]; candidate && o.Drain {
		item.Drain = &api.Drain{Since: o.Since, RatePerSecond: o.Rate, Ended: r.tend.endedBy(traffic.BackendKey{Split: record.Name, Backend: b.Name}, o.Since)}
		if !o.KillAt.IsZero() {
			item.Drain.KillAt = &o.KillAt
		}
	}
	return item
}

// originItem says which layer decided the weights of a split.
func originItem(record state.Record) api.Origin {
	o, _ := newest(record)
	return overrideItem(record, o)
}

// overrideItem says which layer decided one weight: the override's operator,
// or the file when there is none in force.
func overrideItem(record state.Record, o traffic.Override) api.Origin {
	if o.Since.IsZero() || !o.Holds(record.Definition) {
		return api.Origin{Layer: string(traffic.LayerFile), Since: &record.UpdatedAt}
	}
	origin := api.Origin{Layer: string(traffic.LayerOperator), Actor: o.Actor, Reason: o.Reason, Since: &o.Since}
	if !o.Until.IsZero() {
		origin.Until = &o.Until
	}
	return origin
}

func serviceItem(s traffic.Service) api.Service {
	item := api.Service{Addresses: make([]string, 0, len(s.Addresses)), Ports: make([]string, 0, len(s.Ports))}
	for _, a := range s.Addresses {
		item.Addresses = append(item.Addresses, a.String())
	}
	for _, p := range s.Ports {
		item.Ports = append(item.Ports, p.String())
	}
	return item
}

// sumOf adds up one count of the backends; nil when it is unknown of any.
func sumOf(backends []api.Backend, count func(api.Backend) *uint64) *uint64 {
	var sum uint64
	for _, b := range backends {
		n := count(b)
		if n == nil {
			return nil
		}
		sum += *n
	}
	return &sum
}

// Sample is one look at everything for the metrics.
func (d *Daemon) Sample(ctx context.Context) metrics.Sample {
	r := d.read(ctx)
	sample := metrics.Sample{LastReload: d.lastReload(), StartedAt: d.options.Version.StartedAt, StoreOK: d.storeTrouble() == nil, KernelMended: d.mended.Load() + d.planes.mended(), ChecksLate: d.health.Late()}
	if r.driftErr == nil {
		sample.KernelDrift = new(len(r.drift))
	}
	for _, failed := range []error{r.countErr, r.driftErr} {
		if failed != nil {
			sample.Failures++
		}
	}
	faults, refused := d.planes.relay.Faults(), d.planes.relay.Refusals()
	sample.RelayFaults = map[string]uint64{
		"accept": faults.Accepts, "connect": faults.Dials, "splice": faults.Splices, "datagram": faults.Datagrams, "panic": faults.Panics, "log": faults.Unsaid,
	}
	sample.ShadowBudget = d.shadows.memory()
	tees := d.planes.relay.TeeCounts()
	for _, split := range r.view.splits() {
		counts, killed := map[string]traffic.Counts{}, map[string]uint64{}
		for _, b := range split.Backends() {
			if c, known := r.counts[traffic.BackendKey{Split: split.Name, Backend: b.Name}]; known {
				counts[b.Name] = c
			}
		}
		for _, c := range split.Candidates {
			killed[c.Name] = r.tend.endedAll(traffic.BackendKey{Split: split.Name, Backend: c.Name})
		}
		sample.Splits = append(sample.Splits, metrics.Split{
			State: split, Mode: split.Mode, Counts: counts, Health: healthSamples(r.health[split.Name]),
			ObservedPPM: r.observed(r.view.records.get(split.Name)), InSync: r.inSync(split), Refused: refused[split.Name], Killed: killed,
			Shadow: d.shadows.sample(split.Name, tees),
		})
	}
	return sample
}
