package main

import (
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/splitd/splitd/control/api"
	"github.com/splitd/splitd/control/controltest"
	"github.com/splitd/splitd/traffic"
)

// sceneOf makes the daemon of a script: the first word is the scene, the
// others are its splits, as in "mx" or "mx:new,other".
func sceneOf(args []string) (*controltest.Operator, error) {
	var splits []traffic.Split
	for i, text := range args[1:] {
		splits = append(splits, splitOf(text, i))
	}
	operator := controltest.New(clock, splits...)
	switch args[0] {
	case "plain":
	case "counted":
		operator.Decorate = counted
	case "drawn":
		drawn(splits)
		operator = controltest.New(clock, splits...)
	case "followed":
		operator.Decorate = followed
		operator.ClientFlows = func(list *api.WhereList) {
			list.Items[0].Flows = []api.ClientFlow{{
				Backend: "new", Generation: 3, Transport: "tcp", Client: "203.0.113.7:40000", Service: "192.0.2.25:25", Server: "10.0.0.12:25",
				HalfOpen: true, BytesIn: new(uint64(60)), BytesOut: new(uint64(0)),
			}, {
				Backend: "old", Generation: 3, Transport: "tcp", Client: "203.0.113.7:40001", Via: "198.51.100.80:50000", Service: "192.0.2.25:25", Server: "10.0.0.11:25",
			}}
		}
	case "odd":
		operator.Decorate = odd
	case "noisy":
		operator.Decorate = noisy
	case "unread":
		operator.Decorate = unread
	case "planned":
		operator.PlanAnswer = api.Plan{
			Nft: "table inet splitd {\n}\n", Rules: []string{"ip rule add priority 5200 from 10.0.0.12 table 5300"},
			Routes: []string{"ip route add default via 10.0.0.1 dev eth0 table 5300"}, Notes: []string{"conntrack is on for the whole host"},
			Differences: []string{},
		}
	case "drifted":
		operator.PlanAnswer = api.Plan{Nft: "table inet splitd {\n}\n", Differences: []string{"chain split/mx: rule 1 is missing"}}
	case "sick":
		operator.DoctorAnswer = api.Doctor{Items: append(queasy(), api.Finding{
			ID: "forwarding-off", Level: "error", Where: "router", Seen: `split "mx" sends flows to 10.0.0.12 but this host does not forward IPv4`,
			Why: "flows that are sent on end here", Cure: "sysctl -w net.ipv4.ip_forward=1", Advice: "run `sysctl -w net.ipv4.ip_forward=1`",
		})}
	case "queasy":
		operator.DoctorAnswer = api.Doctor{Items: queasy()}
	case "applying":
		operator.ApplyText = apply
	case "broken":
		operator.Broken = fmt.Errorf("set weights of %q: netlink receive: device or resource busy", "mx")
	default:
		reports, ok := reportScenes()[args[0]]
		if !ok {
			return nil, fmt.Errorf("there is no scene %q", args[0])
		}
		operator.ReportOf = reports
	}
	return operator, nil
}

func queasy() []api.Finding {
	return []api.Finding{
		{ID: "conntrack-loose", Level: "note", Where: "router", Seen: "nf_conntrack_tcp_loose is 1"},
		{ID: "hairpin", Level: "ok", Where: "router", Seen: "clients and backends on one link"},
		{ID: "backend-silent", Level: "warning", Where: "router", Seen: "10.0.0.12 does not answer"},
		{ID: "path-mtu", Level: "ok", Where: "router", Seen: "the size of packets on the way to backends"},
	}
}

func clock() time.Time { return time.Date(2026, 11, 20, 14, 0, 0, 0, time.UTC) }

func splitOf(text string, i int) traffic.Split {
	name, candidates, _ := strings.Cut(text, ":")
	if candidates == "" {
		candidates = "new"
	}
	s := traffic.Split{
		Name: name, Protocol: "smtp", Mode: traffic.ModeKernel, Affinity: traffic.AffinityNone,
		Service: traffic.Service{
			Addresses: []netip.Addr{netip.AddrFrom4([4]byte{192, 0, 2, byte(25 + i)}), netip.MustParseAddr(fmt.Sprintf("2001:db8::%d", 25+i))},
			Ports:     []traffic.Port{{Number: 25, Transport: traffic.TCP}},
		},
		Primary: traffic.Backend{Name: "old", Local: true},
	}
	if !strings.Contains(candidates, ",") {
		s.Shadow.To = candidates
	}
	for n, c := range strings.Split(candidates, ",") {
		s.Candidates = append(s.Candidates, traffic.Backend{Name: c, Addresses: []traffic.Address{{IP: netip.AddrFrom4([4]byte{10, 0, 0, byte(12 + n)})}}})
	}
	return s
}

// counted gives a split what the kernel data plane counts.
func counted(s *api.Split) {
	observed, active, old := 49876, uint64(118), uint64(110)
	s.ObservedPPM = &observed
	s.Flows.Total, s.Flows.Active = new(uint64(412330)), &active
	s.Backends[0].FlowsTotal, s.Backends[0].FlowsActive = new(uint64(391764)), &old
	left := active - old
	s.Backends[1].FlowsTotal, s.Backends[1].FlowsActive = new(uint64(20566)), &left
	s.Definition = "/etc/splitd/conf.d/mx.yaml:3"
	// Whoever runs the test.
	s.Origin.Actor = "root"
	s.Backends[1].Origin.Actor = "root"
	if s.Shadow.Origin != nil {
		s.Shadow.Origin.Actor = "root"
	}
	if s.Shadow.SamplePPM > 0 {
		s.Shadow.Differs = &api.Differing{Exchanges: 6, Of: 1000}
	}
}

