package traffic_test

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/splitd/splitd/traffic"
)

func address(text string) traffic.Address {
	if a, err := netip.ParseAddrPort(text); err == nil {
		return traffic.Address{IP: a.Addr(), Port: a.Port()}
	}
	return traffic.Address{IP: netip.MustParseAddr(text)}
}

func twoCandidates(a, b traffic.Weight) traffic.Split {
	return traffic.Split{
		Name:       "mx",
		Primary:    traffic.Backend{Name: "old", Local: true},
		Candidates: []traffic.Backend{{Name: "a", Weight: a}, {Name: "b", Weight: b}},
	}
}

func TestThePrimaryTakesEveryShareThatNoCandidateTakes(t *testing.T) {
	s := twoCandidates(50_000, 10_000)
	if got := s.PrimaryWeight(); got != 940_000 {
		t.Errorf("PrimaryWeight = %d, want 940000", got)
	}
	if got := s.Backends()[0].Weight; got != 940_000 {
		t.Errorf("weight of the first backend = %d, want the primary's 940000", got)
	}
}

func TestWithWeightsChangesACopyAndRefusesWhatDoesNotFit(t *testing.T) {
	s := twoCandidates(50_000, 10_000)
	got, err := s.WithWeights(map[string]traffic.Weight{"a": 900_000})
	if err != nil || got.CandidateWeight() != 910_000 {
		t.Errorf("WithWeights = %d, %v, want 910000", got.CandidateWeight(), err)
	}
	if s.CandidateWeight() != 60_000 {
		t.Errorf("the original has changed to %d", s.CandidateWeight())
	}
	for want, weights := range map[string]map[string]traffic.Weight{
		"over 100%":               {"a": 999_999},
		`no candidate "c"`:        {"c": 1},
		"between 0% and 100%":     {"a": -1},
		`candidates are "a", "b"`: {"old": 1},
	} {
		if _, err := s.WithWeights(weights); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("WithWeights(%v) says %v, want %q in it", weights, err, want)
		}
	}
}

func TestABackendStaysHereWhenNothingWouldBeTranslated(t *testing.T) {
	service := netip.MustParseAddr("192.0.2.25")
	tests := []struct {
		name    string
		backend traffic.Backend
		want    bool
	}{
		{"local", traffic.Backend{Local: true}, true},
		{"the service's own address", traffic.Backend{Addresses: []traffic.Address{address("192.0.2.25")}}, true},
		{"the service's own address and port", traffic.Backend{Addresses: []traffic.Address{address("192.0.2.25:25")}}, true},
		{"its own address at another port", traffic.Backend{Addresses: []traffic.Address{address("192.0.2.25:2525")}}, false},
		{"another address", traffic.Backend{Addresses: []traffic.Address{address("10.0.0.12")}}, false},
		{"another family", traffic.Backend{Addresses: []traffic.Address{address("2001:db8::1")}}, false},
	}
	for _, tt := range tests {
		if got := (traffic.Split{}).StaysHere(tt.backend, service, 25); got != tt.want {
			t.Errorf("%s: StaysHere = %v, want %v", tt.name, got, tt.want)
		}
	}
}

func TestAddressesAreWrittenAsInAConfiguration(t *testing.T) {
	for _, text := range []string{"10.0.0.12", "10.0.0.12:2525", "2001:db8::1", "[2001:db8::1]:2525"} {
		if got := address(text).String(); got != text {
			t.Errorf("address %q is written %q", text, got)
		}
	}
}

func TestNamesFitChainsLabelsAndShells(t *testing.T) {
	for _, name := range []string{"mx", "a", "web-1", "old_mx", strings.Repeat("a", 63)} {
		if err := traffic.CheckName(name); err != nil {
			t.Errorf("CheckName(%q) = %v, want it accepted", name, err)
		}
	}
	for _, name := range []string{"", "1a", "-a", "MX", "a b", "a/b", "ä", "a.b", "a\n", strings.Repeat("a", 64)} {
		if err := traffic.CheckName(name); err == nil {
			t.Errorf("CheckName(%q) accepts it", name)
		}
	}
}

