package state_test

import (
	"errors"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/splitd/splitd/internal/nettest"
	"github.com/splitd/splitd/state"
	"github.com/splitd/splitd/traffic"
)

var update = flag.Bool("update", false, "write the golden files anew")

// childEnv makes this test binary a splitd in miniature: see child.
const childEnv = "SPLITD_STATE_CHILD"

func TestMain(m *testing.M) {
	if dir := os.Getenv(childEnv); dir != "" {
		fmt.Println(child(dir))
		os.Exit(1)
	}
	nettest.Main(m)
}

// child opens the state in dir, says so, and changes the split until it is
// killed. It prints each generation once it is recorded.
func child(dir string) error {
	s, err := state.Open(filepath.Join(dir, "state.db"))
	if err != nil {
		return err
	}
	journal, err := state.OpenJournal(filepath.Join(dir, "history.jsonl"))
	if err != nil {
		return err
	}
	records, err := s.Records()
	if err != nil {
		return err
	}
	snapshots := state.NewSnapshotFile(filepath.Join(dir, "snapshot.json"))
	fmt.Println("open")
	for generation := records["mx"].Generation + 1; ; generation++ {
		entries, err := s.Commit([]state.Record{record("mx", generation)}, []state.Entry{set("mx", generation)})
		if err != nil {
			return err
		}
		if _, err := fmt.Println(generation); err != nil {
			return err
		}
		if err := save(snapshots, generation); err != nil {
			return err
		}
		if err := journal.Append(entries...); err != nil {
			return err
		}
	}
}

var noon = time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)

func definition(name string) traffic.Split {
	return traffic.Split{
		Name: name, Protocol: "smtp", Mode: traffic.ModeKernel, Affinity: traffic.AffinityNone, Return: traffic.ReturnPolicy,
		Primary: traffic.Backend{Name: "old", Local: true},
		Candidates: []traffic.Backend{{
			Name: "new", Addresses: []traffic.Address{{IP: addr("10.0.0.12")}, {IP: addr("2001:db8:1::12"), Port: 2525}},
		}},
		Service: traffic.Service{Addresses: []ip{addr("192.0.2.25"), addr("2001:db8::25")}, Ports: []traffic.Port{{Number: 25, Transport: traffic.TCP}}},
		Proxy:   traffic.Proxy{ConnectTimeout: 500 * time.Millisecond, Fallback: traffic.FallbackPrimary},
	}
}

// rich is a definition with all that says who is drawn, and how.
func rich(name string) traffic.Split {
	s := definition(name)
	s.Affinity, s.AffinityPrefix, s.AffinitySeed = traffic.AffinitySource, traffic.AffinityPrefix{IPv4: 24, IPv6: 48}, "2026"
	s.LocalClients, s.UDPTimeout = true, 30*time.Second
	s.Mirror = traffic.Mirror{To: addr("10.0.0.40"), Sample: 10_000}
	s.Service.Ports = append(s.Service.Ports, traffic.Port{Number: 40000, Last: 40100, Transport: traffic.UDP})
	s.Candidates[0].Closed = true
	s.Candidates[0].Clients = traffic.Clients{
		Always: []netip.Prefix{netip.MustParsePrefix("198.51.100.0/24"), netip.MustParsePrefix("2001:db8:7::/48")},
		Never:  []netip.Prefix{netip.MustParsePrefix("203.0.113.7/32")},
	}
	s.Slots = traffic.Slots{{First: 0, Last: 9, Candidate: "new"}, {First: 20, Last: 29, Candidate: "new"}}
	return s
}

func record(name string, generation traffic.Generation) state.Record {
	return state.Record{
		Name: name, Generation: generation, Definition: definition(name),
		Overrides: traffic.Overrides{"new": {Weight: 50_000, Actor: "root", Reason: "CHG-1", Since: noon}},
		Baseline:  map[string]uint64{"old": 400, "new": 12}, UpdatedAt: noon,
	}
}

// set is the change that led to the generation.
func set(split string, generation traffic.Generation) state.Entry {
	return state.Entry{
		Time: noon, Split: split, Generation: generation, Action: state.ActionSet,
		Before: state.Side{Weights: map[string]traffic.Weight{"new": 0}},
		After: state.Side{
			Overrides: traffic.Overrides{"new": {Weight: 50_000, Actor: "root", Since: noon}},
			Weights:   map[string]traffic.Weight{"new": 50_000},
		},
		UID: 0, User: "root", SudoUser: "ann", PID: 4711, Command: "splitctl set mx 5%", Reason: "CHG-1",
	}
}

func snapshot(generation traffic.Generation) state.Snapshot {
	split := definition("mx")
	split.Generation = generation
	return state.Snapshot{
		SavedAt: noon, Splits: []traffic.Split{split, rich("dns")},
		ReturnPaths: []traffic.ReturnPath{{Name: "from-old-mx", Via: addr("10.0.0.1"), Device: "eth0", Match: traffic.MatchAddress, Address: addr("10.0.0.12")}},
		MarkMask:    0xfff00000, RouteTable: 5300, RulePriority: 5200,
	}
}

// save does as the daemon does: behind what is there, or whole.
func save(f *state.SnapshotFile, generation traffic.Generation) error {
	s := snapshot(generation)
	err := f.Append(state.SnapshotChange{SavedAt: s.SavedAt, Splits: s.Splits[:1]})
	if errors.Is(err, state.ErrWriteWhole) {
		return f.Replace(s)
	}
	return err
}

func openStore(t testing.TB, path string) *state.Store {
	t.Helper()
	s, err := state.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func commit(t testing.TB, s *state.Store, records []state.Record, entries []state.Entry) []state.Entry {
	t.Helper()
	kept, err := s.Commit(records, entries)
	if err != nil {
		t.Fatal(err)
	}
	return kept
}