// drawn gives every split all that a definition can say about who is drawn.
func drawn(splits []traffic.Split) {
	for i := range splits {
		s := &splits[i]
		s.Affinity, s.AffinityPrefix, s.AffinitySeed = traffic.AffinitySource, traffic.AffinityPrefix{IPv4: 24, IPv6: 64}, "2026"
		s.Service.Ports = append(s.Service.Ports, traffic.Port{Number: 40000, Last: 40100, Transport: traffic.TCP}, traffic.Port{Number: 53, Transport: traffic.UDP})
		s.LocalClients, s.UDPTimeout = true, 30*time.Second
		s.Mirror = traffic.Mirror{To: netip.MustParseAddr("10.0.0.40"), Sample: 10_000}
		s.Slots = traffic.Slots{{First: 0, Last: 49_999, Candidate: "new"}, {First: 60_000, Last: 69_999, Candidate: "other"}}
		s.Candidates[0].Clients.Always = []netip.Prefix{netip.MustParsePrefix("198.51.100.0/24"), netip.MustParsePrefix("2001:db8:7::/48")}
		s.Candidates[1].Clients.Never = []netip.Prefix{netip.MustParsePrefix("203.0.113.7/32")}
		s.Candidates[1].Addresses = append(s.Candidates[1].Addresses, traffic.Address{IP: netip.MustParseAddr("10.0.1.13")})
	}
}

// followed gives a split what conntrack tells: a candidate that is closed has
// no open flow any more.
func followed(s *api.Split) {
	for i := range s.Backends {
		b := &s.Backends[i]
		b.FlowsActive = new(uint64(5))
		if b.Closed {
			b.FlowsActive = new(uint64(0))
			b.Drain.Ended = 5
		}
		b.Unanswered, b.Refused, b.Resets, b.HalfOpen = new(uint64(1)), new(uint64(2)), new(uint64(3)), new(uint64(4))
	}
	s.Flows.Note = "bytes are not counted"
	s.Evidence = []api.Evidence{{
		Backend: "new", Generation: 3, Flows: 20, Active: 5, HalfOpen: 4, Ended: 15, Unanswered: 1, Refused: 2, Resets: 3,
		Lifetime: &api.Lifetimes{Known: 15, P50: new(15.0), P95: new(1800.0)},
	}, {Backend: "old", Flows: 7, Lifetime: &api.Lifetimes{Known: 1}}}
}

// noisy gives every split the same differences and a warning of several lines.
func noisy(s *api.Split) {
	s.DiffersFrom = "/etc/splitd/splitd.yaml"
	if s.Name == "mx" {
		s.Warnings = []string{"the candidate is down:\nconnection refused"}
	}
}

// unread gives a split whose kernel and counters could not be read.
func unread(s *api.Split) {
	s.Flows.Total, s.Kernel.InSync = nil, nil
	for i := range s.Backends {
		s.Backends[i].FlowsTotal = nil
	}
}

// odd gives a split everything that asks for attention, and a proxy's counts.
func odd(s *api.Split) {
	in, out, failed := uint64(1<<40), uint64(7), uint64(3)
	s.ModeConfigured = "auto"
	s.Kernel.InSync = new(false)
	s.DiffersFrom = "/etc/splitd/conf.d/mx.yaml:3"
	s.Warnings = []string{"the candidate \"new\" is down\x1b[31m"}
	b := &s.Backends[1]
	since := time.Date(2026, 11, 20, 13, 59, 0, 0, time.UTC)
	s.Health = &api.Health{Check: "tcp", IntervalSeconds: 2, TimeoutSeconds: 0.5, Fall: 2, Rise: 3, WhenDown: "primary"}
	b.Checks = []api.Check{
		{Address: "10.0.0.12", Port: 25, State: "down", Since: since, Reason: "connect to 10.0.0.12:25: connection\nrefused"},
		{Address: "2001:db8:1::12", Port: 2525, State: "checking", Since: since, Trouble: "no file descriptor"},
	}
	b.State, b.BytesIn, b.BytesOut, b.ConnectFailed = "down", &in, &out, &failed
}

// apply knows two texts.
func apply(name, text string) (api.Apply, error) {
	switch {
	case text == "":
		return api.Apply{Changed: true, Items: []api.Change{{Split: "mx", Changed: true, Generation: 2, WeightPPM: 10000, Warnings: []string{"ip_forward is off"}}}}, nil
	case strings.Contains(text, "bad"):
		return api.Apply{}, &api.Error{Code: api.CodeFailed, Message: name + ":1:1: bad: unknown key\n" + name + ":2:1: worse: unknown key"}
	}
	if strings.Contains(text, "return_paths") {
		return api.Apply{Changed: true, Items: []api.Change{}}, nil
	}
	return api.Apply{Warnings: []string{"read " + name}}, nil
}