func TestWhoseWeightIsInForce(t *testing.T) {
	noon := time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)
	set := func(w traffic.Weight) traffic.Override { return traffic.Override{Weight: w, Since: noon} }
	off := traffic.Override{Since: noon, Off: true}
	tests := []struct {
		name      string
		a, b      traffic.Weight
		pinned    bool
		overrides traffic.Overrides
		want      map[string]traffic.Weight
	}{
		{"the file's without an override", 50_000, 0, false, nil, map[string]traffic.Weight{"a": 50_000, "b": 0}},
		{"the operator's above the file's", 50_000, 0, false, traffic.Overrides{"a": set(10)}, map[string]traffic.Weight{"a": 10, "b": 0}},
		{"the file's when it is pinned", 50_000, 0, true, traffic.Overrides{"a": set(10)}, map[string]traffic.Weight{"a": 50_000, "b": 0}},
		{"off above all", 50_000, 0, true, traffic.Overrides{"a": off}, map[string]traffic.Weight{"a": 0, "b": 0}},
		{"never more than the whole", 500_000, 500_000, false, traffic.Overrides{"b": set(900_000)}, map[string]traffic.Weight{"a": 100_000, "b": 900_000}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := twoCandidates(tt.a, tt.b)
			s.Pinned = tt.pinned
			if diff := cmp.Diff(tt.want, traffic.Effective(s, tt.overrides).Weights()); diff != "" {
				t.Errorf("weights (-want +got):\n%s", diff)
			}
		})
	}
}

func TestWhoseSampleIsInForceAndThatItIsNoWeight(t *testing.T) {
	noon := time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)
	word := traffic.Override{Weight: traffic.Whole, Since: noon}
	for name, tt := range map[string]struct {
		pinned   bool
		override traffic.Override
		want     traffic.Weight
	}{
		"the file's without an override":    {false, traffic.Override{}, 10},
		"the operator's above the file's":   {false, word, traffic.Whole},
		"the file's when it is pinned":      {true, word, 10},
		"off above all":                     {true, traffic.Override{Since: noon, Off: true}, 0},
		"an operator's 0 above the file's":  {false, traffic.Override{Since: noon}, 0},
		"the file's when the file pins 10":  {true, traffic.Override{Since: noon}, 10},
		"an operator's of all but one part": {false, traffic.Override{Since: noon, Weight: traffic.Whole - 1}, traffic.Whole - 1},
	} {
		s := twoCandidates(600_000, 400_000)
		s.Sample, s.Pinned = 10, tt.pinned
		overrides := traffic.Overrides{}
		if !tt.override.Since.IsZero() {
			overrides[traffic.SampleKey] = tt.override
		}
		got := traffic.Effective(s, overrides)
		if got.Sample != tt.want || got.CandidateWeight() != traffic.Whole {
			t.Errorf("%s: sample %s beside %s, want %s beside all", name, got.Sample, got.CandidateWeight(), tt.want)
		}
	}
	if traffic.CheckName(traffic.SampleKey) == nil {
		t.Errorf("a candidate may be called %q: its override would be the sample's", traffic.SampleKey)
	}
}

func TestPruneKeepsTheSampleAsLongAsSomebodyMayBePlayed(t *testing.T) {
	noon := time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)
	free := twoCandidates(0, 0)
	free.Service.Ports = []traffic.Port{{Number: 80, Transport: traffic.TCP}}
	named := free
	named.Shadow.To = "a"
	for name, tt := range map[string]struct {
		split    traffic.Split
		override traffic.Override
		want     bool
	}{
		"to one that is named":             {named, traffic.Override{Since: noon, Weight: 5}, true},
		"to nobody":                        {free, traffic.Override{Since: noon, Weight: 5}, false},
		"to nobody, but switched off":      {free, traffic.Override{Since: noon, Off: true}, true},
		"to one that is named, till noon":  {named, traffic.Override{Since: noon, Weight: 5, Until: noon}, false},
		"to one that is named, till later": {named, traffic.Override{Since: noon, Weight: 5, Until: noon.Add(1)}, true},
	} {
		kept := traffic.Overrides{traffic.SampleKey: tt.override}.Prune(tt.split, noon)
		if _, is := kept[traffic.SampleKey]; is != tt.want {
			t.Errorf("%s: kept %v, want %v", name, is, tt.want)
		}
	}
}

func TestPruneDropsWhatHasEndedAndWhatNobodyHas(t *testing.T) {
	noon := time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)
	overrides := traffic.Overrides{
		"a": {Since: noon, Until: noon.Add(time.Minute)},
		"b": {Since: noon, Until: noon},
		"c": {Since: noon},
	}
	kept := overrides.Prune(twoCandidates(0, 0), noon)
	if _, ok := kept["a"]; len(kept) != 1 || !ok {
		t.Errorf("Prune kept %v, want a alone", kept)
	}
}
